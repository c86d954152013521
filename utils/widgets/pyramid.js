// The pyramid explorer: a window to drag, its cells on the map, the bins of every level, and what is pooled in them.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "pyramid", "A window on a feature map and its spatial pyramid");
  const stride = view.get("stride"), [columns, rows] = view.get("size").map((side) => Math.ceil(side / stride));
  const canvas = photograph(picture, view);
  const ground = clipped(canvas, view);
  const veil = svg("image", { x: -stride / 2, y: -stride / 2, width: columns * stride, height: rows * stride, preserveAspectRatio: "none" }, ground);
  veil.style.imageRendering = "pixelated";
  const layer = svg("g", {}, ground);
  draggableBox(canvas, view, "window", "W", COLOURS.vermillion, { label: "The window" });

  const sum = html("p", { class: "dl-sum", "data-value": "length" }, panel);
  const say = spoken(panel);
  const row = html("div", { class: "dl-row" }, panel);
  choice(row, view, "level", "bins in the picture", view.get("levels").map((n) => [String(n), `${n} × ${n}`]));
  slider(panel, view, "channel", "channel", { min: 0, max: view.get("channels") - 1, step: 1 });
  const bare = html("label", {}, html("div", { class: "dl-row" }, panel));
  const box = html("input", { type: "checkbox", "data-choice": "map" }, bare);
  bare.append(" show this channel's map on the picture");
  const small = html("div", { class: "dl-small dl-three" }, panel);
  html("p", { class: "dl-hint" }, panel, "Dots: the map's cells, each in the middle of what it sees. Orange: the window's cells, those with their dot inside. White: the bins of one level; a darker seam is a cell that two bins share. Keys: Tab, arrows, Shift, Alt or Ctrl to resize.");
  errors(panel, view);
  box.addEventListener("change", draw);
  redraw(view, ["bins", "level", "veil"], draw);
  return view.end;

  function draw() {
    sum.textContent = view.get("equation");
    say.textContent = view.get("message");
    veil.setAttribute("href", view.get("veil"));
    veil.style.display = box.checked ? "" : "none";
    layer.replaceChildren();
    const [left, top, right, bottom] = inPixels(view.get("cells"));
    svg("rect", { "data-cells": "window", x: left, y: top, width: right - left, height: bottom - top, fill: COLOURS.orange, "fill-opacity": 0.35 }, layer);
    small.replaceChildren();
    for (const level of view.get("bins")) {
      if (String(level.n) === view.get("level")) for (const bin of level.bins) thin(layer, inPixels(bin), "#fff", { "data-bin": level.n, fill: "#000", "fill-opacity": 0.16, "stroke-width": 1.8 });
      drawLevel(level);
    }
    dots();
  }

  /** Cell i is drawn about pixel i * stride, the middle of what it sees. */
  function inPixels(cells) {
    return cells.map((end) => (end - 0.5) * stride);
  }

  function dots() {
    let path = "";
    for (let x = 0; x < columns; x += 1) for (let y = 0; y < rows; y += 1) path += `M${x * stride} ${y * stride}h0`;
    svg("path", { d: path, stroke: "#000", "stroke-opacity": 0.6, "stroke-width": 4.5, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" }, layer);
    svg("path", { d: path, stroke: "#fff", "stroke-width": 2.5, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" }, layer);
  }

  /** The n x n pooled values of one channel, as squares; brighter is larger. */
  function drawLevel({ n, values }) {
    const one = html("figure", { class: String(n) === view.get("level") ? "dl-chosen" : "", "data-level": n }, small);
    const canvas = svg("svg", { viewBox: `0 0 ${n} ${n}`, role: "img", "aria-label": `${n} × ${n} bins: ${values.map((value) => value.toFixed(1)).join(", ")}` }, one);
    const grid = svg("g", {}, canvas), strongest = Math.max(view.get("strongest"), 1e-6);
    values.forEach((value, i) => {
      const share = Math.min(1, Math.max(0, value / strongest)), x = i % n, y = Math.floor(i / n);
      svg("rect", { "data-value": "bin", x, y, width: 0.97, height: 0.97, fill: `color-mix(in srgb, ${COLOURS.blue} ${Math.round(100 * share)}%, #fff)` }, grid);
      svg("text", { x: x + 0.485, y: y + 0.59, "text-anchor": "middle", "font-size": Math.min(0.3, n / 8), fill: share < 0.9 ? "#000" : "#fff" }, grid).textContent = value.toFixed(1);
    });
    html("figcaption", {}, one, `${n} × ${n}`);
  }
}

export default { render };

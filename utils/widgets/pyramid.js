// The pyramid explorer: a window to drag, its cells on the map, the bins of every level, and what is pooled in them.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "pyramid", "A window on a feature map and its spatial pyramid");
  const size = view.get("size");
  const canvas = photograph(picture, view);
  const veil = svg("image", { x: 0, y: 0, width: size[0], height: size[1], preserveAspectRatio: "none", "pointer-events": "none" }, canvas);
  veil.style.imageRendering = "pixelated";
  const layer = clipped(canvas, view);
  layer.setAttribute("pointer-events", "none");
  draggableBox(canvas, view, "window", "W", COLOURS.vermillion, { label: "The window" });

  const sum = html("p", { class: "dl-sum", "data-value": "length" }, panel);
  const say = spoken(panel);
  const row = html("div", { class: "dl-row" }, panel);
  choice(row, view, "level", "bins in the picture", view.get("levels").map((n) => [String(n), `${n} × ${n}`]));
  slider(panel, view, "channel", "channel", { min: 0, max: view.get("channels") - 1, step: 1 });
  const bare = html("label", {}, html("div", { class: "dl-row" }, panel));
  const box = html("input", { type: "checkbox", "data-choice": "map" }, bare);
  bare.append(" show this channel's map on the picture");
  const small = html("div", { class: "dl-small" }, panel);
  html("p", { class: "dl-hint" }, panel, "Orange: the cells of the window. White: the bins of one level; a darker seam is a cell that two bins share. Keys: Tab, arrows, Shift, Alt or Ctrl to resize.");
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
    gridLines(layer, view.get("stride"), size, 14);
    const [left, top, right, bottom] = inPixels(view.get("cells"));
    svg("rect", { "data-cells": "window", x: left, y: top, width: right - left, height: bottom - top, fill: COLOURS.orange, "fill-opacity": 0.35 }, layer);
    small.replaceChildren();
    for (const level of view.get("bins")) {
      if (String(level.n) === view.get("level")) for (const bin of level.bins) thin(layer, inPixels(bin), "#fff", { "data-bin": level.n, fill: "#000", "fill-opacity": 0.16, "stroke-width": 1.8 });
      drawLevel(level);
    }
  }

  function inPixels(cells) {
    return cells.map((end) => end * view.get("stride"));
  }

  /** The n x n pooled values of one channel, as squares; brighter is larger. */
  function drawLevel({ n, values }) {
    const one = html("figure", { class: String(n) === view.get("level") ? "dl-chosen" : "", "data-level": n }, small);
    const grid = svg("svg", { viewBox: `0 0 ${n} ${n}`, role: "img", "aria-label": `${n} × ${n} bins: ${values.map((value) => value.toFixed(1)).join(", ")}` }, one);
    const strongest = Math.max(view.get("strongest"), 1e-6);
    values.forEach((value, i) => {
      const share = Math.min(1, value / strongest), x = i % n, y = Math.floor(i / n);
      svg("rect", { x, y, width: 0.96, height: 0.96, fill: COLOURS.blue, "fill-opacity": 0.12 + 0.88 * share }, grid);
      const ink = share > 0.45 ? "#fff" : "var(--dl-ink)";
      svg("text", { x: x + 0.48, y: y + 0.48 + 0.1, "text-anchor": "middle", "font-size": 0.28, style: `fill: ${ink}` }, grid).textContent = value.toFixed(1);
    });
    html("figcaption", {}, one, `${n} × ${n}`);
  }
}

export default { render };

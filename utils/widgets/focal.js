// The focal loss explorer: sliders, the shares of three kinds of terms, where the loss lies, and its curve.

const KINDS = ["easy background", "hard background", "objects"]; // as Python orders them
const FILLS = [COLOURS.sky, COLOURS.orange, COLOURS.blue];
const HIGHEST = 4; // of the loss in the curve

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "focal", "What focal loss makes of a detector's scores");
  const [width, height] = view.get("size");
  const canvas = photograph(picture, view);
  const veil = svg("image", { "data-veil": "", x: 0, y: 0, width, height, preserveAspectRatio: "none", opacity: 0.75, style: "image-rendering: pixelated" }, canvas);
  const layer = clipped(canvas, view);
  for (const box of view.get("truth")) outline(layer, box, "#fff", { "data-truth": "", "stroke-dasharray": "6 4" });
  html("p", { class: "dl-hint" }, picture, "Where the loss lies: the brightest place has the most, dark purple none. Dashed: true boxes. Below, the loss of one term; dashed: cross-entropy; blue: an object's; orange: background's.");
  const size = { w: 420, h: 190, left: 52, top: 8, right: 14, bottom: 42 };
  const plot = svg("svg", { viewBox: `0 0 ${size.w} ${size.h}`, role: "img" }, picture);
  const x = (p) => size.left + p * (size.w - size.left - size.right);
  const y = (loss) => size.h - size.bottom - Math.min(loss, HIGHEST) / HIGHEST * (size.h - size.top - size.bottom);
  axes();
  const lines = svg("g", {}, plot);

  choice(html("div", { class: "dl-row" }, panel), view, "scores", "scores", view.get("names").map((name) => [name, name]));
  slider(panel, view, "gamma", "γ, focus", { min: 0, max: 5, step: 0.1 });
  slider(panel, view, "alpha", "α, of objects", { min: 0.05, max: 0.95, step: 0.05 });
  toggle(html("div", { class: "dl-row" }, panel), view, "balanced", "weigh objects by α, background by 1 − α");
  slider(panel, view, "limit", "easy: score below", { min: 0.05, max: 0.95, step: 0.05 });
  const table = html("table", { "aria-label": "shares of the terms, of the loss and of the gradient", style: "font-size: 14px" }, panel);
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["shares", "veil", "curves", "message"], draw);
  return view.end;

  function axes() {
    const text = (words, options) => { svg("text", { class: "dl-label", "font-size": 13, ...options }, plot).textContent = words; };
    for (let i = 0; i <= 4; i += 1) {
      svg("line", { class: "dl-axis", x1: x(i / 4), x2: x(i / 4), y1: y(0), y2: y(HIGHEST) }, plot);
      svg("line", { class: "dl-axis", x1: x(0), x2: x(1), y1: y(i), y2: y(i) }, plot);
      text((i / 4).toFixed(2), { x: x(i / 4), y: y(0) + 16, "text-anchor": "middle" });
      text(`${i}`, { x: x(0) - 6, y: y(i) + 4, "text-anchor": "end" });
    }
    text("probability of what is right", { x: x(0.5), y: size.h - 6, "text-anchor": "middle", "font-size": 14 });
    text("loss", { x: 16, y: y(2), "text-anchor": "middle", "font-size": 14, transform: `rotate(-90 16 ${y(2)})` });
  }

  function draw() {
    veil.setAttribute("href", view.get("veil"));
    say.textContent = view.get("message");
    lines.replaceChildren();
    const curves = view.get("curves");
    curve(curves, "cross-entropy", { class: "dl-curve", "stroke-dasharray": "5 4", "stroke-width": 1.5 });
    curve(curves, "objects", { stroke: COLOURS.blue });
    curve(curves, "background", { stroke: COLOURS.orange });
    plot.setAttribute("aria-label", `Loss against the probability of what is right, gamma ${view.get("gamma").toFixed(1)}`);
    drawShares();
  }

  function curve(curves, name, options) {
    const path = curves.p.map((p, i) => `${i ? "L" : "M"}${x(p)} ${y(curves[name][i])}`).join("");
    svg("path", { "data-curve": name, d: path, fill: "none", "stroke-width": 3, ...options }, lines);
  }

  function drawShares() {
    table.replaceChildren();
    const head = html("tr", {}, table);
    for (const words of ["share of", "", ...KINDS]) html(words ? "th" : "td", words ? { scope: "col" } : {}, head, words);
    [...head.children].slice(2).forEach((cell, kind) => { cell.style.borderBottom = `5px solid ${FILLS[kind]}`; });
    for (const [name, shares] of Object.entries(view.get("shares"))) {
      const row = html("tr", {}, table);
      html("th", { scope: "row" }, row, name);
      const track = html("div", { class: "dl-track", "aria-hidden": "true" }, html("td", {}, row));
      track.style.minWidth = "60px";
      let left = 0;
      shares.forEach((share, kind) => {
        html("i", { "data-share": `${name}-${kind}`, style: `left: ${100 * left}%; width: ${100 * share}%; background: ${FILLS[kind]}; border-radius: 0` }, track);
        left += share;
        html("td", { "data-value": `${name}-${kind}`, style: "text-align: right; font-variant-numeric: tabular-nums" }, row, percent(share));
      });
    }
  }

  function percent(share) {
    if (share > 0 && share < 0.0001) return "< 0.01 %";
    return `${(100 * share).toFixed(share < 0.01 || share > 0.99 ? 2 : 1)} %`;
  }
}

export default { render };

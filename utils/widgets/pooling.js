// Pooling from a chosen cell of a feature map, look by look; Python finds the maxima.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "pooling", "Corner, cascade corner and centre pooling from one cell");
  const [columns, rows] = view.get("grid"), stride = view.get("stride");
  const canvas = photograph(picture, view), veil = svg("g", { opacity: 0.8 }, canvas);
  view.get("veil").forEach((line, y) => line.forEach((fill, x) => {
    svg("rect", { x: x * stride, y: y * stride, width: stride, height: stride, fill }, veil);
  }));
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const aim = aimable(canvas, view, "The chosen cell", ({ x, y }) => choose(Math.floor(x / stride), Math.floor(y / stride)), (dx, dy) => choose(view.get("cell")[0] + dx, view.get("cell")[1] + dy));
  const ring = svg("rect", { class: "dl-ring", width: stride, height: stride }, aim);
  const mark = svg("rect", { class: "dl-frame", width: stride, height: stride, fill: "none", stroke: COLOURS.purple }, aim);
  html("p", { class: "dl-hint" }, picture, "Click a cell, or Tab to it and use the arrow keys. Lines: what is looked along; filled cells: the largest value there.");

  choice(html("div", { class: "dl-row" }, panel), view, "pooling", "kind", view.get("poolings").map((name) => [name, name]));
  stepper(panel, view, () => view.get("looks").length, 1200);
  html("p", { class: "dl-heading" }, panel, "Looks");
  const list = html("ol", { class: "dl-queue", "aria-label": "looks" }, panel);
  const sum = html("p", { class: "dl-sum", "data-value": "sum" }, panel);
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["cell", "looks", "step", "message"], draw);
  return view.end;

  function choose(x, y) {
    view.set("cell", [Math.min(Math.max(x, 0), columns - 1), Math.min(Math.max(y, 0), rows - 1)]);
  }

  function draw() {
    layer.replaceChildren();
    list.replaceChildren();
    for (const shape of [ring, mark]) { shape.setAttribute("x", view.get("cell")[0] * stride); shape.setAttribute("y", view.get("cell")[1] * stride); }
    const looks = view.get("looks"), shown = looks.slice(0, view.get("step"));
    shown.forEach(drawLook);
    looks.forEach((one, i) => {
      const item = html("li", { class: i === shown.length - 1 ? "dl-now" : "", "data-look": i }, list, i < shown.length ? `${i + 1}: ${one.value.toFixed(2)}` : `${i + 1}: not yet`);
      item.style.borderColor = i < shown.length ? one.colour : "transparent";
    });
    sum.textContent = `sum so far: ${shown.reduce((total, one) => total + one.value, 0).toFixed(2)}`;
    say.textContent = view.get("message");
  }

  function drawLook({ span: [[y1, x1], [y2, x2]], found: [row, column], colour }) {
    const [ax, ay, bx, by] = [x1, y1, x2, y2].map((part) => (part + 0.5) * stride);
    svg("path", { d: `M${ax} ${ay}L${bx} ${by}`, stroke: "#fff", "stroke-width": stride * 0.6, "stroke-linecap": "round" }, layer);
    svg("path", { "data-line": "", d: `M${ax} ${ay}L${bx} ${by}`, stroke: colour, "stroke-width": stride * 0.35, "stroke-linecap": "round" }, layer);
    svg("rect", { "data-found": "", x: column * stride, y: row * stride, width: stride, height: stride, fill: colour, stroke: "#fff", "stroke-width": stride / 8 }, layer);
  }
}

export default { render };

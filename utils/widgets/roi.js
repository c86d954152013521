// RoIPool against RoIAlign: one region on a feature map; what comes out is reckoned in Python.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "roi", "A region on a feature map, pooled with and without rounding");
  const [width, height] = view.get("size"), stride = view.get("stride");
  const canvas = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" }, picture);
  map();
  draggableBox(canvas, view, "box", "R", COLOURS.orange, { label: "The region R", dashed: true });
  const over = svg("g", { "pointer-events": "none" }, canvas);
  const tables = controls();
  redraw(view, ["edges", "points", "results"], draw);
  return view.end;

  function map() {
    const layer = svg("g", {}, canvas);
    view.get("cells").forEach((row, y) => row.forEach((colour, x) => {
      svg("rect", { x: x * stride, y: y * stride, width: stride, height: stride, fill: colour, stroke: "#fff", "stroke-opacity": 0.5, "stroke-width": stride / 50 }, layer);
    }));
  }

  function controls() {
    slider(panel, view, "bins", "bins a side", { min: 1, max: 4, step: 1 });
    slider(panel, view, "samples", "samples a side", { min: 1, max: 3, step: 1 });
    const row = html("div", { class: "dl-row" }, panel), made = {};
    for (const [name, kind] of [["RoIPool", "largest value"], ["RoIAlign", "mean of the samples"]]) {
      const half = html("div", {}, row);
      half.style.flex = "1 1 120px";
      html("p", { class: "dl-heading" }, half, name);
      html("p", { class: "dl-hint" }, half, kind);
      made[name] = svg("svg", { viewBox: "0 0 100 100", role: "img", "data-result": name }, half);
    }
    const say = spoken(panel);
    redraw(view, ["message"], () => { say.textContent = view.get("message"); });
    html("p", { class: "dl-hint" }, panel, "Dashed: the region. Solid: RoIPool's bins, whole cells. Dots: where RoIAlign reads. Keys: Tab, arrows, Shift, Alt or Ctrl to resize.");
    errors(panel, view);
    return made;
  }

  function draw() {
    over.replaceChildren();
    for (const edge of view.get("edges")) outline(over, edge, COLOURS.vermillion, { "data-bin": "pool" });
    for (const [x, y] of view.get("points")) svg("circle", { "data-sample": "", cx: x, cy: y, r: stride / 10, fill: COLOURS.blue, stroke: "#fff", "stroke-width": stride / 25 }, over);
    for (const [name, rows] of Object.entries(view.get("results"))) result(tables[name], name, rows);
  }

  function result(canvas, name, rows) {
    const side = 100 / rows.length;
    canvas.replaceChildren();
    canvas.setAttribute("aria-label", `${name}: ${rows.map((row) => row.map((one) => one.value.toFixed(2)).join(", ")).join("; ")}`);
    const layer = svg("g", {}, canvas);
    const letters = Math.min(18, 1.5 * side / Math.max(...rows.flat().map((one) => one.value.toFixed(2).length)));
    rows.forEach((row, y) => row.forEach((one, x) => {
      svg("rect", { x: x * side, y: y * side, width: side, height: side, fill: one.colour, stroke: "#fff" }, layer);
      svg("text", { x: (x + 0.5) * side, y: (y + 0.5) * side + letters * 0.35, "text-anchor": "middle", "font-size": letters, "font-weight": 700, fill: light(one.colour) ? "#000" : "#fff" }, layer).textContent = one.value.toFixed(2);
    }));
  }

  /** Whether black is easier to read on a colour #rrggbb than white. */
  function light(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 110;
  }
}

export default { render };

// RoIPool against RoIAlign: one region on a feature map, in cells; what comes out is reckoned in Python.

const SMALLEST = 0.5; // cells

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "roi", "A region on a feature map, pooled with and without rounding");
  const [width, height] = view.get("size");
  const canvas = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" }, picture);
  map();
  const region = svg("g", { "data-box": "roi", tabindex: 0, role: "group", "aria-label": "The region. Arrow keys move it by a tenth of a cell, with Alt or Ctrl they resize it, Shift makes bigger steps." }, canvas);
  const ring = svg("rect", { class: "dl-ring" }, region);
  const body = svg("rect", { class: "dl-frame dl-drag", fill: COLOURS.orange, "fill-opacity": 0.15, stroke: COLOURS.orange, "stroke-dasharray": "7 4" }, region);
  const under = svg("g", { "pointer-events": "none" }, canvas);
  const grip = svg("circle", { class: "dl-drag", "data-handle": "se", r: 0.16, fill: "#fff", stroke: COLOURS.orange, "stroke-width": 0.07 }, region);
  body.style.cursor = "move";
  grip.style.cursor = "se-resize";
  drag(body, [0, 1, 2, 3]);
  drag(grip, [2, 3]);
  region.addEventListener("keydown", keyboard);
  const tables = controls();
  redraw(view, ["box", "edges", "points", "results"], draw);
  return view.end;

  function map() {
    const layer = svg("g", {}, canvas);
    view.get("cells").forEach((row, y) => row.forEach((colour, x) => {
      svg("rect", { x, y, width: 1, height: 1, fill: colour, stroke: "#fff", "stroke-opacity": 0.5, "stroke-width": 0.02 }, layer);
    }));
  }

  function drag(node, sides) {
    let from = null;
    const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse());
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      region.focus();
      from = { point: place(event), box: view.get("box") };
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const now = place(event);
      change(from.box, sides, now.x - from.point.x, now.y - from.point.y);
    });
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => { from = null; });
  }

  function keyboard(event) {
    const step = event.shiftKey ? 0.5 : 0.1;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would scroll or change cells
    change(view.get("box"), event.altKey || event.ctrlKey ? [2, 3] : [0, 1, 2, 3], ...by);
  }

  /** Moves the given sides (0 left, 1 top, 2 right, 3 bottom) of `box`, which stays on the map. */
  function change(box, sides, dx, dy) {
    const next = box.slice(), size = [width, height], by = [dx, dy];
    for (const axis of [0, 1]) {
      if (sides.length === 4) {
        const shift = Math.min(Math.max(by[axis], -box[axis]), size[axis] - box[axis + 2]);
        next[axis] += shift;
        next[axis + 2] += shift;
      } else {
        next[axis + 2] = Math.max(Math.min(box[axis + 2] + by[axis], size[axis]), box[axis] + SMALLEST);
      }
    }
    view.set("box", next.map((value) => Math.round(value * 100) / 100));
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
    const [x1, y1, x2, y2] = view.get("box");
    for (const rect of [ring, body]) {
      for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) rect.setAttribute(key, value);
    }
    grip.setAttribute("cx", x2);
    grip.setAttribute("cy", y2);
    under.replaceChildren();
    for (const edge of view.get("edges")) outline(under, edge, COLOURS.vermillion, { "data-bin": "pool" });
    for (const [x, y] of view.get("points")) svg("circle", { "data-sample": "", cx: x, cy: y, r: 0.1, fill: COLOURS.blue, stroke: "#fff", "stroke-width": 0.04 }, under);
    for (const [name, rows] of Object.entries(view.get("results"))) result(tables[name], name, rows);
  }

  function result(canvas, name, rows) {
    const side = 100 / rows.length;
    canvas.replaceChildren();
    canvas.setAttribute("aria-label", `${name}: ${rows.map((row) => row.map((one) => one.value.toFixed(2)).join(", ")).join("; ")}`);
    const layer = svg("g", {}, canvas);
    rows.forEach((row, y) => row.forEach((one, x) => {
      svg("rect", { x: x * side, y: y * side, width: side, height: side, fill: one.colour, stroke: "#fff" }, layer);
      svg("text", { x: (x + 0.5) * side, y: (y + 0.5) * side + side * 0.1, "text-anchor": "middle", "font-size": Math.min(18, side * 0.34), "font-weight": 700, fill: light(one.colour) ? "#000" : "#fff" }, layer).textContent = one.value.toFixed(2);
    }));
  }

  /** Whether black is easier to read on a colour #rrggbb than white. */
  function light(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 110;
  }
}

export default { render };

// The box playground: two boxes to drag, resize and move by keyboard; numbers and gradient come from Python.

const MEASURES = ["IoU", "GIoU", "DIoU", "CIoU"];

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "boxes", "Two boxes on a photograph and how well they agree");
  const unit = Math.max(...view.get("size")) / 100;
  const canvas = photograph(picture, view);
  const tip = svg("marker", { id: view.id("tip"), viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 4, markerHeight: 4, orient: "auto" }, svg("defs", {}, canvas));
  svg("path", { d: "M0 0L8 4L0 8z", fill: "#fff" }, tip);
  const under = svg("g", {}, canvas);
  draggableBox(canvas, view, "box_a", "A", COLOURS.blue, { label: "Box A, the target" });
  draggableBox(canvas, view, "box_b", "B", COLOURS.vermillion, { label: "Box B, the prediction", dashed: true });
  const arrows = svg("g", { "pointer-events": "none" }, canvas);
  controls();
  redraw(view, ["box_a", "box_b", "pull"], draw);
  return view.end;

  function draw() {
    const a = view.get("box_a"), b = view.get("box_b");
    under.replaceChildren();
    const around = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
    const shared = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
    svg("rect", { x: around[0], y: around[1], width: around[2] - around[0], height: around[3] - around[1], fill: "none", stroke: "#fff", "stroke-width": 0.5 * unit, "stroke-dasharray": `${unit} ${unit}` }, under);
    if (shared[2] > shared[0] && shared[3] > shared[1]) {
      svg("rect", { x: shared[0], y: shared[1], width: shared[2] - shared[0], height: shared[3] - shared[1], fill: COLOURS.green, "fill-opacity": 0.55 }, under);
    }
    svg("line", { x1: (a[0] + a[2]) / 2, y1: (a[1] + a[3]) / 2, x2: (b[0] + b[2]) / 2, y2: (b[1] + b[3]) / 2, stroke: "#fff", "stroke-width": 0.4 * unit }, under);
    drawArrows(b);
  }

  function drawArrows([x1, y1, x2, y2]) {
    arrows.replaceChildren();
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2];
    const starts = [[x1, middle[1]], [middle[0], y1], [x2, middle[1]], [middle[0], y2]];
    view.get("pull").forEach((length, side) => {
      if (Math.abs(length) < 0.01) return;
      const [x, y] = starts[side], far = length * 22 * unit;
      const line = { x1: x, y1: y, x2: x + (side % 2 ? 0 : far), y2: y + (side % 2 ? far : 0) };
      svg("line", { ...line, stroke: "#000", "stroke-opacity": 0.6, "stroke-width": 1.7 * unit, "stroke-linecap": "round" }, arrows);
      svg("line", { ...line, stroke: "#fff", "stroke-width": unit, "marker-end": `url(#${tip.id})`, "data-arrow": side }, arrows);
    });
  }

  function controls() {
    const table = html("table", { "aria-label": "The four measures" }, panel);
    for (const name of MEASURES) measureRow(table, name);
    choice(html("div", { class: "dl-row" }, panel), view, "measure", "Arrows on B follow", MEASURES.map((name) => [name, name]));
    const row = html("div", { class: "dl-row" }, panel);
    const step = () => { if (view.get("at_rest")) return false; view.set("steps", view.get("steps") + 1); };
    button(row, "Step", step);
    player(row, view, step, 120);
    button(row, "Reset", () => view.set("preset", "start"));
    const presets = html("div", { class: "dl-row", role: "group", "aria-label": "where box B lies" }, panel);
    for (const name of ["disjoint", "touching", "crossed", "nested", "identical"]) button(presets, name, () => view.set("preset", name));
    const say = spoken(panel);
    redraw(view, ["message"], () => { say.textContent = view.get("message"); });
    html("p", { class: "dl-hint" }, panel, "Green: intersection. Dashed white: smallest box around both. Keys: Tab, arrows, Shift, Alt or Ctrl to resize.");
    errors(panel, view);
  }

  /** Name, number and bar of one measure; a dash where Python found it not defined. */
  function measureRow(table, name) {
    const row = html("tr", {}, table);
    html("th", { scope: "row" }, row, name);
    const number = html("td", { class: "dl-number", "data-value": name.toLowerCase() }, row);
    const track = html("div", { class: "dl-track", "aria-hidden": "true" }, html("td", {}, row));
    const bar = html("i", {}, track);
    html("b", {}, track);
    redraw(view, ["values"], () => {
      const value = view.get("values")[name] ?? null;
      number.textContent = value === null ? "–" : value.toFixed(3);
      bar.className = value < 0 ? "dl-negative" : "";
      bar.style.left = `${50 + Math.min(0, value) * 50}%`;
      bar.style.width = `${Math.min(1, Math.abs(value)) * 50}%`;
    });
  }
}

export default { render };

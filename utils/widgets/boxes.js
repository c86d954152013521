// The box playground: two boxes to drag, resize and move by keyboard; numbers and gradient come from Python.

const HANDLES = { nw: [0, 1], n: [1], ne: [2, 1], e: [2], se: [2, 3], s: [3], sw: [0, 3], w: [0] };
const SMALLEST = 4; // pixels
const MEASURES = ["IoU", "GIoU", "DIoU", "CIoU"];

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "boxes", "Two boxes on a photograph and how well they agree");
  const [width, height] = view.get("size");
  const unit = Math.max(width, height) / 100;
  const canvas = photograph(picture, view);
  const tip = svg("marker", { id: view.id("tip"), viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 4, markerHeight: 4, orient: "auto" }, svg("defs", {}, canvas));
  svg("path", { d: "M0 0L8 4L0 8z", fill: "#fff" }, tip);
  const under = svg("g", {}, canvas);
  const groups = { a: boxGroup("a", COLOURS.blue, "Box A, the target"), b: boxGroup("b", COLOURS.vermillion, "Box B, the prediction") };
  const arrows = svg("g", { "pointer-events": "none" }, canvas);
  controls();
  redraw(view, ["box_a", "box_b", "pull"], draw);
  return view.end;

  function boxGroup(name, colour, label) {
    const group = svg("g", { "data-box": name, tabindex: 0, role: "group", "aria-label": `${label}. Arrow keys move it, with Alt or Ctrl they resize it, Shift makes bigger steps.` }, canvas);
    const parts = { group, colour, ring: svg("rect", { class: "dl-ring" }, group), handles: {} };
    parts.body = svg("rect", { class: "dl-frame", fill: colour, "fill-opacity": 0.12, stroke: colour, "stroke-dasharray": name === "b" ? "7 4" : "none" }, group);
    parts.body.style.cursor = "move";
    parts.body.classList.add("dl-drag");
    parts.letter = svg("text", { "font-size": 5 * unit, "font-weight": 700, fill: "#fff", stroke: colour, "stroke-width": unit, "paint-order": "stroke", "pointer-events": "none" }, group);
    parts.letter.textContent = name.toUpperCase();
    drag(parts.body, name, [0, 1, 2, 3]);
    for (const [place, sides] of Object.entries(HANDLES)) {
      const grip = svg("circle", { class: "dl-drag", "data-handle": place, r: 1.7 * unit, fill: "#fff", stroke: colour, "stroke-width": unit * 0.5 }, group);
      grip.style.cursor = `${place}-resize`;
      parts.handles[place] = grip;
      drag(grip, name, sides);
    }
    group.addEventListener("keydown", (event) => keyboard(event, name));
    return parts;
  }

  function toPixels(event) {
    const matrix = canvas.getScreenCTM().inverse();
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  }

  function drag(node, name, sides) {
    let from = null;
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      groups[name].group.focus();
      from = { point: toPixels(event), box: view.get(`box_${name}`) };
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const now = toPixels(event);
      change(name, from.box, sides, now.x - from.point.x, now.y - from.point.y);
    });
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => { from = null; });
  }

  function keyboard(event, name) {
    const step = event.shiftKey ? 10 : 1;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would scroll or change cells
    change(name, view.get(`box_${name}`), event.altKey || event.ctrlKey ? [2, 3] : [0, 1, 2, 3], ...by);
  }

  /** Moves the given sides (0 left, 1 top, 2 right, 3 bottom) of `box`, which stays a box inside the picture. */
  function change(name, box, sides, dx, dy) {
    const next = box.slice();
    if (sides.length === 4) {
      const x = Math.min(Math.max(dx, -box[0]), width - box[2]);
      const y = Math.min(Math.max(dy, -box[1]), height - box[3]);
      [x, y, x, y].forEach((shift, side) => { next[side] += shift; });
    } else {
      for (const side of sides) next[side] += side % 2 ? dy : dx;
      if (sides.includes(0)) next[0] = Math.min(Math.max(next[0], 0), box[2] - SMALLEST);
      if (sides.includes(1)) next[1] = Math.min(Math.max(next[1], 0), box[3] - SMALLEST);
      if (sides.includes(2)) next[2] = Math.max(Math.min(next[2], width), box[0] + SMALLEST);
      if (sides.includes(3)) next[3] = Math.max(Math.min(next[3], height), box[1] + SMALLEST);
    }
    view.set(`box_${name}`, next.map((value) => Math.round(value * 10) / 10));
  }

  function place(parts, [x1, y1, x2, y2]) {
    for (const rect of [parts.ring, parts.body]) {
      for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) rect.setAttribute(key, value);
    }
    parts.letter.setAttribute("x", x1 + 2 * unit);
    parts.letter.setAttribute("y", y1 + 6 * unit);
    const xs = { w: x1, e: x2 }, ys = { n: y1, s: y2 };
    for (const [where, grip] of Object.entries(parts.handles)) {
      grip.setAttribute("cx", xs[where.slice(-1)] ?? (x1 + x2) / 2);
      grip.setAttribute("cy", ys[where[0]] ?? (y1 + y2) / 2);
    }
  }

  function draw() {
    const a = view.get("box_a"), b = view.get("box_b");
    place(groups.a, a);
    place(groups.b, b);
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

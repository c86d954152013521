// DETR's matching: the table of costs, its parts, and the pairs on the picture. Python computes them.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "matching", "Which query answers for which object");
  const size = view.get("size"), unit = Math.max(...size) / 100, letters = 4 * unit;
  const objects = view.get("objects"), rows = view.get("cells").length;
  const wide = Math.min(92, Math.max(52, 380 / objects.length)), high = 20, left = 40, top = 38;
  const table = [left + wide * objects.length, top + high * rows];
  const canvas = photograph(picture, view);
  const layer = clipped(canvas, view);
  html("p", { class: "dl-hint" }, picture, "Solid: objects. Dashed, with a line from middle to middle: the query that answers for each. White: the query of the chosen cell.");
  const weight = { min: 0, max: 10, step: 0.25 };
  slider(picture, view, "class_weight", "−p times", weight);
  slider(picture, view, "l1_weight", "L1 times", weight);
  slider(picture, view, "giou_weight", "−GIoU times", weight);
  const equation = html("p", { class: "dl-sum", "data-value": "equation" }, picture);

  choice(html("div", { class: "dl-row" }, panel), view, "method", "match", [["hungarian", "Hungarian: least in all"], ["greedy", "greedily: cheapest first"]]);
  choice(html("div", { class: "dl-row" }, panel), view, "part", "show", [["sum", "the weighted sum"], ["class", "−p of its class"], ["L1", "L1 distance"], ["GIoU", "−GIoU"]]);
  const say = spoken(panel);
  const grid = svg("svg", { viewBox: `0 0 ${table[0]} ${table[1]}`, role: "group", "data-table": "cost", style: `max-width: ${table[0]}px` }, html("div", { class: "dl-tall" }, panel));
  const sheet = svg("g", {}, grid);
  const aim = aimable(grid, view, "The chosen query and object", ({ x, y }) => choose(Math.floor((y - top) / high), Math.floor((x - left) / wide)), (dx, dy) => choose(view.get("cell")[0] + dy, view.get("cell")[1] + dx), table);
  const marks = ["dl-ring", "dl-frame"].map((name) => svg("rect", { class: name, width: wide + 4, height: high + 4, fill: "none", stroke: "#fff" }, aim));
  html("p", { class: "dl-hint" }, panel, "Rows: queries, columns: objects; dark is cheap, pale rows are no object's cheapest. Red frames: the matching; dotted: where the other way chooses differently. Click a cell, or Tab to it and use the arrow keys.");
  errors(panel, view);
  redraw(view, ["cells", "pairs", "others", "message"], drawTable);
  redraw(view, ["cell", "pairs", "others", "equation"], drawPairs);
  return view.end;

  function choose(query, object) {
    view.set("cell", [Math.min(Math.max(query, 0), rows - 1), Math.min(Math.max(object, 0), objects.length - 1)]);
  }

  function drawPairs() {
    const [chosen, column] = view.get("cell"), queries = view.get("queries");
    layer.replaceChildren();
    for (const one of objects) outline(layer, one.box, one.colour, { "data-object": one.number, "stroke-width": 3 });
    outline(layer, queries[chosen], "#fff", { "data-chosen": chosen, "stroke-width": 3.5 });
    for (const [query, object] of view.get("pairs")) {
      const { box, colour } = objects[object], [x1, y1] = middle(queries[query]), [x2, y2] = middle(box);
      svg("path", { d: `M${x1} ${y1}L${x2} ${y2}`, stroke: "#000", "stroke-width": 0.9 * unit }, layer);
      svg("path", { d: `M${x1} ${y1}L${x2} ${y2}`, stroke: colour, "stroke-width": 0.6 * unit }, layer);
      svg("circle", { cx: x1, cy: y1, r: 1.1 * unit, fill: colour, stroke: "#000", "stroke-width": 0.2 * unit }, layer);
      outline(layer, queries[query], colour, { "stroke-dasharray": "6 4", "data-query": query });
    }
    for (const { box, number, name, colour } of objects) plate(layer, box, `${number} ${name}`, colour, letters, size);
    for (const [query, object] of view.get("pairs")) corner(queries[query], `q${query}`, objects[object].colour);
    if (!view.get("pairs").some(([query]) => query === chosen)) corner(queries[chosen], `q${chosen}`, "#fff");
    equation.textContent = view.get("equation");
    for (const mark of marks) { mark.setAttribute("x", left + column * wide - 2); mark.setAttribute("y", top + chosen * high - 2); }
    if (aim === document.activeElement) marks[1].scrollIntoView({ block: "nearest" });
  }

  function middle([x1, y1, x2, y2]) {
    return [(x1 + x2) / 2, (y1 + y2) / 2];
  }

  /** A plate in the lower right corner, where objects have none. */
  function corner([, , x, y], text, colour) {
    plate(layer, [Math.min(x, size[0]) - text.length * letters * 0.58 - letters * 0.5, Math.min(y, size[1])], text, colour, letters, size);
  }

  function drawTable() {
    const cells = view.get("cells"), candidates = new Set(view.get("candidates"));
    sheet.replaceChildren();
    say.textContent = view.get("message");
    const text = (parent, x, y, what, attributes) => { svg("text", { x, y, "font-size": 12, "text-anchor": "middle", ...attributes }, parent).textContent = what; };
    objects.forEach(({ number, name, colour }, column) => {
      svg("rect", { x: left + column * wide + 1, y: top - 5, width: wide - 2, height: 4, fill: colour }, sheet);
      text(sheet, left + (column + 0.5) * wide, 13, `${number}`, { class: "dl-label", "font-weight": 600 });
      text(sheet, left + (column + 0.5) * wide, 28, name, { class: "dl-label" });
    });
    cells.forEach((line, query) => {
      const cheap = candidates.has(query), base = top + query * high + 14;
      const row = svg("g", { "data-query-row": query, "data-candidate": cheap, "font-weight": cheap ? 600 : 400 }, sheet);
      text(row, left - 6, base, `q${query}`, { class: "dl-label", "text-anchor": "end" });
      line.forEach(({ value, colour }, column) => {
        svg("rect", { x: left + column * wide, y: top + query * high, width: wide, height: high, fill: colour, "fill-opacity": cheap ? 1 : 0.4, "data-cell": `${query}-${column}` }, row);
        text(row, left + (column + 0.5) * wide, base, value.toFixed(2).replace("-", "−"), cheap ? { fill: light(colour) ? "#000" : "#fff" } : { class: "dl-label" });
      });
    });
    const ours = new Set(view.get("pairs").map(String));
    for (const pair of view.get("others")) if (!ours.has(String(pair))) ring(pair, { "data-ring": "other", "stroke-dasharray": "2 3", "stroke-linecap": "round" });
    for (const pair of view.get("pairs")) ring(pair, { "data-ring": "match" });
  }

  function ring([query, column], attributes) {
    const place = { x: left + column * wide + 1, y: top + query * high + 1, width: wide - 2, height: high - 2, fill: "none" };
    svg("rect", { ...place, stroke: "#fff", "stroke-width": 4.5 }, sheet);
    svg("rect", { ...place, stroke: COLOURS.vermillion, "stroke-width": 2.8, ...attributes }, sheet);
  }

  /** Whether black is easier to read on a colour #rrggbb than white. */
  function light(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 125;
  }
}

export default { render };

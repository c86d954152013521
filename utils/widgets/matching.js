// DETR's matching: the table of costs, its parts, and the pairs on the picture. Python computes them.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "matching", "Which query answers for which object");
  const size = view.get("size"), letters = Math.max(...size) / 24;
  const canvas = photograph(picture, view);
  const layer = clipped(canvas, view);
  const weight = { min: 0, max: 10, step: 0.25 };
  slider(panel, view, "class_weight", "weight of the class", weight);
  slider(panel, view, "l1_weight", "weight of L1", weight);
  slider(panel, view, "giou_weight", "weight of GIoU", weight);
  const row = html("div", { class: "dl-row" }, panel);
  choice(row, view, "part", "show", [["sum", "weighted sum"], ["class", "−p of its class"], ["L1", "L1 distance"], ["GIoU", "−GIoU"]]);
  choice(row, view, "method", "match", [["hungarian", "Hungarian"], ["greedy", "greedily"]]);
  const table = svg("svg", { role: "img", "data-table": "cost" }, panel);
  const say = spoken(panel);
  html("p", { class: "dl-hint" }, panel, "Rows are queries, columns objects; dark is cheap. Rings: the matching; dashed rings: what the other way would choose.");
  errors(panel, view);
  redraw(view, ["cells", "pairs", "others"], draw);
  return view.end;

  function draw() {
    drawPairs();
    drawTable();
    say.textContent = view.get("message");
  }

  function drawPairs() {
    layer.replaceChildren();
    const objects = view.get("objects"), queries = view.get("queries");
    for (const one of objects) outline(layer, one.box, one.colour, { "data-object": one.name });
    for (const [query, object] of view.get("pairs")) {
      outline(layer, queries[query], objects[object].colour, { "stroke-dasharray": "6 4", "data-query": query });
      plate(layer, queries[query], `q${query} → ${objects[object].name}`, objects[object].colour, letters, size);
    }
  }

  function drawTable() {
    const cells = view.get("cells"), wide = 40, high = 14, left = 34, top = 18;
    table.replaceChildren();
    table.setAttribute("viewBox", `0 0 ${left + wide * cells[0].length} ${top + high * cells.length}`);
    table.setAttribute("aria-label", `Cost of ${cells.length} queries with ${cells[0].length} objects. ${view.get("message")}`);
    const text = (x, y, what, attributes) => { svg("text", { x, y, "font-size": 9, "text-anchor": "middle", fill: "currentColor", ...attributes }, table).textContent = what; };
    view.get("objects").forEach((one, column) => text(left + (column + 0.5) * wide, 12, one.name));
    cells.forEach((line, query) => {
      text(left / 2, top + query * high + 10, `q${query}`);
      line.forEach((cell, column) => {
        svg("rect", { x: left + column * wide, y: top + query * high, width: wide, height: high, fill: cell.colour, "data-cell": `${query}-${column}` }, table);
        text(left + (column + 0.5) * wide, top + query * high + 10, cell.value.toFixed(2), { fill: light(cell.colour) ? "#000" : "#fff" });
      });
    });
    const ring = ([query, column], attributes) => svg("rect", { x: left + column * wide + 1, y: top + query * high + 1, width: wide - 2, height: high - 2, fill: "none", stroke: COLOURS.vermillion, "stroke-width": 2, ...attributes }, table);
    for (const pair of view.get("others")) ring(pair, { "stroke-dasharray": "3 2", "data-ring": "other" });
    for (const pair of view.get("pairs")) ring(pair, { "data-ring": "match" });
  }

  /** Whether black is easier to read on a colour #rrggbb than white. */
  function light(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 110;
  }
}

export default { render };

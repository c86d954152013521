// The location explorer: the points of a pyramid over true boxes, and what the one at a chosen pixel shall say.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "locations", "Points of FCOS's pyramid and what they learn");
  const size = view.get("size"), [width, height] = size, unit = Math.max(width, height) / 100;
  const canvas = photograph(picture, view);
  const layer = clipped(canvas, view);
  const aim = aimable(canvas, view, "The chosen pixel", ({ x, y }) => choose(x, y), (dx, dy) => choose(view.get("pixel")[0] + dx, view.get("pixel")[1] + dy));
  const ring = svg("circle", { class: "dl-ring", r: 3 * unit }, aim);
  const mark = svg("circle", { class: "dl-frame", r: 3 * unit, fill: "none", stroke: COLOURS.yellow }, aim);
  html("p", { class: "dl-hint" }, picture, "Click a pixel, or Tab to the ring and use the arrow keys. Dots: points that learn the object of that colour, larger on coarser levels. Red crosses: points in two boxes at once. White specks: background. Yellow: l, t, r, b.");

  choice(html("div", { class: "dl-row" }, panel), view, "draw", "points of", ["all levels", ...view.get("levels")].map((name) => [name, name]));
  toggle(html("div", { class: "dl-row" }, panel), view, "pyramid", "a pyramid (else one level for all sizes)");
  toggle(html("div", { class: "dl-row" }, panel), view, "centre", "only points near an object's centre");
  html("p", { class: "dl-heading" }, panel, "The nearest point of each level");
  const table = html("table", { "aria-label": "the nearest point of each level" }, panel);
  const sides = html("p", { class: "dl-sum", "data-value": "sides" }, panel);
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["points", "rows", "learns", "draw", "message"], draw);
  redraw(view, ["pixel"], place);
  return view.end;

  function choose(x, y) {
    view.set("pixel", [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)].map((value) => Math.round(value * 10) / 10));
  }

  function place() {
    const [x, y] = view.get("pixel");
    for (const circle of [ring, mark]) { circle.setAttribute("cx", x); circle.setAttribute("cy", y); }
  }

  function draw() {
    layer.replaceChildren();
    view.get("truth").forEach((box, i) => outline(layer, box, view.get("colours")[i], { "data-truth": "" }));
    const points = view.get("points"), own = points.filter(({ level }) => level === view.get("draw"));
    for (const point of (own.length ? own : points.slice()).sort((a, b) => b.stride - a.stride || a.fits - b.fits)) drawPoint(point);
    if (view.get("learns").sides) drawSides(view.get("learns"));
    drawRows();
    say.textContent = view.get("message");
  }

  function drawPoint({ x, y, stride, object, fits }) {
    const radius = (0.6 + Math.log2(stride) * 0.25) * unit;
    if (fits > 1) cross(x, y, radius * 1.1);
    else if (object >= 0) svg("circle", { "data-point": "object", cx: x, cy: y, r: radius, fill: view.get("colours")[object], stroke: "#fff", "stroke-width": 0.25 * unit }, layer);
    else svg("circle", { "data-point": "background", cx: x, cy: y, r: 0.3 * unit, fill: "#fff", stroke: "#000", "stroke-width": 0.1 * unit }, layer);
  }

  function cross(x, y, r) {
    const path = `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;
    svg("path", { d: path, stroke: "#fff", "stroke-width": 1.3 * unit }, layer);
    svg("path", { "data-point": "ambiguous", d: path, stroke: COLOURS.vermillion, "stroke-width": 0.8 * unit }, layer);
  }

  function drawSides({ x, y, sides: [left, top, right, bottom] }) {
    const path = `M${x - left} ${y}H${x + right}M${x} ${y - top}V${y + bottom}`;
    svg("path", { d: path, stroke: "#000", "stroke-width": 1.2 * unit }, layer);
    svg("path", { "data-sides": "", d: path, stroke: COLOURS.yellow, "stroke-width": 0.7 * unit }, layer);
    const letters = 3.4 * unit;
    for (const [name, at] of [["l", [x - left * 0.6, y]], ["t", [x, y - top * 0.6]], ["r", [x + right * 0.6, y]], ["b", [x, y + bottom * 0.6]]]) plate(layer, [at[0] - letters * 0.5, at[1] + letters * 0.6], name, COLOURS.yellow, letters, size);
  }

  function drawRows() {
    table.replaceChildren();
    const head = html("tr", {}, table);
    for (const words of ["level", "largest side", "learns"]) html("th", { scope: "col" }, head, words);
    for (const row of view.get("rows")) {
      const line = html("tr", { "data-level": row.level }, table);
      html("th", { scope: "row" }, line, row.level);
      html("td", {}, line, `${row.low.toFixed(0)} to ${row.high === null ? "∞" : row.high.toFixed(0)} px`);
      const cell = html("td", { "data-learns": row.object }, line, row.words);
      if (row.object >= 0) Object.assign(cell.style, { borderLeft: `5px solid ${view.get("colours")[row.object]}`, fontWeight: 600 });
    }
    const { sides: numbers, centreness } = view.get("learns");
    sides.textContent = numbers ? `${numbers.map((value, i) => `${"ltrb"[i]} ${value.toFixed(1)}`).join(", ")} px; centre-ness ${centreness.toFixed(2)}` : "background: nothing to regress";
  }
}

export default { render };

// Where each query's boxes fall over many pictures; Python sorts them.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "queries", "Where each query finds its boxes");
  const side = 1000, columns = 5, numbers = Array.from({ length: view.get("queries") }, (_, i) => i);
  const canvas = svg("svg", { viewBox: `-30 -30 ${side + 60} ${side + 60}`, role: "img" }, picture);
  square(canvas);
  const boxes = svg("svg", { class: "dl-clip", x: 0, y: 0, width: side, height: side, viewBox: `0 0 ${side} ${side}` }, canvas);
  const middles = svg("g", {}, canvas);
  const say = spoken(picture);
  html("p", { class: "dl-hint" }, picture, "The square stands for every picture, whatever its size; a mark is the middle of one box. Choose a query among the small squares by a click or by the arrow keys.");

  choice(html("div", { class: "dl-row" }, panel), view, "colour", "colour by", [["size", "size"], ["shape", "shape"], ["figure 7", "both, as in the paper's figure 7"]]);
  if (view.get("scored")) slider(panel, view, "lowest", "lowest score", { min: 0, max: 1, step: 0.05 });
  toggle(html("div", { class: "dl-row" }, panel), view, "outlines", "draw the chosen query's boxes");
  const table = html("table", { "aria-label": "shares of the chosen query's boxes" }, panel);
  const small = tiles(panel, view, "query", "queries", numbers, columns).map((node, i) => {
    const one = svg("svg", { viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true" }, node);
    square(one);
    html("span", {}, node, `query ${i}`);
    return svg("g", {}, one);
  });
  errors(panel, view);
  redraw(view, ["groups", "legend", "query"], drawSmall);
  redraw(view, ["groups", "legend", "sides", "outlines", "message"], drawLarge);
  return view.end;

  function square(parent) {
    svg("rect", { x: 0, y: 0, width: side, height: side, fill: "#fff", stroke: "#616161", "stroke-width": 1, "vector-effect": "non-scaling-stroke" }, parent);
    svg("path", { d: `M${side / 2} 0V${side}M0 ${side / 2}H${side}`, stroke: "#d0d0d0", "stroke-width": 1, "vector-effect": "non-scaling-stroke" }, parent);
  }

  /** All marks of a query, one path for each kind; `scale` makes them larger. */
  function draw(parent, query, scale) {
    const places = view.get("places")[query];
    const paths = view.get("legend").map(() => "");
    [...view.get("groups")[query]].forEach((group, i) => {
      if (group !== "-") paths[group] += stroke(view.get("legend")[group].mark, places[2 * i], places[2 * i + 1], scale);
    });
    parent.replaceChildren();
    view.get("legend").forEach(({ colour, mark }, kind) => mine(parent, paths[kind], colour, mark, scale, { "data-kind": kind, "stroke-opacity": 0.8 }));
  }

  function stroke(mark, x, y, scale) {
    const half = 11 * scale;
    return { wide: `M${x - half} ${y}h${2 * half}`, tall: `M${x} ${y - half}v${2 * half}` }[mark] || `M${x} ${y}h0`;
  }

  function mine(parent, d, colour, mark, scale, attributes) {
    const width = { "dot 1": 11, "dot 2": 16, "dot 3": 22 }[mark] || 8;
    svg("path", { d, fill: "none", stroke: colour, "stroke-width": width * scale, "stroke-linecap": "round", ...attributes }, parent);
  }

  function drawSmall() {
    small.forEach((one, query) => draw(one, query, 2.6));
  }

  function drawLarge() {
    const query = view.get("query"), places = view.get("places")[query], sides = view.get("sides");
    if (!places) return; // Python says what is wrong
    draw(middles, query, 1);
    boxes.replaceChildren();
    if (view.get("outlines")) {
      [...view.get("groups")[query]].forEach((group, i) => {
        const [x, y, w, h] = [places[2 * i], places[2 * i + 1], sides[2 * i], sides[2 * i + 1]];
        if (group !== "-") thin(boxes, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], view.get("legend")[group].colour, { "data-outline": i, "stroke-opacity": 0.5 });
      });
    }
    say.textContent = view.get("message");
    canvas.setAttribute("aria-label", view.get("message"));
    drawLegend();
  }

  function drawLegend() {
    table.replaceChildren();
    for (const { name, colour, mark, share } of view.get("legend")) {
      const row = html("tr", {}, table);
      const sign = svg("svg", { viewBox: "-20 -20 40 40", style: "width: 22px", "aria-hidden": "true" }, html("td", { style: "width: 34px" }, row));
      mine(sign, stroke(mark, 0, 0, 1.2), colour, mark, 1.2);
      html("th", { scope: "row" }, row, name);
      html("td", { class: "dl-number", "data-value": name }, row, `${Math.round(100 * share)} %`);
    }
  }
}

export default { render };

// The anchor explorer: anchors over the true boxes, by what they learn. Python matches, the page draws.

const KIND_COLOURS = { positive: COLOURS.green, ignored: COLOURS.orange, negative: COLOURS.sky };
const KINDS = ["negative", "ignored", "positive"]; // as Python numbers them

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "anchors", "Anchors over a photograph and what they learn");
  const size = view.get("size"), unit = Math.max(...size) / 100;
  const canvas = photograph(picture, view);
  const layer = clipped(canvas, view);
  html("p", { class: "dl-hint" }, picture, "Dots: the cells, by their best anchor (large green positive, orange ignored, small blue negative). Dashed white: true boxes. Dashed purple: positive only as the best anchor of an object.");

  choice(html("div", { class: "dl-row" }, panel), view, "stride", "stride", ["4", "8", "16", "32"].map((n) => [n, `${n} px`]));
  choices(panel, view, "sizes", "sizes", view.get("offered").map((n) => [n, `${n}`]));
  choices(panel, view, "ratios", "shapes", [["wide", "wide 1:2"], ["square", "square"], ["tall", "tall 2:1"]]);
  slider(panel, view, "high", "positive from", { min: 0, max: 1, step: 0.05 });
  slider(panel, view, "low", "negative below", { min: 0, max: 1, step: 0.05 });
  toggle(html("div", { class: "dl-row" }, panel), view, "best_rule", "the best anchors of each object are positive, too");
  choice(html("div", { class: "dl-row" }, panel), view, "shown", "draw", ["positive", "ignored", "negative"].map((kind) => [kind, `${kind} anchors`]));
  const table = html("table", { "aria-label": "how many anchors" }, panel);
  const say = spoken(panel);
  const list = html("ol", { class: "dl-queue", "aria-label": "objects" }, panel);
  errors(panel, view);
  redraw(view, ["state", "shown", "message"], draw);
  return view.end;

  function draw() {
    const state = view.get("state");
    say.textContent = view.get("message");
    layer.replaceChildren();
    drawDots(state);
    for (const { box, rescued } of state.boxes[view.get("shown")]) drawAnchor(box, rescued);
    for (const box of view.get("truth")) outline(layer, box, "#fff", { "data-truth": "", "stroke-dasharray": "6 4" });
    drawCounts(state);
    drawObjects(state);
  }

  function drawDots({ grid, cells, stride }) {
    cells.forEach((kind, i) => {
      const place = { cx: (i % grid[1]) * stride, cy: Math.floor(i / grid[1]) * stride };
      const radius = Math.min([0.35, 0.6, 1.1][kind] * unit, stride / 4);
      svg("circle", { ...place, r: radius, fill: KIND_COLOURS[KINDS[kind]], "fill-opacity": 0.9, stroke: "#000", "stroke-width": 0.1 * unit }, layer);
    });
  }

  function drawAnchor(box, rescued) {
    const kind = view.get("shown"), colour = rescued ? COLOURS.purple : KIND_COLOURS[kind];
    thin(layer, box, "#000", { "stroke-width": 3, "stroke-opacity": 0.25 });
    thin(layer, box, colour, { "data-anchor": rescued ? "rescued" : kind, "stroke-width": rescued ? 2 : 1.4, "stroke-dasharray": rescued ? "5 3" : "none" });
  }

  function drawCounts({ counts, rescued, boxes }) {
    table.replaceChildren();
    for (const kind of [...KINDS].reverse()) {
      const row = html("tr", {}, table);
      html("th", { scope: "row", style: `border-left: 5px solid ${KIND_COLOURS[kind]}` }, row, kind);
      html("td", { class: "dl-number", "data-value": kind }, row, `${counts[kind]}`);
      html("td", {}, row, remark(kind, counts[kind], boxes[kind].length, rescued));
    }
  }

  function remark(kind, count, drawn, rescued) {
    const rule = kind === "positive" && rescued ? `${rescued} only by the rule` : "";
    const some = kind === view.get("shown") && drawn < count ? `${drawn} of them drawn` : "";
    return [rule, some].filter(Boolean).join("; ");
  }

  function drawObjects({ objects }) {
    list.replaceChildren();
    for (const { name, best, anchors } of objects) {
      const item = html("li", { class: best < view.get("high") ? "dl-wrong" : "dl-kept" }, list);
      html("span", {}, item, `${best < view.get("high") ? "✗" : "✓"} ${name}: best IoU ${best.toFixed(2)}, learnt by ${anchors} anchor${anchors === 1 ? "" : "s"}`);
    }
  }
}

export default { render };

// The precision-recall explorer: list, counts and curve. Precision, recall and AP come from Python.

function render({ model, el }) {
  const view = connect(model);
  const { root, picture, panel } = frame(el, "pr", "Precision, recall and average precision of a ranked list");
  const size = { w: 420, h: 320, left: 52, top: 12, right: 14, bottom: 46 };
  const plot = svg("svg", { viewBox: `0 0 ${size.w} ${size.h}`, role: "img" }, picture);
  const x = (recall) => size.left + recall * (size.w - size.left - size.right);
  const y = (precision) => size.h - size.bottom - precision * (size.h - size.top - size.bottom);
  axes();
  const layer = svg("g", {}, plot);
  html("p", { class: "dl-hint" }, picture, "Line: down the list. Dashed: the best precision at this recall or higher; shaded: its area. Dot: the threshold.");

  scoreSlider(panel, view, "threshold", "score threshold");
  const cells = countTable();
  choice(html("div", { class: "dl-row" }, panel), view, "protocol", "protocol", Object.entries(view.get("protocols")));
  const say = html("p", { class: "dl-notice", "aria-live": "polite" }, panel);
  html("p", { class: "dl-heading" }, panel, "Detections by score (click or Enter turns one)");
  const list = html("ol", { class: "dl-queue", "aria-label": "detections by falling score" }, panel);
  errors(panel, view);
  redraw(view, ["threshold", "counts", "readings", "average", "matched", "protocol", "message"], draw);
  return view.end;

  function countTable() {
    const table = html("table", { "aria-label": "counts at the threshold" }, panel), found = {};
    for (const [name, label] of [["tp", "right (TP)"], ["fp", "wrong (FP)"], ["fn", "missed (FN)"], ["precision", "precision"], ["recall", "recall"], ["ap", "AP, all thresholds"]]) {
      const line = html("tr", {}, table);
      html("th", { scope: "row" }, line, label);
      found[name] = html("td", { class: "dl-number", "data-value": name }, line);
    }
    found.ap.setAttribute("aria-live", "polite");
    return found;
  }

  function axes() {
    const text = (words, options) => { svg("text", { class: "dl-label", "font-size": 13, ...options }, plot).textContent = words; };
    for (let i = 0; i <= 5; i++) {
      const v = i / 5;
      svg("line", { class: "dl-axis", x1: x(v), x2: x(v), y1: y(0), y2: y(1) }, plot);
      svg("line", { class: "dl-axis", x1: x(0), x2: x(1), y1: y(v), y2: y(v) }, plot);
      text(v.toFixed(1), { x: x(v), y: y(0) + 17, "text-anchor": "middle" });
      text(v.toFixed(1), { x: x(0) - 6, y: y(v) + 4, "text-anchor": "end" });
    }
    text("recall", { x: x(0.5), y: size.h - 6, "text-anchor": "middle", "font-size": 15 });
    text("precision", { x: 15, y: y(0.5), "text-anchor": "middle", "font-size": 15, transform: `rotate(-90 15 ${y(0.5)})` });
  }

  function draw() {
    const precision = view.get("precision"), recall = view.get("recall");
    const shown = view.get("scores").filter((score) => score >= view.get("threshold")).length;
    const counts = view.get("counts")[shown];
    layer.replaceChildren();
    if (recall.length) drawCurve(precision, recall, shown);
    for (const name of ["tp", "fp", "fn"]) cells[name].textContent = counts[name];
    for (const name of ["precision", "recall"]) cells[name].textContent = counts[name] === null ? "–" : counts[name].toFixed(2);
    cells.ap.textContent = view.get("average") === null ? "–" : view.get("average").toFixed(3);
    say.textContent = view.get("message");
    plot.setAttribute("aria-label", `Precision ${cells.precision.textContent}, recall ${cells.recall.textContent}, AP ${cells.ap.textContent}`);
    drawList(shown);
  }

  function drawCurve(precision, recall, shown) {
    drawEnvelope(precision, recall);
    const path = precision.map((p, i) => `${i ? "L" : "M"}${x(recall[i])} ${y(p)}`).join("");
    svg("path", { class: "dl-curve", d: path }, layer);
    const radius = view.get("protocol") === "voc07" ? 5 : 2;
    for (const [r, p] of view.get("readings")) svg("circle", { cx: x(r), cy: y(p), r: radius, fill: COLOURS.orange, stroke: "#000", "stroke-width": 0.5 }, layer);
    if (shown) svg("circle", { "data-point": "now", cx: x(recall[shown - 1]), cy: y(precision[shown - 1]), r: 8, fill: COLOURS.vermillion, stroke: "#fff", "stroke-width": 2.5 }, layer);
  }

  /** The best precision at each recall or higher, and the area under it. */
  function drawEnvelope(precision, recall) {
    let best = 0, points = [];
    for (let i = precision.length - 1; i >= 0; i--) {
      best = Math.max(best, precision[i]);
      points.unshift([i ? recall[i - 1] : 0, best], [recall[i], best]);
    }
    if (!points.length) return;
    const steps = points.map(([r, p]) => `${x(r)} ${y(p)}`).join("L");
    const last = points[points.length - 1][0];
    svg("path", { d: `M${x(0)} ${y(0)}L${steps}L${x(last)} ${y(0)}z`, fill: COLOURS.sky, "fill-opacity": 0.25 }, layer);
    svg("path", { d: `M${steps}`, fill: "none", stroke: COLOURS.green, "stroke-width": 2, "stroke-dasharray": "6 4" }, layer);
  }

  function drawList(shown) {
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.rank : undefined;
    list.replaceChildren();
    view.get("scores").forEach((score, i) => {
      const item = listItem(scoreText(view, score), i, shown);
      if (focused === String(i)) item.focus();
    });
  }

  function listItem(score, i, shown) {
    const hit = view.get("matched")[i];
    const names = [hit ? "dl-right" : "dl-wrong", i >= shown && "dl-below", i === shown - 1 && "dl-cut"].filter(Boolean).join(" ");
    const label = `score ${score}, ${hit ? "right" : "wrong"}; Enter turns it`;
    const item = html("li", { class: names, tabindex: 0, role: "button", "data-rank": i, "aria-label": label }, list);
    html("span", { class: "dl-score" }, item, score);
    html("span", {}, item, hit ? "✓ right" : "✗ wrong");
    const turn = () => view.set("flip", i);
    item.addEventListener("click", turn);
    item.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      turn();
    });
    return item;
  }
}

export default { render };

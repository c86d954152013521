// The precision-recall explorer: list, counts and curve. Precision, recall and AP come from Python.

function render({ model, el }) {
  const { root, picture, panel } = frame(el, "pr", "Precision, recall and average precision of a ranked list");
  const size = { w: 420, h: 320, left: 48, top: 12, right: 12, bottom: 42 };
  const plot = svg("svg", { viewBox: `0 0 ${size.w} ${size.h}`, role: "img" }, picture);
  const x = (recall) => size.left + recall * (size.w - size.left - size.right);
  const y = (precision) => size.h - size.bottom - precision * (size.h - size.top - size.bottom);
  axes();
  const layer = svg("g", {}, plot);

  slider(panel, model, "threshold", "score threshold", { min: 0, max: 1, step: 0.01 });
  const counts = html("table", { "aria-label": "counts at the threshold" }, panel);
  const cells = {};
  for (const [name, label] of [["tp", "right (TP)"], ["fp", "wrong (FP)"], ["fn", "missed (FN)"], ["precision", "precision"], ["recall", "recall"]]) {
    const row = html("tr", {}, counts);
    html("th", { scope: "row" }, row, label);
    cells[name] = html("td", { class: "dl-number", "data-value": name }, row);
  }
  const choice = html("div", { class: "dl-row" }, panel);
  const select = html("select", { "aria-label": "protocol" }, choice);
  for (const [value, label] of Object.entries(model.get("protocols"))) html("option", { value }, select, label);
  select.addEventListener("change", () => { model.set("protocol", select.value); model.save_changes(); });
  html("span", {}, choice, "AP");
  const ap = html("span", { class: "dl-number", "data-value": "ap", "aria-live": "polite" }, choice);
  html("p", { class: "dl-heading" }, panel, "Detections by score (click or Enter turns one)");
  const list = html("ol", { class: "dl-queue", "aria-label": "detections by falling score" }, panel);
  errors(panel, model);

  function axes() {
    const ink = "var(--jp-ui-font-color1, #222)";
    for (let i = 0; i <= 5; i++) {
      const v = i / 5;
      svg("line", { x1: x(v), x2: x(v), y1: y(0), y2: y(1), stroke: ink, "stroke-opacity": 0.15 }, plot);
      svg("line", { x1: x(0), x2: x(1), y1: y(v), y2: y(v), stroke: ink, "stroke-opacity": 0.15 }, plot);
      svg("text", { x: x(v), y: y(0) + 16, "text-anchor": "middle", "font-size": 12, fill: ink }, plot).textContent = v.toFixed(1);
      svg("text", { x: x(0) - 6, y: y(v) + 4, "text-anchor": "end", "font-size": 12, fill: ink }, plot).textContent = v.toFixed(1);
    }
    svg("text", { x: x(0.5), y: size.h - 6, "text-anchor": "middle", "font-size": 14, fill: ink }, plot).textContent = "recall";
    svg("text", { x: 14, y: y(0.5), "text-anchor": "middle", "font-size": 14, fill: ink, transform: `rotate(-90 14 ${y(0.5)})` }, plot).textContent = "precision";
  }

  function draw() {
    const precision = model.get("precision"), recall = model.get("recall"), scores = model.get("scores");
    const shown = scores.filter((score) => score >= model.get("threshold")).length;
    const right = model.get("matched").slice(0, shown).filter(Boolean).length;
    layer.replaceChildren();
    drawEnvelope(precision, recall);
    const path = precision.map((p, i) => `${i ? "L" : "M"}${x(recall[i])} ${y(p)}`).join("");
    svg("path", { d: path, fill: "none", stroke: COLOURS.blue, "stroke-width": 2.5 }, layer);
    for (const [r, p] of model.get("readings")) svg("circle", { cx: x(r), cy: y(p), r: model.get("protocol") === "voc07" ? 5 : 2, fill: COLOURS.orange, stroke: "#000", "stroke-width": 0.5 }, layer);
    if (shown) svg("circle", { "data-point": "now", cx: x(recall[shown - 1]), cy: y(precision[shown - 1]), r: 8, fill: COLOURS.vermillion, stroke: "#fff", "stroke-width": 2.5 }, layer);
    const objects = model.get("num_ground_truth");
    cells.tp.textContent = right;
    cells.fp.textContent = shown - right;
    cells.fn.textContent = objects - right;
    cells.precision.textContent = shown ? (right / shown).toFixed(2) : "–";
    cells.recall.textContent = (right / objects).toFixed(2);
    ap.textContent = model.get("average").toFixed(3);
    select.value = model.get("protocol");
    plot.setAttribute("aria-label", `Precision ${cells.precision.textContent}, recall ${cells.recall.textContent}, AP ${ap.textContent}`);
    drawList(scores, shown);
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

  function drawList(scores, shown) {
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.rank : undefined;
    list.replaceChildren();
    scores.forEach((score, i) => {
      const hit = model.get("matched")[i];
      const names = [hit ? "dl-right" : "dl-wrong", i >= shown && "dl-below", i === shown - 1 && "dl-cut"].filter(Boolean).join(" ");
      const item = html("li", { class: names, tabindex: 0, role: "button", "data-rank": i, "aria-label": `score ${score.toFixed(2)}, ${hit ? "right" : "wrong"}; Enter turns it` }, list);
      html("span", {}, item, score.toFixed(2));
      html("span", {}, item, hit ? "✓ right" : "✗ wrong");
      const turn = () => { model.set("flip", i); model.save_changes(); };
      item.addEventListener("click", turn);
      item.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        turn();
      });
      if (focused === String(i)) item.focus();
    });
  }

  return redraw(model, ["threshold", "precision", "recall", "readings", "average", "matched", "protocol"], draw);
}

export default { render };

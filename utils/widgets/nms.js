// The NMS player: the queue of candidates on the right, the photograph with kept, suppressed and waiting boxes on the left.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "nms", "Greedy non-maximum suppression, step by step");
  const size = view.get("size"), letters = Math.max(...size) / 26;
  const canvas = photograph(picture, view);
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const classes = view.get("names").length > 0;

  const last = () => view.get("trace").length;
  const progress = slider(panel, view, "step", "boxes kept", { min: 0, max: last(), step: 1 });
  stepper(panel, view, last, 900);
  slider(panel, view, "iou_threshold", "IoU threshold", { min: 0, max: 1, step: 0.05 });
  scoreSlider(panel, view, "score_threshold", "lowest score");
  const say = spoken(panel);
  html("p", { class: "dl-heading" }, panel, "Candidates by score");
  const queue = html("ol", { class: "dl-queue", "aria-label": "candidates by falling score" }, panel);
  html("p", { class: "dl-hint" }, panel, "Thick: kept. Dashed: suppressed by the box just kept, with its IoU; faint: suppressed earlier. Thin: waiting.");
  errors(panel, view);
  redraw(view, ["trace", "step"], draw);
  return view.end;

  /** What each candidate is at the present step: kept (as which), gone (by which kept box, how far overlapping) or waiting. */
  function states() {
    const step = view.get("step"), state = new Map();
    view.get("trace").forEach((one, i) => {
      const done = i < step, now = i === step - 1;
      state.set(one.kept, done ? { kept: i + 1, now } : { waiting: true });
      for (const [j, overlap] of one.suppressed) state.set(j, done ? { gone: i + 1, by: one.kept, now, overlap } : { waiting: true });
    });
    return state;
  }

  function draw() {
    const state = states();
    progress.max = last();
    progress.value = view.get("step");
    layer.replaceChildren();
    const each = (wanted, act) => { for (const [i, s] of state) if (wanted(s)) act(view.get("boxes")[i], i, s); };
    each((s) => s.gone && !s.now, drawEarlier);
    each((s) => s.waiting, drawWaiting);
    each((s) => s.gone && s.now, drawSuppressed);
    each((s) => s.kept && !s.now, drawKept);
    each((s) => s.kept && s.now, drawNow);
    drawOverlaps([...state].filter(([, s]) => s.gone && s.now));
    list(state);
    say.textContent = sentence(state);
  }

  function colour(i, otherwise) {
    return view.get("colours")[i] || COLOURS[otherwise];
  }

  function drawEarlier(box, i, s) {
    thin(layer, box, colour(i, "vermillion"), { "data-box": i, "data-by": s.by, "data-state": "earlier", "stroke-width": 1, "stroke-opacity": 0.55, "stroke-dasharray": "2 3" });
  }

  function drawWaiting(box, i) {
    thin(layer, box, colour(i, "sky"), { "data-box": i, "data-state": "waiting", "stroke-width": 1.2, "stroke-opacity": 0.85 });
  }

  function drawKept(box, i, s) {
    outline(layer, box, colour(i, "green"), { "data-box": i, "data-state": "kept", opacity: 0.8 });
    plate(layer, [box[0], box[1]], `#${s.kept}`, colour(i, "green"), letters * 0.8, size);
  }

  function drawSuppressed(box, i, s) {
    thin(layer, box, "#000", { "stroke-width": 4, "stroke-opacity": 0.3 });
    thin(layer, box, colour(i, "vermillion"), { "data-box": i, "data-by": s.by, "data-state": "suppressed", "stroke-width": 2, "stroke-dasharray": "6 4" });
  }

  function drawNow(box, i, s) {
    outline(layer, box, colour(i, "green"), { "data-box": i, "data-state": "now", "stroke-width": 5, fill: colour(i, "green"), "fill-opacity": 0.1 });
    plate(layer, [box[0], box[1]], `#${s.kept} ${title(i)}`, colour(i, "green"), letters, size);
  }

  /** The IoU of each box just suppressed at its lower right corner, the highest first; not where another one stands. */
  function drawOverlaps(suppressed) {
    const taken = [];
    for (const [i, s] of suppressed.sort((a, b) => b[1].overlap - a[1].overlap)) {
      const [, , x, y] = view.get("boxes")[i];
      if (taken.some(([u, v]) => Math.abs(u - x) < 2.4 * letters && Math.abs(v - y) < 1.1 * letters)) continue;
      taken.push([x, y]);
      plate(layer, [x - 2.4 * letters, y], s.overlap.toFixed(2), colour(i, "vermillion"), letters * 0.8, size);
    }
  }

  /** Score, and the class's name before it. */
  function title(i) {
    return `${classes ? `${view.get("names")[i]} ` : ""}${scoreText(view, view.get("scores")[i])}`;
  }

  function list(state) {
    queue.replaceChildren();
    const scores = view.get("scores"), low = view.get("lowest"), span = view.get("highest") - low || 1;
    for (const i of [...state.keys()].sort((i, j) => i - j)) {
      const s = state.get(i);
      const names = [s.kept && "dl-kept", s.gone && "dl-gone", s.now && "dl-now"].filter(Boolean).join(" ");
      const item = html("li", { class: names, "data-candidate": i }, queue);
      html("span", { class: "dl-score" }, item, title(i));
      html("span", { class: "dl-bar", style: `width:${4 + 90 * (scores[i] - low) / span}px; background:${colour(i, "sky")}` }, item);
      html("span", {}, item, s.kept ? `✓ kept as #${s.kept}` : s.gone ? `✗ by #${s.gone}, IoU ${s.overlap.toFixed(2)}` : "");
      if (s.kept && s.now) queue.scrollTop = Math.max(0, item.offsetTop - queue.offsetTop - 40);
    }
  }

  /** What happened in this step, for eyes and screen readers. */
  function sentence(state) {
    const all = [...state], now = all.find(([, s]) => s.kept && s.now), waiting = all.filter(([, s]) => s.waiting).length;
    if (!all.length) return "No candidate has a score this high.";
    if (!now) return `${waiting} candidates wait. The best-scored one is kept first.`;
    const gone = all.filter(([, s]) => s.gone && s.now).map(([, s]) => s.overlap);
    const others = classes ? ` of class ${view.get("names")[now[0]]}` : "";
    const limit = view.get("iou_threshold").toFixed(2);
    const effect = gone.length
      ? `suppresses ${gone.length} box${gone.length === 1 ? "" : "es"}${others} with an IoU above ${limit} (highest ${Math.max(...gone).toFixed(2)})`
      : `suppresses nothing: no waiting box${others} has an IoU above ${limit}`;
    return `#${now[1].kept}, score ${scoreText(view, view.get("scores")[now[0]])}, is kept and ${effect}. ${waiting ? `${waiting} still wait.` : "The queue is empty: done."}`;
  }
}

export default { render };

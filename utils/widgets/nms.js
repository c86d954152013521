// The NMS player: the queue of candidates on the right, the photograph with kept, suppressed and waiting boxes on the left.

function render({ model, el }) {
  const { picture, panel } = frame(el, "nms", "Greedy non-maximum suppression, step by step");
  const canvas = photograph(picture, model);
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const [width, height] = model.get("size");
  const letters = Math.max(width, height) / 26;

  const stepper = slider(panel, model, "step", "boxes kept", { min: 0, max: model.get("trace").length, step: 1 });
  const row = html("div", { class: "dl-row" }, panel);
  const go = (by) => {
    const next = Math.min(Math.max(model.get("step") + by, 0), model.get("trace").length);
    model.set("step", next);
    model.save_changes();
    return next < model.get("trace").length;
  };
  button(row, "◀ Back", () => go(-1));
  button(row, "Next ▶", () => go(1));
  const stop = player(row, () => { if (model.get("step") >= model.get("trace").length) model.set("step", 0); return go(1); }, 900);
  slider(panel, model, "iou_threshold", "IoU threshold", { min: 0, max: 1, step: 0.05 });
  slider(panel, model, "score_threshold", "lowest score", { min: model.get("lowest"), max: model.get("highest"), step: 0.01 });
  const say = html("p", { class: "dl-say", "aria-live": "polite" }, panel);
  html("p", { class: "dl-heading" }, panel, "Candidates by score");
  const queue = html("ol", { class: "dl-queue", "aria-label": "candidates by falling score" }, panel);
  errors(panel, model);

  /** What each candidate is at the present step: kept, gone (and with which overlap), now or waiting. */
  function states() {
    const trace = model.get("trace"), step = model.get("step"), state = new Map();
    trace.slice(0, step).forEach((one, i) => {
      const now = i === step - 1;
      state.set(one.kept, { kept: true, now });
      for (const [j, overlap] of one.suppressed) state.set(j, { gone: true, now, overlap });
    });
    for (const one of trace.slice(step)) {
      state.set(one.kept, { waiting: true });
      for (const [j] of one.suppressed) state.set(j, { waiting: true });
    }
    return state;
  }

  function draw() {
    const state = states(), boxes = model.get("boxes");
    stepper.max = model.get("trace").length;
    layer.replaceChildren();
    const each = (wanted, act) => { for (const [i, s] of state) if (wanted(s)) act(boxes[i], i, s); };
    each((s) => s.waiting, (box) => svg("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], fill: "none", stroke: COLOURS.sky, "stroke-opacity": 0.8, "stroke-width": 1, "vector-effect": "non-scaling-stroke" }, layer));
    each((s) => s.gone && s.now, (box, i, s) => {
      outline(layer, box, COLOURS.vermillion, { "stroke-dasharray": "6 4", opacity: 0.9 });
      plate(layer, box[2] - 4 * letters * 0.6, box[3], s.overlap.toFixed(2), COLOURS.vermillion, letters * 0.8);
    });
    each((s) => s.kept && !s.now, (box) => outline(layer, box, COLOURS.green, { opacity: 0.75 }));
    each((s) => s.kept && s.now, (box, i) => {
      outline(layer, box, COLOURS.green, { "stroke-width": 5 });
      plate(layer, box[0], box[1], `keep ${model.get("scores")[i].toFixed(2)}`, COLOURS.green, letters);
    });
    list(state);
    say.textContent = sentence(state);
  }

  function list(state) {
    queue.replaceChildren();
    const scores = model.get("scores"), low = model.get("lowest"), span = model.get("highest") - low || 1;
    [...state.keys()].sort((i, j) => i - j).forEach((i) => {
      const s = state.get(i);
      const names = [s.kept && "dl-kept", s.gone && "dl-gone", s.now && "dl-now"].filter(Boolean).join(" ");
      const item = html("li", { class: names, "data-candidate": i }, queue);
      html("span", {}, item, scores[i].toFixed(2));
      html("span", { class: "dl-bar", style: `width:${4 + 90 * (scores[i] - low) / span}px` }, item);
      html("span", {}, item, s.kept ? "✓ kept" : s.gone ? `✗ overlaps by ${s.overlap.toFixed(2)}` : "");
      if (s.kept && s.now) queue.scrollTop = Math.max(0, item.offsetTop - queue.offsetTop - 40);
    });
  }

  function sentence(state) {
    const all = [...state.values()], count = (test) => all.filter(test).length;
    const kept = count((s) => s.kept), waiting = count((s) => s.waiting), now = count((s) => s.gone && s.now);
    if (!kept) return `${waiting} candidates wait. The best-scored one is kept first.`;
    const done = waiting ? `${waiting} still wait.` : "The queue is empty: done.";
    return `Kept ${kept}. This one suppresses ${now} box${now === 1 ? "" : "es"} that overlap it by more than ${model.get("iou_threshold").toFixed(2)}. ${done}`;
  }

  const stopDrawing = redraw(model, ["trace", "step"], draw);
  return () => { stop(); stopDrawing(); };
}

export default { render };

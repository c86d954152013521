// Detections above a score threshold.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "threshold", "Detections above a score threshold");
  const size = view.get("size"), letters = Math.max(...size) / 26;
  const canvas = photograph(picture, view);
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  scoreSlider(panel, view, "threshold", "score threshold");
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["threshold"], draw);
  return view.end;

  function draw() {
    layer.replaceChildren();
    const scores = view.get("scores"), boxes = view.get("boxes"), colours = view.get("colours");
    const shown = scores.map((score, i) => i).filter((i) => scores[i] >= view.get("threshold"));
    for (const i of shown) outline(layer, boxes[i], colours[i]);
    for (const i of shown.slice().reverse()) plate(layer, [boxes[i][0], boxes[i][1]], title(i), colours[i], letters, size);
    say.textContent = sentence(shown);
  }

  function title(i) {
    return `${view.get("names")[i]} ${scoreText(view, view.get("scores")[i])}`;
  }

  function sentence(shown) {
    const count = `${shown.length} of ${view.get("scores").length} detections`;
    if (!shown.length) return `${count}.`;
    return `${count}: ${shown.slice(0, 8).map(title).join(", ")}${shown.length > 8 ? ", …" : "."}`;
  }
}

export default { render };

// Detections above a score threshold.

function render({ model, el }) {
  const { picture, panel } = frame(el, "threshold", "Detections above a score threshold");
  const canvas = photograph(picture, model);
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const letters = Math.max(...model.get("size")) / 26;
  slider(panel, model, "threshold", "score threshold", { min: model.get("lowest"), max: model.get("highest"), step: 0.01 });
  const say = html("p", { class: "dl-say", "aria-live": "polite" }, panel);
  errors(panel, model);

  function draw() {
    layer.replaceChildren();
    const scores = model.get("scores"), names = model.get("names"), colours = model.get("colours");
    const shown = scores.map((score, i) => i).filter((i) => scores[i] >= model.get("threshold"));
    for (const i of shown.slice().reverse()) {
      const box = model.get("boxes")[i];
      outline(layer, box, colours[i]);
      plate(layer, box[0], box[1], `${names[i]} ${scores[i].toFixed(2)}`, colours[i], letters);
    }
    const listed = shown.slice(0, 8).map((i) => `${names[i]} ${scores[i].toFixed(2)}`).join(", ");
    say.textContent = `${shown.length} of ${scores.length} detections${listed ? `: ${listed}` : ""}${shown.length > 8 ? ", …" : "."}`;
  }

  return redraw(model, ["threshold"], draw);
}

export default { render };

// Regions merging: one picture a stage, the newest region's box on top.

function render({ model, el }) {
  const { picture, panel } = frame(el, "hierarchy", "Selective Search: segments merge into regions");
  const canvas = photograph(picture, model);
  const shown = canvas.querySelector("image");
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const last = model.get("frames").length - 1;
  slider(panel, model, "step", "stage", { min: 0, max: last, step: 1 });
  const row = html("div", { class: "dl-row" }, panel);
  const go = (by) => {
    const next = Math.min(Math.max(model.get("step") + by, 0), last);
    model.set("step", next);
    model.save_changes();
    return next < last;
  };
  button(row, "◀ Back", () => go(-1));
  button(row, "Next ▶", () => go(1));
  const stop = player(row, () => { if (model.get("step") >= last) model.set("step", 0); return go(1); }, 500);
  const bare = html("label", {}, html("div", { class: "dl-row" }, panel));
  const box = html("input", { type: "checkbox" }, bare);
  bare.append(" show the photograph alone");
  const say = html("p", { class: "dl-say", "aria-live": "polite" }, panel);
  errors(panel, model);

  function draw() {
    const step = model.get("step");
    shown.setAttribute("href", box.checked ? model.get("image") : model.get("frames")[step]);
    layer.replaceChildren();
    if (model.get("boxes")[step].length) outline(layer, model.get("boxes")[step], "#ffffff", { "stroke-dasharray": "7 4", "stroke-width": 3 });
    say.textContent = `${model.get("captions")[step]}. Dashed: the box of the newest region.`;
  }

  box.addEventListener("change", draw);
  const stopDrawing = redraw(model, ["step"], draw);
  return () => { stop(); stopDrawing(); };
}

export default { render };

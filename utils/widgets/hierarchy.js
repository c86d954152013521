// Regions merging: one picture a stage, the newest region's box on top.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "hierarchy", "Selective Search: segments merge into regions");
  const canvas = photograph(picture, view);
  const shown = canvas.querySelector("image");
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const last = () => view.get("frames").length - 1;
  slider(panel, view, "step", "stage", { min: 0, max: last(), step: 1 });
  stepper(panel, view, last, 500);
  const bare = html("label", {}, html("div", { class: "dl-row" }, panel));
  const box = html("input", { type: "checkbox" }, bare);
  bare.append(" show the photograph alone");
  const say = spoken(panel);
  errors(panel, view);
  box.addEventListener("change", draw);
  redraw(view, ["step"], draw);
  return view.end;

  function draw() {
    const step = view.get("step"), newest = view.get("boxes")[step];
    shown.setAttribute("href", box.checked ? view.get("image") : view.get("frames")[step]);
    layer.replaceChildren();
    if (newest.length) outline(layer, newest, "#fff", { "stroke-dasharray": "7 4", "stroke-width": 3 });
    say.textContent = `${view.get("captions")[step]}.${newest.length ? " Dashed: the box of the newest region." : ""}`;
  }
}

export default { render };

// The proposal explorer: the heat map of one kind of anchor, the best proposals, and the objects they cover.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "proposals", "Proposals of a region proposal network");
  const [width, height] = view.get("size");
  const canvas = photograph(picture, view);
  const heat = svg("image", { "data-heat": "", x: 0, y: 0, width, height, preserveAspectRatio: "none", opacity: 0.6, style: "image-rendering: pixelated" }, canvas);
  const layer = clipped(canvas, view);
  const last = view.get("proposals").length;

  slider(panel, view, "kept", "proposals kept", { min: 0, max: last, step: 1 });
  choice(html("div", { class: "dl-row" }, panel), view, "iou_threshold", "covered from IoU", Object.keys(view.get("recall")).map((name) => [name, name]));
  choice(html("div", { class: "dl-row" }, panel), view, "heat", "heat map of", [...Object.keys(view.get("heats")).map((name) => [name, name]), ["", "nothing"]]);
  scale();
  const say = spoken(panel);
  html("p", { class: "dl-hint" }, panel, "Orange: proposals. Green: true boxes that one of them covers. Dashed white: true boxes that none covers.");
  errors(panel, view);
  redraw(view, ["kept", "iou_threshold", "heat"], draw);
  return view.end;

  function scale() {
    const row = html("div", { class: "dl-row", "aria-hidden": "true" }, panel);
    html("span", {}, row, "objectness 0");
    html("div", { class: "dl-scale", style: "background: linear-gradient(to right, #440154, #3b528b, #21918c, #5ec962, #fde725)" }, row);
    html("span", {}, row, "1");
  }

  function draw() {
    const name = view.get("heat"), kept = view.get("kept");
    heat.setAttribute("href", view.get("heats")[name] || "");
    heat.style.display = name ? "" : "none";
    layer.replaceChildren();
    const shown = view.get("proposals").slice(0, kept);
    for (const box of shown.slice().reverse()) thin(layer, box, COLOURS.orange, { "data-proposal": "", "stroke-width": 1.3, "stroke-opacity": kept > 60 ? 0.5 : 0.95 });
    view.get("truth").forEach((box, i) => drawTruth(box, view.get("first")[view.get("iou_threshold")][i] < kept));
    say.textContent = sentence(kept);
  }

  function drawTruth(box, covered) {
    outline(layer, box, covered ? COLOURS.green : "#fff", { "data-truth": covered ? "covered" : "missed", "stroke-width": 3, "stroke-dasharray": covered ? "none" : "6 4" });
  }

  function sentence(kept) {
    const all = view.get("truth").length, limit = view.get("iou_threshold");
    if (!last) return "The network proposes nothing here.";
    if (!all) return `The best ${kept} of ${last} proposals. There is no object: recall is not defined.`;
    const hit = view.get("recall")[limit][kept];
    return `The best ${kept} of ${last} proposals cover ${hit} of ${all} objects at IoU ${limit}: recall ${(hit / all).toFixed(2)}.`;
  }
}

export default { render };

// DETR's attention over a photograph, from a place or from a detected object; Python computes the maps.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "attention", "Where DETR looks");
  const size = view.get("size"), unit = Math.max(...size) / 100, letters = 3.4 * unit;
  const [columns, rows] = view.get("grid"), [wide, high] = view.get("cell_size");
  const canvas = photograph(picture, view);
  canvas.querySelector("image").style.filter = "grayscale(0.8)"; // colours belong to the map
  const veil = map(clipped(canvas, view), columns * wide, rows * high);
  const layer = clipped(canvas, view);
  const aim = aimable(canvas, view, "The chosen cell", ({ x, y }) => chooseCell(Math.floor(x / wide), Math.floor(y / high)), (dx, dy) => chooseCell(view.get("cell")[0] + dx, view.get("cell")[1] + dy));
  const marks = ["dl-ring", "dl-frame"].map((name) => svg("rect", { class: name, width: wide, height: high, fill: "none", stroke: "#fff" }, aim));
  const scale = html("div", { class: "dl-row" }, picture);
  html("span", {}, scale, "weight 0");
  html("div", { class: "dl-scale", style: "background: linear-gradient(to right, #440154, #3b528b, #21918c, #5ec962, #fde725)" }, scale);
  const largest = html("output", { "data-value": "largest" }, scale);
  html("p", { class: "dl-hint" }, picture, "Click a place, or Tab to the white square and use the arrow keys: what the encoder looks at from there. Choose an object: what its query looks at in the decoder.");

  choice(html("div", { class: "dl-row" }, panel), view, "kind", "attention", [["encoder", "encoder: of the chosen place"], ["decoder", "decoder: of the chosen object"]]);
  const depth = slider(panel, view, "layer", "layer", { min: 1, max: view.get("layers"), step: 1 });
  html("p", { class: "dl-heading" }, panel, "Heads");
  const heads = view.get("heads");
  const small = tiles(panel, view, "head", "heads", heads, 5).map((node, i) => {
    const one = svg("svg", { viewBox: `0 0 ${columns * wide} ${rows * high}`, "aria-hidden": "true" }, node);
    html("span", {}, node, i ? `head ${heads[i]}` : "mean");
    return map(one, columns * wide, rows * high, 1);
  });
  const say = spoken(panel);
  html("p", { class: "dl-heading" }, panel, view.get("objects").length ? "Detected objects" : "No object is sure enough");
  const list = html("ol", { class: "dl-queue", "aria-label": "detected objects, surest first" }, panel);
  errors(panel, view);
  redraw(view, ["veils", "kind", "head", "largest", "message"], drawMaps);
  redraw(view, ["kind", "cell", "chosen"], drawMarks);
  redraw(view, ["layers", "layer"], () => { depth.max = view.get("layers"); depth.value = view.get("layer"); });
  return view.end;

  function map(parent, width, height, opacity = 0.6) {
    return svg("image", { "data-veil": "", x: 0, y: 0, width, height, opacity, preserveAspectRatio: "none", style: "image-rendering: pixelated" }, parent);
  }

  function chooseCell(x, y) {
    view.set("cell", [Math.min(Math.max(x, 0), columns - 1), Math.min(Math.max(y, 0), rows - 1)]);
    view.set("kind", "encoder"); // also where the cell was chosen before
  }

  function chooseObject(i) {
    view.set("chosen", i);
    view.set("kind", "decoder");
  }

  function drawMaps() {
    const veils = view.get("veils");
    veil.setAttribute("href", veils[view.get("head")] || "");
    small.forEach((one, i) => one.setAttribute("href", veils[heads[i]]));
    largest.textContent = view.get("largest").toFixed(3);
    say.textContent = view.get("message");
  }

  function drawMarks() {
    const decoder = view.get("kind") === "decoder", objects = view.get("objects"), chosen = view.get("chosen"), [x, y] = view.get("cell");
    for (const mark of marks) {
      mark.setAttribute("x", x * wide);
      mark.setAttribute("y", y * high);
      mark.setAttribute("opacity", decoder ? 0.35 : 1);
    }
    layer.replaceChildren();
    const now = (i) => decoder && i === chosen;
    objects.forEach((one, i) => outline(layer, one.box, one.colour, { "data-object": i, "data-now": now(i), "stroke-width": now(i) ? 4.5 : 1.8, ...(now(i) ? {} : { "stroke-dasharray": "6 4" }) }));
    objects.forEach((one) => plate(layer, one.box, one.name, one.colour, letters, size));
    chosenList(list, objects, chosen, chooseObject, (item, one) => {
      item.style.borderColor = one.colour;
      html("span", { class: "dl-score" }, item, one.score.toFixed(2));
      html("span", {}, item, `${one.name}, query ${one.query}`);
    });
  }
}

export default { render };

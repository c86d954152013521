// Pairs of corners and the centres that confirm them; Python pairs and judges.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "triplets", "Boxes from corners, with and without the test of the centre");
  const size = view.get("size"), unit = Math.max(...size) / 100;
  const canvas = photograph(picture, view), layer = clipped(canvas, view);
  html("p", { class: "dl-hint" }, picture, "Blue: right, red and dashed: wrong (IoU with an object of the class below 0.5), dotted white: true. Triangles: corners, dots: centres, in the colour of their class. White field: the middle of the chosen box, where a centre has to lie.");

  toggle(html("div", { class: "dl-row" }, panel), view, "central", "a centre must lie in the middle");
  slider(panel, view, "distance", "tags differ by at most", { min: 0, max: 3, step: 0.05 });
  slider(panel, view, "lowest", "lowest score", { min: 0, max: 1, step: 0.01 });
  html("p", { class: "dl-heading" }, panel, "Pairs by score");
  const list = html("ol", { class: "dl-queue", "aria-label": "pairs of corners by falling score" }, panel);
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["pairs", "keypoints", "chosen", "central", "message"], draw);
  return view.end;

  function draw() {
    layer.replaceChildren();
    const pairs = view.get("pairs"), chosen = pairs[view.get("chosen")], gone = (one) => view.get("central") && !one.kept;
    for (const box of view.get("truth")) thin(layer, box, "#fff", { "data-truth": "", "stroke-width": 1.5, "stroke-dasharray": "2 3" });
    pairs.forEach((one, i) => {
      if (!gone(one) && one !== chosen) thin(layer, one.box, one.right ? COLOURS.blue : COLOURS.vermillion, { "data-pair": i, "data-right": one.right, "stroke-width": 1.8, "stroke-dasharray": one.right ? "none" : "6 4" });
    });
    if (chosen) {
      const [x1, y1, x2, y2] = chosen.region;
      outline(layer, chosen.box, chosen.right ? COLOURS.blue : COLOURS.vermillion, { "data-pair": view.get("chosen"), "data-right": chosen.right, "stroke-width": 4, opacity: gone(chosen) ? 0.5 : 1 });
      svg("rect", { "data-region": "", x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "#fff", "fill-opacity": 0.45, stroke: "#000", "stroke-width": unit / 4 }, layer);
    }
    view.get("keypoints").forEach(drawKeypoint);
    drawList(pairs, gone);
    say.textContent = view.get("message");
  }

  function drawKeypoint({ kind, x, y, colour }) {
    const style = { "data-keypoint": kind, fill: colour, stroke: "#fff", "stroke-width": unit * 0.35 }, r = 1.5 * unit;
    if (kind === "centre") svg("circle", { cx: x, cy: y, r, ...style }, layer);
    else svg("path", { d: kind === "top_left" ? `M${x - r} ${y + r}L${x} ${y - r}L${x + r} ${y + r}Z` : `M${x - r} ${y - r}L${x} ${y + r}L${x + r} ${y - r}Z`, ...style }, layer);
  }

  function drawList(pairs, gone) {
    chosenList(list, pairs, view.get("chosen"), (i) => view.set("chosen", i), (item, one) => {
      item.classList.add(one.right ? "dl-right" : "dl-wrong");
      item.classList.toggle("dl-gone", gone(one));
      html("span", { class: "dl-score" }, item, one.score.toFixed(2));
      html("span", {}, item, `${one.name}, ${one.right ? "right" : "wrong"}${one.kept ? ", has a centre" : ""}`);
    });
  }
}

export default { render };

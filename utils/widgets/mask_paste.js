// A mask's threshold: the head's square of numbers, and the mask in its box on the photograph.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "mask_paste", "A mask stretched over its box and cut at a threshold");
  const canvas = photograph(picture, view);
  const [width, height] = view.get("size");
  const veil = svg("image", { x: 0, y: 0, width, height, "pointer-events": "none", "data-veil": "" }, canvas);
  const layer = svg("g", { "pointer-events": "none" }, canvas);
  const empty = !view.get("names").length;
  if (!empty) {
    slider(panel, view, "threshold", "threshold", { min: 0, max: 1, step: 0.01 });
    if (view.get("names").length > 1) choice(html("div", { class: "dl-row" }, panel), { ...view, set: (name, value) => view.set(name, Number(value)) }, "chosen", "detection", view.get("names").map((name, i) => [i, `${i + 1}: ${name}`]));
    html("p", { class: "dl-heading" }, panel, "What the head drew (white: 1, outlined: above the threshold)");
  }
  const square = empty ? null : svg("svg", { viewBox: "0 0 1 1", role: "img" }, panel);
  if (square) square.style.maxWidth = "260px";
  const say = spoken(panel);
  errors(panel, view);
  redraw(view, ["threshold", "chosen", "veil", "message"], draw);
  return view.end;

  function draw() {
    say.textContent = view.get("message");
    layer.replaceChildren();
    if (empty) return;
    const now = view.get("chosen");
    veil.setAttribute("href", view.get("veil"));
    outline(layer, view.get("boxes")[now], "#fff", { "stroke-dasharray": "7 4" });
    drawSquare(view.get("squares")[now]);
  }

  /** The numbers as grey cells; an edge where a cell above the threshold meets one below. */
  function drawSquare(rows) {
    const side = rows.length, cut = Math.round(view.get("threshold") * 100);
    const above = (y, x) => rows[y] !== undefined && rows[y][x] !== undefined && rows[y][x] >= cut;
    square.setAttribute("viewBox", `0 0 ${side} ${side}`);
    square.setAttribute("aria-label", `${rows.flat().filter((value) => value >= cut).length} of ${side * side} cells reach the threshold`);
    square.replaceChildren();
    const cells = svg("g", {}, square);
    let edges = "";
    rows.forEach((row, y) => row.forEach((value, x) => {
      const grey = Math.round(value * 2.55);
      svg("rect", { x, y, width: 1.02, height: 1.02, fill: `rgb(${grey},${grey},${grey})` }, cells);
      if (above(y, x) !== above(y, x + 1) && x + 1 < side) edges += `M${x + 1} ${y}v1`;
      if (above(y, x) !== above(y + 1, x) && y + 1 < side) edges += `M${x} ${y + 1}h1`;
    }));
    svg("path", { d: edges || "M0 0", fill: "none", stroke: view.get("colours")[view.get("chosen")], "stroke-width": side / 60 }, square);
  }
}

export default { render };

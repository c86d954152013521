// The level explorer: a box to drag, the equation with its numbers, and the box's cells on every level of the pyramid.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "levels", "A box and the level of a feature pyramid that its size sends it to");
  const size = view.get("size");
  const canvas = photograph(picture, view);
  const layer = clipped(canvas, view);
  draggableBox(canvas, view, "box", "A", COLOURS.vermillion, { label: "Box A" });

  const sum = html("p", { class: "dl-sum", "data-value": "equation" }, panel);
  const say = spoken(panel);
  slider(panel, view, "canonical_size", "canonical size", { min: 16, max: 448, step: 1 });
  const small = html("div", { class: "dl-small" }, panel);
  html("p", { class: "dl-hint" }, panel, "Orange: cells that the box touches. The picture shows the grid of the chosen level. Keys: Tab, arrows, Shift, Alt or Ctrl to resize.");
  errors(panel, view);
  redraw(view, ["box", "levels", "equation", "message"], draw);
  return view.end;

  function draw() {
    sum.textContent = view.get("equation");
    say.textContent = view.get("message");
    layer.replaceChildren();
    small.replaceChildren();
    for (const level of view.get("levels")) {
      if (level.chosen) drawCells(layer, level, 24);
      drawSmall(level);
    }
  }

  function drawCells(parent, { stride, cells }, strength) {
    const [left, top, right, bottom] = cells.map((end) => end * stride);
    svg("rect", { "data-cells": stride, x: left, y: top, width: right - left, height: bottom - top, fill: COLOURS.orange, "fill-opacity": 0.45 }, parent);
    gridLines(parent, stride, size, strength);
  }

  function drawSmall(level) {
    const [left, top, right, bottom] = level.cells;
    const one = html("figure", { class: level.chosen ? "dl-chosen" : "", "data-level": level.name }, small);
    const canvas = photograph(one, view);
    canvas.setAttribute("role", "presentation"); // the caption says it
    const group = clipped(canvas, view);
    drawCells(group, level, 10);
    outline(group, view.get("box"), level.chosen ? COLOURS.vermillion : "#fff", { "stroke-width": 1.5 });
    html("figcaption", {}, one, `${level.name}, stride ${level.stride}: ${right - left} × ${bottom - top} cells${level.chosen ? " ✓" : ""}`);
  }
}

export default { render };

// What all widgets share. Python computes every number; the scripts draw and listen.

const COLOURS = { blue: "#0072B2", vermillion: "#D55E00", green: "#009E73", orange: "#E69F00", sky: "#56B4E9", purple: "#CC79A7" };

function svg(tag, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  if (parent) parent.appendChild(node);
  return node;
}

function html(tag, attributes, parent, text) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

/** The root element, with a picture on the left, a panel on the right and a line for errors. */
function frame(el, name, label) {
  // JupyterLab would take arrow keys for itself
  const root = html("div", { class: "dl-widget", "data-widget": name, role: "group", "aria-label": label, "data-lm-suppress-shortcuts": "true" }, el);
  const picture = html("div", { class: "dl-picture" }, root);
  const panel = html("div", { class: "dl-panel" }, root);
  return { root, picture, panel };
}

/** An SVG with a photograph in it, in the image's own pixel coordinates. */
function photograph(parent, model) {
  const [width, height] = model.get("size");
  const canvas = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" }, parent);
  svg("image", { href: model.get("image"), x: 0, y: 0, width, height, "image-rendering": width < 200 ? "auto" : "auto" }, canvas);
  return canvas;
}

/** A labelled slider bound to one trait; its readout shows the value. */
function slider(parent, model, trait, label, options) {
  const row = html("div", { class: "dl-row" }, parent);
  const id = `dl-${trait}-${Math.random().toString(36).slice(2)}`;
  html("label", { for: id }, row, label);
  const input = html("input", { type: "range", id, "data-slider": trait, ...options }, row);
  const readout = html("output", { for: id, "data-value": trait }, row);
  const digits = Number(options.step) < 1 ? 2 : 0;
  const show = () => { input.value = model.get(trait); readout.textContent = Number(model.get(trait)).toFixed(digits); };
  const take = () => { model.set(trait, Number(input.value)); model.save_changes(); show(); };
  input.addEventListener("input", take);
  // JupyterLab keeps arrow keys from doing what they do on a slider, so it is done here
  input.addEventListener("keydown", (event) => {
    const step = Number(input.step) * (event.shiftKey ? 10 : 1), now = Number(input.value);
    const next = { ArrowRight: now + step, ArrowUp: now + step, ArrowLeft: now - step, ArrowDown: now - step,
      PageUp: now + 10 * step, PageDown: now - 10 * step, Home: Number(input.min), End: Number(input.max) }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    input.value = next; // the browser keeps it within its ends
    take();
  });
  model.on(`change:${trait}`, show);
  show();
  return input;
}

function button(parent, text, act) {
  const node = html("button", { type: "button" }, parent, text);
  node.addEventListener("click", act);
  return node;
}

/** A Play / Pause button; `tick` is called until it returns false. The last return value stops a running timer. */
function player(parent, tick, milliseconds) {
  let timer = null;
  const node = button(parent, "▶ Play", () => (timer === null ? start() : stop()));
  const stop = () => { clearInterval(timer); timer = null; node.textContent = "▶ Play"; };
  const start = () => {
    node.textContent = "⏸ Pause";
    timer = setInterval(() => { if (tick() === false) stop(); }, milliseconds);
  };
  return stop;
}

/** The sentence of the last error in Python, which a notebook would swallow. */
function errors(parent, model) {
  const line = html("p", { class: "dl-error", role: "alert" }, parent);
  const show = () => { line.textContent = model.get("error"); };
  model.on("change:error", show);
  show();
}

/** Calls `draw` now and whenever one of the traits changes; returns what undoes it. */
function redraw(model, traits, draw) {
  const names = traits.map((trait) => `change:${trait}`).join(" ");
  model.on(names, draw);
  draw();
  return () => model.off(names, draw);
}

/** A rectangle with a dark ring below, to be seen on any photograph. */
function outline(parent, [x1, y1, x2, y2], colour, options) {
  const shape = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
  svg("rect", { class: "dl-ring", ...shape, opacity: (options || {}).opacity || 1 }, parent);
  return svg("rect", { class: "dl-frame", ...shape, fill: "none", stroke: colour, ...options }, parent);
}

/** A short text on a plate that stays inside the picture. */
function plate(parent, x, y, text, colour, size) {
  const group = svg("g", {}, parent);
  const width = text.length * size * 0.6 + size * 0.5;
  const top = y - size * 1.3 < 0 ? y : y - size * 1.3;
  svg("rect", { x, y: top, width, height: size * 1.3, fill: colour, rx: 1 }, group);
  const dark = [COLOURS.orange, COLOURS.sky, COLOURS.purple].includes(colour);
  svg("text", { x: x + size * 0.25, y: top + size, "font-size": size, "font-weight": 600, fill: dark ? "#000" : "#fff" }, group).textContent = text;
  return group;
}

// What all widgets share. Python computes every number; the scripts draw and listen.

const COLOURS = { blue: "#0072B2", vermillion: "#D55E00", green: "#009E73", orange: "#E69F00", sky: "#56B4E9", purple: "#CC79A7", yellow: "#F0E442" };

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

/** One view's handle on the model: sets and saves, numbers ids, and `end` takes back its listeners and timers. */
function connect(model) {
  // counted on the window: every widget loads a copy of this script, and all copies share one page
  const number = (globalThis.dlWidgetViews = (globalThis.dlWidgetViews || 0) + 1);
  const undo = [];
  return {
    get: (trait) => model.get(trait),
    set: (trait, value) => { model.set(trait, value); model.save_changes(); },
    on: (trait, act) => { model.on(`change:${trait}`, act); undo.push(() => model.off(`change:${trait}`, act)); },
    id: (name) => `dl-${number}-${name}`,
    atEnd: (act) => undo.push(act),
    end: () => undo.splice(0).forEach((act) => act()),
  };
}

/** The root element, with a picture on the left and a panel on the right. */
function frame(el, name, label) {
  // JupyterLab would take arrow keys for itself
  const root = html("div", { class: "dl-widget", "data-widget": name, role: "group", "aria-label": label, "data-lm-suppress-shortcuts": "true" }, el);
  const picture = html("div", { class: "dl-picture" }, root);
  const panel = html("div", { class: "dl-panel" }, root);
  return { root, picture, panel };
}

/** An SVG with a photograph in it, in the image's own pixel coordinates. */
function photograph(parent, view) {
  const [width, height] = view.get("size");
  const canvas = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" }, parent);
  svg("image", { href: view.get("image"), x: 0, y: 0, width, height }, canvas);
  return canvas;
}

/** Calls `draw` now and whenever one of the traits changes. */
function redraw(view, traits, draw) {
  for (const trait of traits) view.on(trait, draw);
  draw();
}

/** A labelled slider bound to one trait; its readout shows the value with as many digits as a step has. */
function slider(parent, view, trait, label, options) {
  const row = html("div", { class: "dl-row" }, parent);
  const id = view.id(trait);
  html("label", { for: id }, row, label);
  const input = html("input", { type: "range", id, "data-slider": trait, ...options }, row);
  const readout = html("output", { for: id, "data-value": trait }, row);
  const digits = digitsOf(Number(options.step));
  const show = () => { input.value = view.get(trait); readout.textContent = Number(view.get(trait)).toFixed(digits); };
  const take = () => { view.set(trait, Number(input.value)); show(); };
  input.addEventListener("input", take);
  // JupyterLab keeps arrow keys from doing what they do on a slider, so it is done here
  input.addEventListener("keydown", (event) => {
    const step = Number(input.step) * (event.shiftKey ? 10 : 1), now = Number(input.value);
    const next = { ArrowRight: now + step, ArrowUp: now + step, ArrowLeft: now - step, ArrowDown: now - step,
      PageUp: now + 10 * step, PageDown: now - 10 * step, Home: Number(input.min), End: Number(input.max) }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    input.value = next; // the browser keeps it within its ends and on its steps
    take();
  });
  redraw(view, [trait], show);
  return input;
}

/** A slider over scores: ends and step fit them, see `slider_range` in base.py. */
function scoreSlider(parent, view, trait, label) {
  return slider(parent, view, trait, label, { min: view.get("lowest"), max: view.get("highest"), step: view.get("score_step") });
}

/** A score with as many digits as the slider's readout. */
function scoreText(view, score) {
  return score.toFixed(digitsOf(view.get("score_step")));
}

/** Digits behind the point: none for whole steps, else two, or more for finer steps. */
function digitsOf(step) {
  return Number.isInteger(step) ? 0 : Math.max(2, Math.ceil(-Math.log10(step) - 1e-9));
}

function button(parent, text, act) {
  const node = html("button", { type: "button" }, parent, text);
  node.addEventListener("click", act);
  return node;
}

/** A labelled choice bound to one trait; `options` are pairs of value and text. */
function choice(parent, view, trait, label, options) {
  const id = view.id(trait);
  html("label", { for: id }, parent, label);
  const select = html("select", { id }, parent);
  for (const [value, text] of options) html("option", { value }, select, text);
  select.addEventListener("change", () => view.set(trait, select.value));
  redraw(view, [trait], () => { select.value = view.get(trait); });
  return select;
}

/** A Play / Pause button; `tick` is called until it returns false, or until the view ends. */
function player(parent, view, tick, milliseconds) {
  let timer = null;
  const node = button(parent, "▶ Play", () => (timer === null ? start() : stop()));
  const stop = () => { clearInterval(timer); timer = null; node.textContent = "▶ Play"; };
  const start = () => {
    node.textContent = "⏸ Pause";
    timer = setInterval(() => { if (tick() === false) stop(); }, milliseconds);
  };
  view.atEnd(stop);
}

/** Back, Next and Play through the trait `step`, which goes from 0 to `last()`. */
function stepper(parent, view, last, milliseconds) {
  const row = html("div", { class: "dl-row" }, parent);
  const go = (by) => {
    const next = Math.min(Math.max(view.get("step") + by, 0), last());
    view.set("step", next);
    return next < last();
  };
  button(row, "◀ Back", () => go(-1));
  button(row, "Next ▶", () => go(1));
  player(row, view, () => { if (view.get("step") >= last()) view.set("step", 0); return go(1); }, milliseconds);
}

/** A line of text that screen readers speak when it changes. */
function spoken(parent) {
  return html("p", { class: "dl-say", "aria-live": "polite" }, parent);
}

/** The sentence of the last error in Python, which a notebook would swallow. */
function errors(parent, view) {
  const line = html("p", { class: "dl-error", role: "alert" }, parent);
  redraw(view, ["error"], () => { line.textContent = view.get("error"); });
}

/** A rectangle with a dark ring below, to be seen on any photograph. */
function outline(parent, [x1, y1, x2, y2], colour, options) {
  const shape = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
  svg("rect", { class: "dl-ring", ...shape, opacity: (options || {}).opacity || 1 }, parent);
  return svg("rect", { class: "dl-frame", ...shape, fill: "none", stroke: colour, ...options }, parent);
}

/** A short text on a plate that stays inside a picture of the given size [width, height]. */
function plate(parent, [x, y], text, colour, letters, [width, height]) {
  const group = svg("g", {}, parent), wide = text.length * letters * 0.58 + letters * 0.5, high = letters * 1.3;
  const left = Math.max(0, Math.min(x, width - wide)), top = Math.max(0, Math.min(y < high ? y : y - high, height - high));
  svg("rect", { x: left, y: top, width: wide, height: high, fill: colour, rx: letters / 6 }, group);
  const ink = [COLOURS.blue, COLOURS.vermillion].includes(colour) ? "#fff" : "#000"; // the others are too light for white
  svg("text", { x: left + wide / 2, y: top + letters, "text-anchor": "middle", "font-size": letters, "font-weight": 600, fill: ink }, group).textContent = text;
  return group;
}

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

/** A layer over the photograph for what may reach beyond its edges, cut off there. */
function clipped(canvas, view) {
  const [width, height] = view.get("size");
  return svg("svg", { class: "dl-clip", x: 0, y: 0, width, height, "pointer-events": "none" }, canvas);
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

/** A check box bound to a trait that is true or false. */
function toggle(parent, view, trait, text) {
  return checkbox(parent, text, { "data-toggle": trait }, () => view.get(trait), (on) => view.set(trait, on), view, trait);
}

/** A group of check boxes bound to a trait that lists the chosen ones; `options` are pairs of value and text. */
function choices(parent, view, trait, label, options) {
  const row = html("div", { class: "dl-row", role: "group", "aria-label": label }, parent);
  html("span", { class: "dl-name" }, row, label);
  for (const [value, text] of options) {
    const chosen = () => view.get(trait).includes(value);
    const others = () => view.get(trait).filter((one) => one !== value);
    const take = (on) => view.set(trait, options.map(([one]) => one).filter((one) => (one === value ? on : others().includes(one))));
    checkbox(row, text, { "data-choice": `${trait}-${value}` }, chosen, take, view, trait);
  }
}

function checkbox(parent, text, attributes, read, take, view, trait) {
  const label = html("label", { class: "dl-check" }, parent);
  const input = html("input", { type: "checkbox", ...attributes }, label);
  label.append(` ${text}`);
  input.addEventListener("change", () => take(input.checked));
  redraw(view, [trait], () => { input.checked = read(); });
  return input;
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

/** A thin rectangle without a ring, for many boxes at once. */
function thin(parent, [x1, y1, x2, y2], colour, options) {
  return svg("rect", { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1), fill: "none", stroke: colour, "stroke-width": 1.2, "vector-effect": "non-scaling-stroke", ...options }, parent);
}

/** The lines of a grid of cells, `stride` pixels each, over a picture of the given size; fainter for small cells. */
function gridLines(parent, stride, [width, height], strength) {
  let path = "";
  for (let x = 0; x <= width; x += stride) path += `M${x} 0V${height}`;
  for (let y = 0; y <= height; y += stride) path += `M0 ${y}H${width}`;
  return svg("path", { d: path, fill: "none", stroke: "#fff", "stroke-width": 1, "stroke-opacity": Math.min(0.6, strength * stride / Math.max(width, height)), "vector-effect": "non-scaling-stroke" }, parent);
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

/** A mark that is moved by clicks on the picture, `to({x, y})` in its pixels, and by arrow keys, `by(dx, dy)`; shapes go into it. */
function aimable(canvas, view, label, to, by, [width, height] = view.get("size")) {
  const ground = svg("rect", { "data-ground": "", x: 0, y: 0, width, height, fill: "#000", "fill-opacity": 0, style: "cursor: crosshair" }, canvas);
  const group = svg("g", { "data-aim": "", tabindex: 0, role: "group", "aria-label": `${label}. Arrow keys move it, Shift makes bigger steps.` }, canvas);
  ground.addEventListener("click", (event) => {
    to(new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse()));
    group.focus();
  });
  group.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 1;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would scroll or change cells
    by(...way);
  });
  return group;
}

/** Fills a list of which row `now` is chosen; `choose(i)` is called by click and arrow keys, `fill(item, one, i)` writes a row. */
function chosenList(list, all, now, choose, fill) {
  const focused = list.contains(document.activeElement);
  list.replaceChildren();
  all.forEach((one, i) => {
    const item = html("li", { tabindex: i === now ? 0 : -1, "data-row": i, class: i === now ? "dl-now" : "", "aria-current": i === now }, list);
    fill(item, one, i);
    item.addEventListener("click", () => choose(i));
    item.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1, Enter: 0 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would change cells
      choose(Math.min(Math.max(i + by, 0), all.length - 1));
    });
    if (i === now && focused) item.focus();
  });
}

/** Small pictures of which one is chosen, by click or arrow keys; returns the buttons, to be drawn into. */
function tiles(parent, view, trait, label, values, columns) {
  const grid = html("div", { class: "dl-tiles", role: "radiogroup", "aria-label": label, style: `grid-template-columns: repeat(${columns}, 1fr)` }, parent);
  const nodes = values.map((value, i) => {
    const node = html("button", { type: "button", role: "radio", "data-tile": value }, grid);
    node.addEventListener("click", () => view.set(trait, value));
    node.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would change cells
      if (i + by < 0 || i + by >= values.length) return;
      view.set(trait, values[i + by]);
      nodes[i + by].focus();
    });
    return node;
  });
  redraw(view, [trait], () => nodes.forEach((node, i) => {
    const now = values[i] === view.get(trait);
    node.setAttribute("aria-checked", now);
    node.setAttribute("tabindex", now ? 0 : -1);
  }));
  return nodes;
}

const HANDLES = { nw: [0, 1], n: [1], ne: [2, 1], e: [2], se: [2, 3], s: [3], sw: [0, 3], w: [0] };
const SMALLEST = 4; // pixels

/** A box to drag, resize and move by keyboard: the trait holds it, xyxy pixels. `letter` names it in the picture. */
function draggableBox(canvas, view, trait, letter, colour, { label, dashed }) {
  const [width, height] = view.get("size"), unit = Math.max(width, height) / 100;
  const group = svg("g", { "data-box": letter.toLowerCase(), tabindex: 0, role: "group", "aria-label": `${label}. Arrow keys move it, with Alt or Ctrl they resize it, Shift makes bigger steps.` }, canvas);
  const ring = svg("rect", { class: "dl-ring" }, group);
  const body = svg("rect", { class: "dl-frame dl-drag", fill: colour, "fill-opacity": 0.12, stroke: colour, "stroke-dasharray": dashed ? "7 4" : "none" }, group);
  body.style.cursor = "move";
  const name = svg("text", { "font-size": 5 * unit, "font-weight": 700, fill: "#fff", stroke: colour, "stroke-width": unit, "paint-order": "stroke", "pointer-events": "none" }, group);
  name.textContent = letter;
  drag(body, [0, 1, 2, 3]);
  const grips = Object.entries(HANDLES).map(([place, sides]) => {
    const grip = svg("circle", { class: "dl-drag", "data-handle": place, r: 1.7 * unit, fill: "#fff", stroke: colour, "stroke-width": unit * 0.5 }, group);
    grip.style.cursor = `${place}-resize`;
    drag(grip, sides);
    return [place, grip];
  });
  group.addEventListener("keydown", keyboard);
  redraw(view, [trait], place);

  function toPixels(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse());
  }

  function drag(node, sides) {
    let from = null;
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      group.focus();
      from = { point: toPixels(event), box: view.get(trait) };
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const now = toPixels(event);
      change(from.box, sides, now.x - from.point.x, now.y - from.point.y);
    });
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => { from = null; });
  }

  function keyboard(event) {
    const step = event.shiftKey ? 10 : 1;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would scroll or change cells
    change(view.get(trait), event.altKey || event.ctrlKey ? [2, 3] : [0, 1, 2, 3], ...by);
  }

  /** Moves the given sides (0 left, 1 top, 2 right, 3 bottom) of `box`, which stays a box inside the picture. */
  function change(box, sides, dx, dy) {
    const next = box.slice();
    if (sides.length === 4) {
      const x = Math.min(Math.max(dx, -box[0]), width - box[2]);
      const y = Math.min(Math.max(dy, -box[1]), height - box[3]);
      [x, y, x, y].forEach((shift, side) => { next[side] += shift; });
    } else {
      for (const side of sides) next[side] += side % 2 ? dy : dx;
      if (sides.includes(0)) next[0] = Math.min(Math.max(next[0], 0), box[2] - SMALLEST);
      if (sides.includes(1)) next[1] = Math.min(Math.max(next[1], 0), box[3] - SMALLEST);
      if (sides.includes(2)) next[2] = Math.max(Math.min(next[2], width), box[0] + SMALLEST);
      if (sides.includes(3)) next[3] = Math.max(Math.min(next[3], height), box[1] + SMALLEST);
    }
    view.set(trait, next.map((value) => Math.round(value * 10) / 10));
  }

  function place() {
    const [x1, y1, x2, y2] = view.get(trait);
    for (const rect of [ring, body]) {
      for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) rect.setAttribute(key, value);
    }
    name.setAttribute("x", x1 + 2 * unit);
    name.setAttribute("y", y1 + 6 * unit);
    const xs = { w: x1, e: x2 }, ys = { n: y1, s: y2 };
    for (const [where, grip] of grips) {
      grip.setAttribute("cx", xs[where.slice(-1)] ?? (x1 + x2) / 2);
      grip.setAttribute("cy", ys[where[0]] ?? (y1 + y2) / 2);
    }
  }
}

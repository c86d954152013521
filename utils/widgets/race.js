// The race: points between two chosen axes. Hover, focus or arrow keys choose a detector; Python tells what it bought.

function render({ model, el }) {
  const view = connect(model);
  const { picture, panel } = frame(el, "race", "Detectors between two axes");
  const [width, height] = view.get("plot"), left = 62, top = 12, right = 12, bottom = 46;
  const canvas = svg("svg", { viewBox: `0 0 ${left + width + right} ${top + height + bottom}`, role: "group" }, picture);
  const grid = svg("g", {}, canvas);
  const group = svg("g", { "data-runners": "", tabindex: 0, role: "group", "aria-label": "The detectors, in the order of their papers. Arrow keys go from one to the next, Home and End to the first and the last." }, canvas);
  const x = (share) => left + share * width, y = (share) => top + (1 - share) * height;

  const row = html("div", { class: "dl-row" }, panel);
  choice(row, view, "x", "across", view.get("axes"));
  choice(html("div", { class: "dl-row" }, panel), view, "y", "up", view.get("axes"));
  choice(html("div", { class: "dl-row" }, panel), view, "chosen", "detector", view.get("points").map((point) => [point.name, point.title]));
  const say = spoken(panel);
  const table = html("table", { "aria-label": "the chosen detector's numbers, its predecessor's, and the change", style: "font-size: 14px" }, panel);
  html("p", { class: "dl-hint" }, panel, "Circles on the dashed line: nobody is better for less. The arrow comes from the predecessor. ± two standard errors, by leaving scenes out; a change in bold is larger. Costs are drawn by ratios. Keys: Tab, arrows.");
  errors(panel, view);
  group.addEventListener("keydown", keyboard);
  redraw(view, ["points", "ticks", "best", "chosen", "before", "table", "message"], draw);
  return view.end;

  function keyboard(event) {
    const names = view.get("points").map((point) => point.name), now = names.indexOf(view.get("chosen")), last = names.length - 1;
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would scroll or change cells
    choose(names[Math.min(Math.max(next, 0), last)]);
  }

  function choose(name) {
    if (name !== view.get("chosen")) view.set("chosen", name);
  }

  function draw() {
    say.textContent = view.get("message");
    drawAxes();
    drawRunners();
    drawTable();
  }

  function drawAxes() {
    grid.replaceChildren();
    const text = (words, options) => { svg("text", { class: "dl-label", "font-size": 13, ...options }, grid).textContent = words; };
    const label = (key) => view.get("axes").find(([one]) => one === key)[1];
    for (const { at, text: words } of view.get("ticks").x) {
      svg("line", { class: "dl-axis", x1: x(at), x2: x(at), y1: y(0), y2: y(1) }, grid);
      text(words, { x: x(at), y: y(0) + 17, "text-anchor": "middle" });
    }
    for (const { at, text: words } of view.get("ticks").y) {
      svg("line", { class: "dl-axis", x1: x(0), x2: x(1), y1: y(at), y2: y(at) }, grid);
      text(words, { x: x(0) - 6, y: y(at) + 4, "text-anchor": "end" });
    }
    text(label(view.get("x")), { "data-label": "x", x: x(0.5), y: top + height + bottom - 6, "text-anchor": "middle", "font-size": 14 });
    text(label(view.get("y")), { "data-label": "y", x: 14, y: y(0.5), "text-anchor": "middle", "font-size": 14, transform: `rotate(-90 14 ${y(0.5)})` });
  }

  function drawRunners() {
    group.replaceChildren();
    const points = Object.fromEntries(view.get("points").map((point) => [point.name, point]));
    const line = view.get("best").map((name, i) => `${i ? "L" : "M"}${x(points[name].left)} ${y(points[name].up)}`).join("");
    svg("path", { "data-best": "", d: line, fill: "none", stroke: COLOURS.blue, "stroke-width": 2, "stroke-dasharray": "6 4" }, group);
    const before = points[view.get("before")], chosen = points[view.get("chosen")];
    if (before && chosen) drawArrow(before, chosen);
    for (const point of view.get("points")) drawRunner(point);
  }

  function drawRunner(point) {
    const now = point.name === view.get("chosen"), best = view.get("best").includes(point.name);
    const one = svg("g", { "data-runner": point.name, role: "img", "aria-label": point.title, style: "cursor: pointer" }, group);
    const place = { cx: x(point.left), cy: y(point.up) };
    if (now) svg("circle", { class: "dl-frame", ...place, r: 11, fill: "none", stroke: COLOURS.vermillion }, one);
    if (best) svg("circle", { ...place, r: 6.5, fill: COLOURS.blue, stroke: "#fff", "stroke-width": 1.5 }, one);
    else svg("rect", { x: place.cx - 5.5, y: place.cy - 5.5, width: 11, height: 11, fill: COLOURS.sky, stroke: "#000", "stroke-width": 0.8 }, one);
    const [dx, dy, anchor] = { right: [13, 4.5, "start"], left: [-13, 4.5, "end"], above: [0, -13, "middle"], below: [0, 22, "middle"] }[point.side];
    svg("text", { class: "dl-label", x: place.cx + dx, y: place.cy + dy, "text-anchor": anchor, "font-size": 12.5, "font-weight": now ? 700 : 400 }, one).textContent = point.title;
    one.addEventListener("pointerenter", () => choose(point.name));
    one.addEventListener("click", () => { choose(point.name); group.focus(); });
  }

  function drawArrow(from, to) {
    const [x1, y1, x2, y2] = [x(from.left), y(from.up), x(to.left), y(to.up)];
    const angle = Math.atan2(y2 - y1, x2 - x1), [tipX, tipY] = [x2 - 14 * Math.cos(angle), y2 - 14 * Math.sin(angle)];
    const wing = (turn) => `L${tipX - 9 * Math.cos(angle + turn)} ${tipY - 9 * Math.sin(angle + turn)}`;
    const head = `${wing(0.45)}M${tipX} ${tipY}${wing(-0.45)}`;
    svg("path", { "data-arrow": `${from.name}-${to.name}`, d: `M${x1} ${y1}L${tipX} ${tipY}${head}`, fill: "none", stroke: COLOURS.vermillion, "stroke-width": 2 }, group);
  }

  function drawTable() {
    table.replaceChildren();
    const head = html("tr", {}, table), points = Object.fromEntries(view.get("points").map((point) => [point.name, point]));
    const before = points[view.get("before")];
    for (const words of ["", points[view.get("chosen")]?.title || "", before ? before.title : "before", "change"]) html(words ? "th" : "td", words ? { scope: "col" } : {}, head, words);
    for (const line of view.get("table")) {
      const one = html("tr", {}, table);
      html("th", { scope: "row", style: "font-weight: 400" }, one, line.label);
      for (const part of ["value", "before", "change"]) {
        const bold = part === "change" && line.sure ? "font-weight: 700; " : "";
        html("td", { "data-value": `${line.key}-${part}`, style: `${bold}font-variant-numeric: tabular-nums; white-space: nowrap` }, one, line[part]);
      }
    }
  }
}

export default { render };

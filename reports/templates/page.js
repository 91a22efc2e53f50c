"use strict";
// Everything that is spelled comes from the page's data; here it is sorted, filtered, compared and drawn.
document.documentElement.classList.add("js");
const one = (root, what) => root.querySelector(what), all = (root, what) => [...root.querySelectorAll(what)];
const make = (tag, given = {}, ...inside) => { const it = Object.assign(document.createElement(tag), given); it.append(...inside); return it; };
const kind = verdict => (verdict ?? "").replace("not settled: no interval", "not settled").replaceAll(" ", "-");

// A link to a recipe opens its part.
const open = () => { const it = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (it instanceof HTMLDetailsElement) it.open = true; };
addEventListener("hashchange", open); open();

const tip = make("div", { id: "tip", role: "tooltip", className: "card", hidden: true });
document.body.append(tip);
function showTip(cell, text) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const at = cell.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${at.bottom + tip.offsetHeight + 8 < innerHeight ? at.bottom + 4 : Math.max(8, at.top - tip.offsetHeight - 4)}px`;
}

for (const button of all(document, "[data-copy]")) button.addEventListener("click", async () => {
  const text = button.dataset.copy, said = button.textContent;
  try { await navigator.clipboard.writeText(text); }
  catch { const area = make("textarea", { value: text }); document.body.append(area); area.select(); document.execCommand("copy"); area.remove(); }
  button.textContent = "Copied"; setTimeout(() => { button.textContent = said; }, 1500);
});

function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
for (const button of all(document, "[data-save]")) button.addEventListener("click", () => save(button.dataset.save, "text/plain", button.dataset.text));

// A spreadsheet takes a cell that begins so for a formula.
const csvCell = value => { const text = typeof value === "string" && /^[=+@\t\r-]/.test(value) ? `'${value}` : `${value}`; return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };

class Subject {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(one(section, "script.data").textContent);
    this.metric = Object.fromEntries(this.data.metrics.map(metric => [metric.name, metric]));
    this.baseline = this.data.baseline;
    this.pinned = new Set();
    this.table = one(section, ".ranking table");
    this.rows = all(this.table, "tbody tr");
    this.shown = this.data.metrics.filter(metric => metric.main).map(metric => metric.name);
    this.down = null; this.sorted = this.data.primary ?? "";
    this.plots = Object.fromEntries(all(section, ".plot").map(plot => [plot.dataset.figure, plot]));
    this.cells(); this.controls(); this.limits(); this.beside(); this.keys();
  }
  get view() { return this.data.views[this.baseline]; }
  figure(metric, index) { return this.data.figures[metric][index]; }
  change(metric, index, view = this.view) { return view?.changes[metric]?.[index]; }

  // -- the table
  cells() {
    for (const cell of all(this.table, "tbody td[data-m]")) cell.tabIndex = -1;
    const first = one(this.table, "tbody td[data-m]"); if (first) first.tabIndex = 0;
    const about = event => { const cell = event.target.closest("tbody td[data-m]"); if (cell) showTip(cell, this.about(cell)); };
    this.table.addEventListener("focusin", about); this.table.addEventListener("mouseover", about);
    for (const gone of ["focusout", "mouseleave"]) this.table.addEventListener(gone, () => showTip());
    for (const head of all(this.table, "thead th")) one(head, "button").addEventListener("click", () => this.sort(head.dataset.m ?? ""));
    for (const button of all(this.table, ".pin")) button.addEventListener("click", () => this.pin(button.closest("tr").dataset.name));
  }
  about(cell) {
    const index = +cell.parentNode.dataset.i, metric = this.metric[cell.dataset.m], figure = this.figure(metric.name, index), change = this.change(metric.name, index);
    if (!figure) return "";
    const lines = [`${metric.title}: ${figure[3]}`];
    if (change) lines.push(`${change[1]}${change[2] ? ` (${change[2]})` : ""} beside ${this.baseline}: ${change[3]}`);
    if (change && metric.name !== this.data.primary) lines.push("exploratory: this interval stands alone");
    if (figure[4]) lines.push(`⚠ the machine was busy: ${figure[4]}`);
    return lines.join("\n");
  }
  fill(cell, row) {
    const metric = this.metric[cell.dataset.m], index = +row.dataset.i, figure = this.figure(metric.name, index), change = this.change(metric.name, index);
    cell.replaceChildren(); cell.className = figure ? "" : "empty";
    cell.style.setProperty("--w", figure && !metric.quality ? this.share(metric.name, figure[0]) : 0);
    if (!figure) { cell.append(make("span", { className: "none", textContent: "–" })); return; }
    const busy = figure[4] ? [make("span", { className: "busy", textContent: " ⚠" })] : [];
    const verdict = change ? [" ", make("span", { className: `verdict ${kind(change[3])}`, textContent: change[3].split(":")[0] })] : [];
    if (metric.quality || !change) {
      cell.append(make("span", { className: "value", textContent: figure[5] }), ...busy);
      if (change) cell.append(make("span", { className: "beside" }, change[1], ...verdict));
    } else cell.append(make("span", { className: "value rel", textContent: change[1] }), make("span", { className: "value abs", textContent: figure[5] }), ...busy, make("span", { className: "beside" }, ...verdict));
  }
  share(metric, value) {
    const most = Math.max(...this.data.figures[metric].filter(Boolean).map(figure => figure[0]));
    return most > 0 ? (value / most).toFixed(3) : 0;
  }
  refill() {
    for (const row of this.rows) {
      row.classList.toggle("baseline", row.dataset.name === this.baseline);
      for (const tag of all(row, ".is-baseline")) tag.hidden = row.dataset.name !== this.baseline;
      for (const cell of all(row, "td[data-m]")) this.fill(cell, row);
    }
    this.sort(this.sorted, this.down);
  }
  columns(names) {
    const had = new Set(this.shown); this.shown = names;
    const heads = this.table.tHead.rows[0];
    for (const head of all(heads, "th[data-m]")) if (!names.includes(head.dataset.m)) head.remove();
    for (const cell of all(this.table, "tbody td[data-m], tfoot td")) if (!names.includes(cell.dataset.m)) cell.remove();
    for (const name of names) if (!had.has(name)) {
      const metric = this.metric[name], button = make("button", { type: "button", textContent: metric.title });
      const head = make("th", { scope: "col" }, button, make("small", { textContent: `${metric.better} is better` }));
      head.dataset.m = name; button.addEventListener("click", () => this.sort(name)); heads.append(head);
      for (const row of all(this.table, "tfoot tr")) {
        const cell = make("td", { textContent: this.data.references[+row.dataset.r][name] ?? "–" }); cell.dataset.m = name; cell.dataset.label = metric.title; row.append(cell);
      }
      for (const row of this.rows) if (!one(row, "td.wide")) {
        const cell = make("td", { tabIndex: -1 }); cell.dataset.m = name; cell.dataset.label = metric.title; row.append(cell); this.fill(cell, row);
      }
    }
    for (const cell of all(this.table, "td.wide")) cell.colSpan = names.length;
  }
  sort(name, down = null) {
    const metric = this.metric[name];
    this.down = down ?? (this.sorted === name && this.down !== null ? !this.down : metric?.better === "higher"); this.sorted = name;
    for (const head of all(this.table, "thead th")) {
      if ((head.dataset.m ?? "") === name) head.setAttribute("aria-sort", this.down ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
    }
    const value = row => metric ? this.figure(name, +row.dataset.i)?.[0] ?? null : row.dataset.name;
    // The baseline stays on top, what has no value at the bottom, and what did not end ok below all.
    const rank = row => row.dataset.name === this.baseline ? 0 : value(row) === null ? 3 : row.classList.contains("failed") ? 2 : 1;
    const keyed = this.rows.map(row => [rank(row), value(row), row]), way = this.down ? -1 : 1;
    keyed.sort(([a, x], [b, y]) => a - b || way * (metric ? x - y : x.localeCompare(y, undefined, { numeric: true })) || 0);
    this.table.tBodies[0].append(...keyed.map(([, , row]) => row));
    const by = one(this.section, "[data-sort-by]"); if (by) by.value = name;
  }
  keys() {
    this.table.addEventListener("keydown", event => {
      const cell = event.target.closest("td[data-m]"), step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") showTip();
      if (!cell || !step) return;
      const rows = all(this.table, "tbody tr:not([hidden])"), to = rows[rows.indexOf(cell.parentNode) + step[0]], cells = cell.parentNode.cells;
      const next = step[1] ? cells[cell.cellIndex + step[1]] : to?.cells[cell.cellIndex];
      if (next?.dataset.m) { cell.tabIndex = -1; next.tabIndex = 0; next.focus(); event.preventDefault(); }
    });
  }

  // -- what a reader chooses
  controls() {
    const on = (what, event, act) => all(this.section, what).forEach(it => it.addEventListener(event, () => act(it)));
    on("[data-baseline]", "change", it => this.compare(it.value));
    on("[data-search]", "input", it => { const text = it.value.toLowerCase(); for (const row of this.rows) row.hidden = !`${row.dataset.name} ${row.dataset.recipe}`.toLowerCase().includes(text); });
    on("[data-mode]", "click", it => {
      this.table.className = it.dataset.mode;
      for (const other of all(this.section, "[data-mode]")) other.setAttribute("aria-pressed", other === it);
    });
    on("[data-column]", "change", () => this.columns(all(this.section, "[data-column]:checked").map(box => box.dataset.column)));
    on("[data-sort-by]", "change", it => this.sort(it.value));
    on("[data-csv]", "click", () => {
      const rows = [["recipe", "status", ...this.data.metrics.map(metric => metric.name)], ...this.data.recipes.map((recipe, index) => [recipe.name, recipe.status, ...this.data.metrics.map(metric => this.figure(metric.name, index)?.[0] ?? "")])];
      save("figures.csv", "text/csv", rows.map(row => row.map(csvCell).join(",")).join("\n") + "\n");
    });
    on("[data-x], [data-y]", "change", () => this.redraw("tradeoff"));
    on("[data-across]", "change", () => this.redraw("losses"));
  }
  compare(baseline) {
    this.baseline = baseline;
    for (const picker of all(this.section, "[data-baseline]")) picker.value = baseline;
    one(this.section, ".answer").innerHTML = this.view.answer;
    this.refill(); this.redraw("forest"); this.redraw("tradeoff"); this.limited(); this.against();
  }
  pin(name) {
    this.pinned.has(name) ? this.pinned.delete(name) : this.pinned.add(name);
    for (const row of this.rows) {
      row.classList.toggle("pinned", this.pinned.has(row.dataset.name));
      one(row, ".pin")?.setAttribute("aria-pressed", this.pinned.has(row.dataset.name));
    }
    const chips = one(this.section, ".pins");
    chips.replaceChildren(...[...this.pinned].map(each => { const chip = make("button", { type: "button", textContent: `★ ${each} ×`, ariaLabel: `unpin ${each}` }); chip.addEventListener("click", () => this.pin(each)); return chip; }));
    for (const plot of Object.values(this.plots)) this.mark(plot);
  }
  mark(plot) { try { plot.view?.signal("pinned", [...this.pinned]).run(); } catch { /* this figure shows no recipes */ } }

  // -- what fits
  limits() {
    this.form = one(this.section, "form.limits");
    if (!this.form) return;
    this.form.addEventListener("submit", event => event.preventDefault());
    this.form.addEventListener("input", () => this.limited());
    this.form.addEventListener("reset", () => setTimeout(() => this.limited()));
  }
  limited() {
    if (!this.form) return;
    const limits = all(this.form, "input[data-m]").filter(input => input.value !== "" && Number.isFinite(+input.value)).map(input => ({ metric: this.metric[input.dataset.m], at: +input.value * this.metric[input.dataset.m].limit.factor }));
    const by = this.metric[one(this.form, "[data-by]").value], result = one(this.section, ".result");
    const beyond = (value, { metric, at }) => metric.better === "higher" ? value < at : value > at;
    const fits = index => this.data.recipes[index].ok && limits.every(limit => { const figure = this.figure(limit.metric.name, index); return figure && !beyond(figure[0], limit); });
    const inside = this.data.recipes.map((_, index) => index).filter(fits);
    for (const row of this.rows) row.classList.toggle("out", limits.length > 0 && !inside.includes(+row.dataset.i));
    if (!limits.length) { result.hidden = true; return; }
    result.hidden = false;
    const ranked = inside.filter(index => this.figure(by.name, index)).sort((a, b) => (by.better === "higher" ? -1 : 1) * (this.figure(by.name, a)[0] - this.figure(by.name, b)[0]));
    if (!ranked.length) { result.textContent = "No recipe fits all of these limits."; return; }
    const best = ranked[0], end = limit => this.figure(limit.metric.name, best)[limit.metric.better === "higher" ? 1 : 2];
    const doubtful = limits.filter(limit => end(limit) !== null && beyond(end(limit), limit)).map(limit => limit.metric.title.toLowerCase());
    result.replaceChildren(`${inside.length} of ${this.data.recipes.length} recipes fit. Best in ${by.title.toLowerCase()}: `, make("b", { textContent: this.data.recipes[best].name }), ` (${this.figure(by.name, best)[3]}).`, doubtful.length ? ` It may not keep to the limit of ${doubtful.join(", ")}: the interval crosses it.` : "");
  }

  // -- two recipes side by side
  beside() {
    this.two = all(this.section, "[data-two]");
    for (const picker of this.two) picker.addEventListener("change", () => this.against());
    this.against();
  }
  against() {
    if (this.two.length < 2) return;
    const [a, b] = this.two.map(picker => picker.value), [i, j] = [a, b].map(name => this.data.recipes.findIndex(recipe => recipe.name === name)), view = this.data.views[a], body = one(this.section, ".two tbody");
    all(this.section, ".two thead th").slice(1, 3).forEach((head, n) => { head.textContent = [a, b][n]; });
    body.replaceChildren(...this.data.metrics.filter(metric => this.figure(metric.name, i) || this.figure(metric.name, j)).map(metric => {
      const change = i === j ? null : this.change(metric.name, j, view);
      return make("tr", {}, make("th", { scope: "row", textContent: metric.title }), ...[i, j].map(index => make("td", { textContent: this.figure(metric.name, index)?.[3] ?? "–" })),
        make("td", {}, ...(change ? [`${change[1]}${change[2] ? ` (${change[2]})` : ""} `, make("span", { className: `verdict ${kind(change[3])}`, textContent: change[3] })] : ["–"])));
    }));
  }

  // -- figures
  async redraw(name) {
    const plot = this.plots[name];
    if (!plot || typeof vegaEmbed === "undefined") return;
    const spec = JSON.parse(plot.nextElementSibling.textContent);
    this[`spec_${name}`]?.(spec, plot);
    plot.view?.finalize();
    const options = { mode: "vega-lite", renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false }, patch: spec => silent(name === "tradeoff" || name === "kept" ? labelled(spec) : spec) };
    const { view } = await vegaEmbed(plot, spec, options);
    plot.view = view;
    const svg = one(plot, "svg.marks"), caption = one(plot.closest("figure"), "figcaption");
    one(plot, "summary")?.setAttribute("aria-label", "Save the figure");
    svg.removeAttribute("aria-hidden"); svg.setAttribute("role", "img"); svg.setAttribute("aria-label", caption.textContent.trim());
    if (name !== "losses") view.addEventListener("click", (_, item) => { const found = item?.datum?.name ?? item?.datum?.datum?.name; if (this.data.recipes.some(recipe => recipe.name === found)) this.pin(found); });
    this.mark(plot);
  }
  spec_forest(spec) { Object.assign(spec.datasets, this.view.forest); }
  spec_losses(spec) {
    const across = one(this.section, "[data-across]");
    const title = across.selectedOptions[0].dataset.title;
    for (const { encoding } of spec.layer) Object.assign(encoding.x, { field: across.value, title, axis: { tickCount: 6 } });
  }
  spec_tradeoff(spec, plot) {
    const [x, y] = ["[data-x]", "[data-y]"].map(what => this.metric[one(this.section, what).value]);
    const points = this.data.recipes.flatMap(({ name, recipe, ok }, index) => {
      const [a, b] = [x, y].map(metric => this.figure(metric.name, index)), verdict = this.view.standing[index];
      return ok && a && b ? [{ name, recipe, verdict, settled: verdict !== "not settled", x: a[0], y: b[0], ...(a[1] > 0 && { x0: a[1], x1: a[2] }), ...(b[1] !== null && { y0: b[1], y1: b[2] }), xt: a[3], yt: b[3] }] : [];
    });
    const sign = metric => metric.better === "higher" ? -1 : 1, best = [];
    for (const point of points.filter(point => point.settled).sort((p, q) => sign(x) * (p.x - q.x) || sign(y) * (p.y - q.y)))
      if (!best.length || sign(y) * point.y < sign(y) * best.at(-1).y) best.push(point);
    Object.assign(spec.datasets, { recipes: points, front: best.map((point, order) => ({ x: point.x, y: point.y, order })) });
    for (const { encoding } of spec.layer) for (const [key, metric] of [["x", x], ["y", y]]) if (encoding[key]) Object.assign(encoding[key], metric.axis);
    const tips = spec.layer.find(layer => layer.encoding.tooltip).encoding.tooltip; tips[2].title = y.title; tips[3].title = x.title;
    const place = `${y.better === "higher" ? "top" : "bottom"} ${x.better === "lower" ? "left" : "right"}`;
    const caption = one(plot.closest("figure"), "figcaption span"); caption.textContent = caption.textContent.replace(/^Best is \w+ \w+/, `Best is ${place}`);
  }
}
// The figure as a whole has its text; of each mark a screen reader would say too much.
function silent(spec) { for (const mark of spec.marks ?? []) { mark.aria = false; silent(mark); } return spec; }
// The names on a plot: placed where they cover neither a point nor each other, at any width, or left out.
function labelled(spec) {
  const points = spec.marks.findLast(mark => mark.type === "symbol"), old = spec.marks.findLastIndex(mark => mark.type === "text");
  const text = { type: "text", style: ["text"], from: { data: points.name }, interactive: false,
    encode: { enter: { text: { signal: "truncate(datum.datum.name, 28)" }, fontSize: { value: 11 }, fill: { value: "currentColor" } } },
    transform: [{ type: "label", size: { signal: "[width + 20, height]" }, offset: [5], anchor: ["right", "top", "bottom", "left", "top-right", "bottom-right", "top-left", "bottom-left"] }] };
  if (old >= 0) spec.marks.splice(old, 1, text); else spec.marks.push(text);
  return spec;
}
const subjects = all(document, ".subject").map(section => new Subject(section));

// Vega is packed into the page; each figure is drawn when it comes near, and all before printing.
async function unpack() {
  const packed = document.getElementById("runtime");
  if (!packed) throw new Error("this page is without Vega");
  const bytes = Uint8Array.from(atob(packed.textContent), letter => letter.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(make("script", { textContent: text }));
  const plots = subjects.flatMap(subject => Object.entries(subject.plots).map(([name, plot]) => ({ subject, name, plot })));
  const draw = each => each.drawn ??= each.subject.redraw(each.name);
  const near = new IntersectionObserver(seen => seen.forEach(({ target, isIntersecting }) => isIntersecting && draw(plots.find(({ plot }) => plot === target))), { rootMargin: "1200px" });
  plots.forEach(({ plot }) => near.observe(plot));
  addEventListener("beforeprint", () => plots.forEach(draw));
}
// Without it, figures stay as they are in the page, and what would change them is not offered.
const ready = unpack().catch(error => { document.documentElement.classList.add("static"); console.info(`figures stay static: ${error.message}`); });

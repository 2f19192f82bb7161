// Live charts of the last minutes, one second a point, drawn as SVG.

import { el, number } from "./common.js";

const KEPT = 120; // seconds shown
const WIDTH = 320, HEIGHT = 96, LEFT = 4, RIGHT = 4, TOP = 18, BOTTOM = 4; // room for the scale above

const CHARTS = [
  { title: "Queue", unit: "tokens", lines: [{ name: "queue", of: (s) => s.queue }] },
  { title: "Tokens", unit: "/s", lines: [{ name: "tokens", of: (s) => s.tokens }] },
  { title: "Requests", unit: "/s", lines: [
    { name: "all", of: (s) => s.requests },
    { name: "refused or failed", of: (s) => s.refused + s.failed, kind: "bad" }] },
  { title: "Latency", unit: "ms", joined: true, lines: [
    { name: "p50", of: (s) => ms(s.p50) },
    { name: "p99", of: (s) => ms(s.p99), kind: "second" }] },
  { title: "Batch fill", unit: "%", top: 100, joined: true, lines: [
    { name: "fill", of: (s) => (s.fill === null ? null : 100 * s.fill) }] },
];

const ms = (seconds) => (seconds === null ? null : 1000 * seconds);
const svg = (tag, attributes, ...children) => el(tag, { svg: true, ...attributes }, ...children);

// A round number that is not below the value: 1, 2 or 5 times a power of ten.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999999);
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  return number(value, value !== 0 && Math.abs(value) < 10 && !Number.isInteger(value) ? 1 : 0);
}

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.values = el("span", { class: "values" });
    this.marker = svg("line", { class: "marker", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.paths = spec.lines.map((line) => svg("path", { class: `line ${line.kind ?? "first"}` }));
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" },
      svg("line", { class: "rule", x1: 0, x2: WIDTH, y1: TOP, y2: TOP }),
      svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      ...this.paths, this.marker);
    this.label = el("span", { class: "scale" });
    this.at = null; // the second under the pointer
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      this.at = (event.clientX - box.left) / box.width;
      this.draw(this.seconds);
    });
    this.plot.addEventListener("pointerleave", () => {
      this.at = null;
      this.draw(this.seconds);
    });
    this.element = el("figure", { class: "chart card" },
      el("figcaption", {}, el("span", { class: "title" }, spec.title), this.values),
      el("div", { class: "plot" }, this.label, this.plot));
    this.draw([]);
  }

  draw(seconds) {
    this.seconds = seconds;
    const { lines, unit, top, joined } = this.spec;
    const all = lines.map((line) => seconds.map(line.of));
    const high = top ?? ceiling(Math.max(0, ...all.flat().filter((value) => value !== null)));
    const last = seconds.length ? seconds[seconds.length - 1].second : 0;
    const x = (second) => WIDTH - RIGHT - ((last - second) / (KEPT - 1)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - (value / high) * (HEIGHT - TOP - BOTTOM);
    all.forEach((values, i) => this.paths[i].setAttribute("d", path(values, seconds, x, y, joined)));
    this.label.textContent = `${shown(high)} ${unit}`;
    const place = this.place(seconds, last);
    this.values.replaceChildren(...lines.map((line, i) => el("span", {
      class: `value ${line.kind === "bad" && !all[i][place] ? "" : line.kind ?? "first"}` },
      lines.length > 1 ? el("small", {}, `${line.name} `) : null,
      place < 0 ? "–" : shown(all[i][place]))), el("small", { class: "unit" }, unit));
    const marked = this.at !== null && place >= 0;
    this.marker.setAttribute("visibility", marked ? "visible" : "hidden");
    if (marked) {
      this.marker.setAttribute("x1", x(seconds[place].second));
      this.marker.setAttribute("x2", x(seconds[place].second));
    }
    this.plot.setAttribute("aria-label", this.summary(all));
  }

  // The index of the second to show: the newest, or the one under the pointer.
  place(seconds, last) {
    if (this.at === null || !seconds.length) return seconds.length - 1;
    const wanted = last - Math.round((1 - this.at) * (KEPT - 1));
    return Math.max(0, seconds.findIndex((s) => s.second >= wanted));
  }

  summary(all) {
    const parts = this.spec.lines.map((line, i) => {
      const values = all[i].filter((value) => value !== null);
      return values.length
        ? `${line.name} now ${shown(values[values.length - 1])}, highest ${shown(Math.max(...values))}`
        : `${line.name} none`;
    });
    return `${this.spec.title} in ${this.spec.unit}, last two minutes: ${parts.join("; ")}`;
  }
}

// Missing values, of seconds without a measurement, break the line, unless `joined`.
function path(values, seconds, x, y, joined) {
  let open = false;
  let text = "";
  values.forEach((value, i) => {
    if (value === null) {
      open = open && joined;
      return;
    }
    text += `${open ? "L" : "M"}${x(seconds[i].second).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!open) text += "h0.01"; // so that a single point is visible
    open = true;
  });
  return text;
}

export class Charts {
  constructor(place, table) {
    this.charts = CHARTS.map((spec) => new Chart(spec));
    this.table = table;
    this.seconds = [];
    this.last = 0;
    place.replaceChildren(...this.charts.map((chart) => chart.element));
    this.tabulate();
  }

  add(seconds) {
    const fresh = seconds.filter((s) => s.second > this.last);
    this.seconds = [...this.seconds, ...fresh].slice(-KEPT);
    if (fresh.length) this.last = fresh[fresh.length - 1].second;
    for (const chart of this.charts) chart.draw(this.seconds);
    if (this.table.closest("details").open || !this.table.rows[1]) this.tabulate();
  }

  tabulate() {
    const columns = CHARTS.flatMap((spec) => spec.lines.map((line) => ({ spec, line })));
    const head = el("tr", {}, el("th", { scope: "col" }, "time"), columns.map(({ spec, line }) =>
      el("th", { scope: "col", class: "n" },
        `${spec.title}${spec.lines.length > 1 ? ` ${line.name}` : ""} (${spec.unit})`)));
    const rows = this.seconds.slice(-10).reverse().map((s) => el("tr", {},
      el("td", {}, new Date(1000 * s.second).toLocaleTimeString()),
      columns.map(({ line }) => el("td", { class: "n" }, shown(line.of(s))))));
    this.table.replaceChildren(el("thead", {}, head), el("tbody", {}, rows));
  }
}

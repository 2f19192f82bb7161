// The map: places of documents on a canvas, with zoom and pan, and the same as a list, by group.

import { byId, el, Latest, number, plural, Refused } from "./common.js";

const COLOURS = 12; // --c0 to --c11, again from the first
const LISTED = 100; // documents of a group that are listed at first
const CLOSE = 14; // pixels from a point that still mean it
const PLACES = [0, -28, 28, -52, 52].flatMap((down) => [0, -50, 50].map((right) => [right, down])); // of a name
const FURTHEST = 60; // times larger than all

export class DocumentMap {
  constructor(asked, open) {
    this.asked = asked;
    this.open = open;
    this.canvas = byId("canvas");
    this.context = this.canvas.getContext("2d");
    this.requests = new Latest();
    this.data = null;
    this.loadedFor = null;
    this.hits = new Map(); // id -> rank, of the answer that is shown
    this.zoom = 1;
    this.centre = [0, 0];
    this.group = null;
    this.hovered = -1;
    this.pointers = new Map();
    this.#listen();
  }

  // ---------------------------------------------------------------- data

  async load() {
    const asked = this.asked();
    const key = JSON.stringify(asked);
    if (this.loadedFor === key) return this.data;
    if (!this.data) byId("map-note").textContent = "Drawing the map …";
    let found;
    try {
      found = await this.requests.ask("map", asked);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      byId("map-note").textContent = error.message;
      return null;
    }
    if (!found) return null;
    this.loadedFor = key;
    this.#take(found);
    return found;
  }

  forget() {
    this.loadedFor = this.data = null;
  }

  showHits(hits) {
    this.hits = new Map(hits.map((hit) => [hit.id, hit.rank]));
    this.draw();
  }

  #take(found) {
    this.data = found;
    this.group = null;
    this.fitting = found.fitting ? new Set(found.fitting) : null;
    this.places = new Map(found.ids.map((id, index) => [id, index]));
    this.members = found.regions.map(() => []);
    const none = [];
    found.labels.forEach((label, index) => (label < 0 ? none : this.members[label]).push(index));
    this.none = none;
    this.centres = this.members.map((members) => [middle(members.map((i) => found.x[i])), middle(members.map((i) => found.y[i]))]);
    byId("map-note").textContent = this.#note();
    this.canvas.setAttribute("aria-label",
      `Map of ${plural(found.ids.length, "document")} in ${plural(found.regions.length, "group")}`);
    this.#list();
    this.draw();
  }

  #note() {
    const { ids, total, regions } = this.data;
    if (!ids.length) return "There are no documents to draw.";
    const sample = total > ids.length ? `, a sample of ${number(total)}` : "";
    const fits = this.fitting ? ` ${number(this.fitting.size)} fit the filters.` : "";
    return `${plural(ids.length, "document")}${sample}, in ${plural(regions.length, "group")}. ` +
      `What is about the same lies close together.${fits}`;
  }

  #list() {
    const { regions } = this.data;
    const groups = regions.map((region, index) => ({ name: region.name, index, members: this.members[index], medoid: region.medoid }));
    if (this.none.length) groups.push({ name: "in no group", index: -1, members: this.none, medoid: null });
    byId("groups-title").hidden = !groups.length;
    byId("groups").replaceChildren(...groups.map((group) => this.#group(group)));
  }

  #group(group) {
    const list = el("ul", {});
    const fill = (count) => {
      const typical = this.places.get(group.medoid);
      const ordered = typical === undefined ? group.members : [typical, ...group.members.filter((i) => i !== typical)];
      const seen = ordered.filter((i) => !this.fitting || this.fitting.has(i));
      list.replaceChildren(...seen.slice(0, count).map((i) => el("li", {},
        el("button", { type: "button", class: "link title", onclick: () => this.open(this.data.ids[i]) }, this.#title(i)))));
      if (!seen.length) list.append(el("li", { class: "soft" }, "None fits the filters."));
      if (seen.length > count) list.append(el("li", {}, el("button", {
        type: "button", class: "link", onclick: () => fill(count + 5 * LISTED) }, `Show more of ${number(seen.length)}`)));
    };
    const dot = el("span", { class: `dot c${group.index < 0 ? "none" : group.index % COLOURS}`, "aria-hidden": "true" });
    const point = (index) => {
      this.group = index;
      this.draw();
    };
    return el("details", {
      class: "group",
      ontoggle: (event) => { if (event.target.open && !list.childElementCount) fill(LISTED); },
      onmouseenter: () => point(group.index), onmouseleave: () => point(null),
      onfocusin: () => point(group.index), onfocusout: () => point(null),
    }, el("summary", {}, dot, el("span", { class: "name" }, group.name),
      el("span", { class: "count" }, number(group.members.length))), list);
  }

  #title(index) {
    return this.data.titles[index] || this.data.ids[index];
  }

  // ---------------------------------------------------------------- drawing

  draw() {
    if (!this.data || byId("map-view").hidden) return;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.#draw());
  }

  #scale() {
    const box = this.canvas.getBoundingClientRect();
    return { width: box.width, height: box.height, unit: 0.44 * Math.min(box.width, box.height) * this.zoom,
      wide: 0.46 * box.width * this.zoom };
  }

  // Where a document is on the canvas, in pixels; the map is as wide as the canvas.
  #at(index, scale) {
    return [scale.width / 2 + (this.data.x[index] - this.centre[0]) * scale.wide,
      scale.height / 2 - (this.data.y[index] - this.centre[1]) * scale.unit];
  }

  #draw() {
    const scale = this.#scale();
    const dense = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(scale.width * dense) || this.canvas.height !== Math.round(scale.height * dense)) {
      this.canvas.width = Math.round(scale.width * dense);
      this.canvas.height = Math.round(scale.height * dense);
    }
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const draw = this.context;
    draw.setTransform(dense, 0, 0, dense, 0, 0);
    draw.clearRect(0, 0, scale.width, scale.height);
    const count = this.data.ids.length;
    const radius = Math.max(1.6, Math.min(6, 60 / Math.sqrt(count + 1))) * Math.min(2, this.zoom ** 0.3);
    const colours = Array.from({ length: COLOURS }, (_, i) => colour(`c${i}`));
    this.#drawGround(draw, scale, colours);
    this.drawn = count <= 1000 ? this.data.ids.map((_, i) => this.#at(i, scale)) : [];
    for (let i = 0; i < count; i++) {
      const [x, y] = this.#at(i, scale);
      if (x < -9 || y < -9 || x > scale.width + 9 || y > scale.height + 9) continue;
      const label = this.data.labels[i];
      const dim = (this.fitting && !this.fitting.has(i)) || (this.group !== null && this.group !== label);
      draw.globalAlpha = dim ? 0.12 : count > 4000 ? 0.6 : 0.85;
      draw.fillStyle = label < 0 ? colour("soft") : colours[label % COLOURS];
      draw.beginPath();
      draw.arc(x, y, radius, 0, 2 * Math.PI);
      draw.fill();
    }
    draw.globalAlpha = 1;
    this.#drawNames(draw, scale, colour);
    this.#drawHits(draw, scale, radius, colour);
    if (this.hovered >= 0) this.#ring(draw, this.#at(this.hovered, scale), radius + 4, colour("ink"), 2);
  }

  // The ground of each group: where its documents are, faintly in its colour.
  #drawGround(draw, scale, colours) {
    if (this.data.ids.length > 3000) return;
    const size = Math.max(18, Math.min(46, 320 / Math.sqrt(this.data.ids.length + 1))) * Math.min(2.5, this.zoom ** 0.6);
    this.members.forEach((members, group) => {
      if (this.group !== null && this.group !== group) return;
      const path = new Path2D();
      for (const i of members) {
        const [x, y] = this.#at(i, scale);
        path.moveTo(x + size, y);
        path.arc(x, y, size, 0, 2 * Math.PI);
      }
      draw.globalAlpha = 0.1;
      draw.fillStyle = colours[group % COLOURS];
      draw.fill(path, "nonzero");
    });
    draw.globalAlpha = 1;
  }

  #ring(draw, [x, y], radius, colour, width) {
    draw.strokeStyle = colour;
    draw.lineWidth = width;
    draw.beginPath();
    draw.arc(x, y, radius, 0, 2 * Math.PI);
    draw.stroke();
  }

  #drawHits(draw, scale, radius, colour) {
    draw.font = "600 11px system-ui, sans-serif";
    draw.textAlign = "center";
    draw.textBaseline = "middle";
    for (const [id, rank] of [...this.hits].reverse()) {
      const index = this.places.get(id);
      if (index === undefined) continue;
      const [x, y] = this.#at(index, scale);
      const size = Math.max(9, radius + 3);
      draw.fillStyle = colour("ink");
      draw.beginPath();
      draw.arc(x, y, size, 0, 2 * Math.PI);
      draw.fill();
      this.#ring(draw, [x, y], size, colour("card"), 1.5);
      draw.fillStyle = colour("card");
      draw.fillText(String(rank), x, y + 0.5);
    }
  }

  // Names of groups in their middles, larger ones first; one that would lie on another is left out.
  #drawNames(draw, scale, colour) {
    draw.font = "600 13px system-ui, sans-serif";
    draw.textAlign = "center";
    draw.textBaseline = "middle";
    draw.lineJoin = "round";
    const taken = [];
    const order = this.data.regions.map((_, i) => i);
    if (this.group !== null && this.group >= 0) order.unshift(this.group);
    for (const index of order) {
      const dim = this.group !== null && this.group !== index;
      const x = scale.width / 2 + (this.centres[index][0] - this.centre[0]) * scale.wide;
      const y = scale.height / 2 - (this.centres[index][1] - this.centre[1]) * scale.unit;
      const lines = this.data.regions[index].name.split(/(?<=,) /);
      const wide = Math.max(...lines.map((line) => draw.measureText(line).width));
      const high = 16 * lines.length;
      if (x < 0 || y < 0 || x > scale.width || y > scale.height) continue;
      const found = this.#room(x, y, wide, high, scale, taken);
      if (!found) continue;
      const [left, top, box] = found;
      taken.push(box);
      draw.globalAlpha = dim ? 0.25 : 1;
      draw.strokeStyle = colour("card");
      draw.lineWidth = 4;
      draw.fillStyle = colour("ink");
      lines.forEach((line, row) => {
        const at = [left + wide / 2, top + 16 * row + 8];
        draw.strokeText(line, ...at);
        draw.fillText(line, ...at);
      });
    }
    draw.globalAlpha = 1;
  }

  // The place for a name near its middle with the fewest documents under it, and no other name.
  #room(x, y, wide, high, scale, taken) {
    const points = this.drawn;
    let best = null;
    for (const [right, down] of PLACES) {
      const left = Math.max(4, Math.min(scale.width - wide - 50, x + right - wide / 2));
      const top = Math.max(4, Math.min(scale.height - high - 4, y + down - high / 2));
      const box = [left - 4, top - 2, left + wide + 4, top + high + 2];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      const under = points.filter(([px, py]) => px > box[0] - 5 && px < box[2] + 5 && py > box[1] - 5 && py < box[3] + 5).length;
      const cost = under + (Math.abs(right) + Math.abs(down)) / 40;
      if (!best || cost < best[0]) best = [cost, [left, top, box]];
    }
    return best?.[1] ?? null;
  }

  // ---------------------------------------------------------------- pointing, zooming, keys

  #listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        const click = kind === "pointerup" && this.pointers.size === 1 && this.moved < 5;
        this.pointers.delete(event.pointerId);
        if (!click) return;
        const index = this.#nearest(event.offsetX, event.offsetY);
        if (index >= 0) this.open(this.data.ids[index]);
      });
    }
    canvas.addEventListener("pointerleave", () => this.#hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    byId("zoom-in").addEventListener("click", () => this.#zoomBy(1.5));
    byId("zoom-out").addEventListener("click", () => this.#zoomBy(1 / 1.5));
    byId("zoom-reset").addEventListener("click", () => this.#reset());
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  #onMove(event) {
    if (!this.data) return;
    const before = this.pointers.get(event.pointerId);
    const now = [event.offsetX, event.offsetY];
    if (!before) return this.#hover(this.#nearest(...now), now);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, now);
    this.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (others.length) {
      const far = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
      this.#zoomBy(far(now) / Math.max(1, far(before)), (now[0] + others[0][0]) / 2, (now[1] + others[0][1]) / 2);
    } else this.#pan(now[0] - before[0], now[1] - before[1]);
  }

  #pan(x, y) {
    const scale = this.#scale();
    this.centre = [clip(this.centre[0] - x / scale.wide, 1), clip(this.centre[1] + y / scale.unit, 1)];
    this.#hover(-1);
    this.draw();
  }

  #zoomBy(factor, x = null, y = null) {
    const before = this.#scale();
    this.zoom = Math.max(1, Math.min(FURTHEST, this.zoom * factor));
    if (x !== null) { // what is under the pointer stays there
      const after = this.#scale();
      const [right, down] = [x - before.width / 2, y - before.height / 2];
      this.centre = [clip(this.centre[0] + right / before.wide - right / after.wide, 1),
        clip(this.centre[1] - down / before.unit + down / after.unit, 1)];
    }
    if (this.zoom === 1) this.centre = [0, 0];
    this.#hover(-1);
    this.draw();
  }

  #reset() {
    this.zoom = 1;
    this.centre = [0, 0];
    this.draw();
  }

  #onKey(event) {
    const pans = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (pans[event.key]) this.#pan(...pans[event.key]);
    else if (event.key === "+" || event.key === "=") this.#zoomBy(1.5);
    else if (event.key === "-") this.#zoomBy(1 / 1.5);
    else if (event.key === "0") this.#reset();
    else return;
    event.preventDefault();
  }

  #nearest(x, y) {
    if (!this.data) return -1;
    const scale = this.#scale();
    let [best, closest] = [-1, CLOSE * CLOSE];
    for (let i = 0; i < this.data.ids.length; i++) {
      const [left, top] = this.#at(i, scale);
      const far = (left - x) ** 2 + (top - y) ** 2;
      if (far < closest) [best, closest] = [i, far];
    }
    return best;
  }

  #hover(index, at) {
    const tip = byId("tip");
    if (index !== this.hovered) {
      this.hovered = index;
      this.canvas.classList.toggle("pointing", index >= 0);
      this.draw();
    }
    tip.hidden = index < 0;
    if (index < 0) return;
    const label = this.data.labels[index];
    tip.replaceChildren(el("strong", {}, this.#title(index)),
      label >= 0 ? el("span", {}, this.data.regions[label].name) : null);
    const width = this.canvas.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(width - tip.offsetWidth - 8, at[0] + 14))}px`;
    tip.style.top = `${Math.max(8, Math.min(this.canvas.clientHeight - tip.offsetHeight - 8, at[1] + 16))}px`;
  }
}

const clip = (value, most) => Math.max(-most, Math.min(most, value));

function middle(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}

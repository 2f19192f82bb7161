// Filters: the facets of the collection as check boxes and ranges, and the condition they make.

import { byId, el, number } from "./common.js";

const FIRST = 6; // values of a facet that are shown at first

export class Filters {
  constructor(changed) {
    this.changed = changed;
    this.where = {};
    this.shown = "";
    this.open = new Set(); // facets of which all values are shown
    byId("clear").addEventListener("click", () => {
      this.set({});
      this.changed();
      byId("query").focus();
    });
    if (matchMedia("(max-width: 860px)").matches) byId("filters-box").open = false;
  }

  set(where) {
    this.where = where;
    this.#tell();
  }

  show(facets, note) {
    const box = byId("facets");
    const focused = box.contains(document.activeElement) ? document.activeElement.id : null;
    box.replaceChildren(...facets.map((facet, index) => this.#facet(facet, index)));
    if (!facets.length) box.append(el("p", { class: "soft" }, "These documents have nothing to filter by."));
    if (note) box.append(el("p", { class: "soft" }, note));
    if (focused) byId(focused)?.focus();
    this.#tell();
  }

  #tell() {
    const count = Object.keys(this.where).length;
    byId("filter-count").textContent = count;
    byId("filter-count").hidden = !count;
    byId("clear").hidden = !count;
  }

  #change(field, condition) {
    if (condition) this.where = { ...this.where, [field]: condition };
    else {
      const { [field]: _, ...rest } = this.where;
      this.where = rest;
    }
    this.#tell();
    this.changed();
  }

  #facet(facet, index) {
    const inside = facet.kind === "values" ? this.#values(facet, index) : this.#range(facet, index);
    return el("fieldset", { class: "facet" }, el("legend", {}, facet.field), inside);
  }

  #values(facet, index) {
    const chosen = this.where[facet.field]?.$in ?? [];
    const missing = chosen.filter((value) => !facet.values.some((one) => one.value === value));
    const all = [...facet.values, ...missing.map((value) => ({ value, documents: 0 }))];
    const open = this.open.has(facet.field);
    const some = open ? all : all.filter((one, at) => at < FIRST || chosen.includes(one.value));
    const toggle = (value, on) => {
      const values = on ? [...chosen, value] : chosen.filter((one) => one !== value);
      this.#change(facet.field, values.length ? { $in: values } : null);
    };
    const rows = some.map((one) => {
      const at = all.indexOf(one);
      const box = el("input", {
        type: "checkbox", id: `facet-${index}-${at}`, checked: chosen.includes(one.value),
        onchange: (event) => toggle(one.value, event.target.checked),
      });
      return el("label", { class: "check" }, box, el("span", { class: "value" }, String(one.value)),
        el("span", { class: "count" }, number(one.documents)));
    });
    if (all.length > some.length || open && all.length > FIRST) {
      rows.push(el("button", {
        type: "button", class: "link", "aria-expanded": open, onclick: (event) => {
          if (open) this.open.delete(facet.field);
          else this.open.add(facet.field);
          event.target.closest("fieldset").replaceWith(this.#facet(facet, index));
          byId(`facet-${index}-${open ? 0 : FIRST}`)?.focus();
        },
      }, open ? "Show fewer" : `Show all ${number(all.length)}`));
    }
    if (facet.others) rows.push(el("p", { class: "soft" }, `${number(facet.others)} have other values`));
    return rows;
  }

  #range(facet, index) {
    const dates = facet.kind === "dates";
    const given = this.where[facet.field] ?? {};
    const input = (name, label, value, placeholder) => el("label", {}, el("span", { class: "soft" }, label), el("input", {
      type: dates ? "date" : "number", id: `facet-${index}-${name}`, step: dates ? null : "any", value,
      placeholder, onchange: apply,
    }));
    const apply = (event) => {
      const read = (name) => event.target.closest("fieldset").querySelector(`#facet-${index}-${name}`).value;
      const [low, high] = [read("low"), read("high")];
      const condition = {};
      if (low) condition.$gte = dates ? low : Number(low);
      if (high && dates) condition.$lt = nextDay(high);
      else if (high) condition.$lte = Number(high);
      this.#change(facet.field, Object.keys(condition).length ? condition : null);
    };
    const high = dates && given.$lt ? nextDay(given.$lt, -1) : given.$lte ?? "";
    const hint = dates && facet.low ? el("p", { class: "soft" }, `${facet.low} to ${facet.high}`) : null;
    return el("div", { class: "range" }, hint, input("low", "from", given.$gte ?? "", facet.low ?? ""),
      input("high", "to", high, facet.high ?? ""));
  }
}

function nextDay(text, days = 1) {
  const date = new Date(`${text}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + days);
  return date.toISOString().slice(0, 10);
}

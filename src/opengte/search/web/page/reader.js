// One document: its text with the passage marked, what is near it, and what is known of it.

import { byId, Characters, el, Latest, marked, number, placeOf, plural, Refused } from "./common.js";

const TABS = [["text", "Text"], ["near", "Near this one"], ["details", "Details"]];

export class Reader {
  // asked() gives the fields of every request; changed(id) is called when a document opens or closes.
  constructor(asked, changed) {
    this.asked = asked;
    this.changed = changed;
    this.box = byId("reader");
    this.documents = new Latest();
    this.neighbours = new Latest();
    this.id = null;
    this.from = null; // where the focus was
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.close();
      }
    });
  }

  async open(id, { focus = true, tab = "text", at = null } = {}) {
    if (focus && !this.box.contains(document.activeElement)) this.from = document.activeElement;
    this.id = id;
    this.tab = tab;
    this.changed(id);
    this.neighbours.cancel();
    if (this.box.hidden) this.box.replaceChildren(this.#head("Loading …", null));
    this.box.hidden = false;
    document.body.classList.add("reading");
    this.#cover(matchMedia("(max-width: 860px)").matches);
    let found;
    try {
      found = await this.documents.ask("document", { ...this.asked(), id, at });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.box.replaceChildren(this.#head(error.status === 404 ? "Not found" : "Error", null),
        el("p", { class: "error" }, error.message));
      if (focus) this.box.focus();
      return;
    }
    if (!found) return;
    this.found = found;
    this.#show(found, at);
    if (focus) this.box.focus({ preventScroll: true });
  }

  close() {
    if (this.box.hidden) return;
    this.documents.cancel();
    this.box.hidden = true;
    document.body.classList.remove("reading");
    this.#cover(false);
    this.id = null;
    this.changed(null);
    const back = this.from?.isConnected ? this.from : byId("query");
    back.focus();
  }

  // Where the document covers the page, as on a phone, nothing below it can be reached.
  #cover(covered) {
    for (const below of document.querySelectorAll(".skip, header, #search-form, #filters, #results-view, #map-view")) {
      below.inert = covered;
    }
    for (const [name, value] of [["role", "dialog"], ["aria-modal", "true"]]) {
      if (covered) this.box.setAttribute(name, value);
      else this.box.removeAttribute(name);
    }
  }

  #head(title, place, tabs = null) {
    return el("div", { class: "reader-head" },
      el("div", { class: "row spread" },
        el("h2", { id: "reader-title" }, title),
        el("button", { type: "button", class: "quiet close", onclick: () => this.close() }, "Close ",
          el("kbd", { class: "wide", "aria-hidden": "true" }, "Esc"))),
      place ? el("p", { class: "soft place" }, place) : null, tabs);
  }

  #show(found, at) {
    const panels = { text: this.#text(found), near: el("div", {}, el("p", { class: "soft" }, "Loading …")), details: details(found) };
    const tabs = TABS.map(([name, label]) => el("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`,
      onclick: () => this.#choose(name), onkeydown: (event) => this.#move(event),
    }, label));
    this.box.replaceChildren(
      this.#head(found.title || found.id, placeOf(found), el("div", { class: "tabs", role: "tablist", "aria-label": "Parts" }, tabs)),
      ...TABS.map(([name]) => el("div", {
        role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, tabindex: "0", class: "panel",
      }, panels[name])));
    this.nearLoaded = false;
    this.#choose(this.tab);
    const target = at === null ? this.box.querySelector(".passage") : null;
    if (target) target.scrollIntoView({ block: "center" });
    else this.box.scrollTop = 0;
  }

  #choose(name) {
    this.tab = name;
    for (const [other] of TABS) {
      const tab = byId(`tab-${other}`);
      tab.setAttribute("aria-selected", other === name);
      tab.tabIndex = other === name ? 0 : -1;
      byId(`panel-${other}`).hidden = other !== name;
    }
    if (name === "near" && !this.nearLoaded) this.#near();
  }

  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = TABS.findIndex(([name]) => name === this.tab);
    const [name] = TABS[(at + step + TABS.length) % TABS.length];
    this.#choose(name);
    byId(`tab-${name}`).focus();
  }

  // The text: nodes of text and marks alone, whatever the document says.
  #text(found) {
    const characters = new Characters(found.text);
    const shift = found.start;
    const spans = found.marks.map(([from, to]) => [from - shift, to - shift]);
    const passage = found.passage && [found.passage.start - shift, found.passage.end - shift];
    const nodes = blocks(found, characters).map((block) => el("div", { class: `block ${block.kind}` },
      passed(characters, spans, passage, block.from, block.to)));
    const end = shift + characters.length;
    const go = (label, at) => el("button", {
      type: "button", class: "link", onclick: () => this.open(found.id, { at }),
    }, label);
    const parts = found.characters > characters.length ? el("p", { class: "soft" },
      `Characters ${number(shift)} to ${number(end)} of ${number(found.characters)}. `,
      shift > 0 ? go("Earlier", Math.max(0, shift - 1)) : null, " ",
      end < found.characters ? go("Later", Math.min(found.characters - 1, end + 1)) : null) : null;
    return [
      found.warnings.length ? el("p", { class: "notice soft" }, found.warnings.join("; ")) : null,
      parts, el("div", { class: "document" }, nodes)];
  }

  async #near() {
    this.nearLoaded = true;
    const panel = byId("panel-near");
    const { query: _, ...asked } = this.asked();
    let found;
    try {
      found = await this.neighbours.ask("near", { ...asked, id: this.id });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      panel.replaceChildren(el("p", { class: "error" }, error.message));
      return;
    }
    if (!found) return;
    if (!found.hits.length) panel.replaceChildren(el("p", { class: "soft" }, "There is no other document."));
    else panel.replaceChildren(el("ol", { class: "near" }, found.hits.map((hit) => el("li", {},
      el("div", { class: "row spread" },
        el("button", { type: "button", class: "link title", onclick: () => this.open(hit.id, { tab: "near" }) }, hit.title || hit.id),
        el("span", { class: "meter", title: "cosine of the two documents" }, bar(hit.similarity),
          el("span", { class: "n" }, number(hit.similarity, 2)))),
      el("p", { class: "soft clamp" }, hit.passage.text)))));
  }
}

// A part of the text, with what of the passage is in it set apart.
function passed(characters, spans, passage, from, to) {
  const first = Math.max(from, passage?.[0] ?? 0);
  const last = Math.min(to, passage?.[1] ?? 0);
  if (!passage || first >= last) return marked(characters, spans, from, to);
  return [...marked(characters, spans, from, first),
    el("span", { class: "passage" }, marked(characters, spans, first, last)), ...marked(characters, spans, last, to)];
}

const PROSE = ["markdown", "text", "html", "docx", "mail", "mbox"];
const HEADING = /^(#{1,6} .*|[^\n]+\n[=~^"-]{3,})$/;
const KEPT_LINES = /^([ \t]{2,}|\t|[|>]|```|[-*+•] |\d+[.)] )/m;

// The text cut at blank lines; lines are joined where a paragraph was only broken to fit.
function blocks(found, characters) {
  const whole = [{ kind: "code", from: 0, to: characters.length }];
  if (found.metadata.format === "code") return whole;
  if (found.metadata.format !== undefined && !PROSE.includes(found.metadata.format)) whole[0].kind = "lines";
  if (whole[0].kind === "lines") return whole;
  let at = 0;
  return found.text.split(/(\n(?:[ \t\r]*\n)+)/).map((part, index) => {
    const from = at;
    at += new Characters(part).length;
    const kind = index % 2 ? "gap" : HEADING.test(part) ? "heading" : KEPT_LINES.test(part) ? "lines" : "prose";
    return { kind, from, to: at };
  });
}

function bar(value) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${Math.round(100 * Math.max(0, Math.min(1, value)))}%`;
  return el("span", { class: "track", "aria-hidden": "true" }, fill);
}

function details(found) {
  const rows = Object.entries(found.metadata).sort(([a], [b]) => a < b ? -1 : 1);
  const facts = [
    ...rows, ["id", found.id], ["length", `${plural(found.characters, "character")}, ${plural(found.tokens, "token")}`],
    ["read in", plural(found.windows, "window")],
    ["indexed", found.indexed ? new Date(found.indexed * 1000).toISOString().slice(0, 16).replace("T", " ") : "unknown"],
  ];
  return el("dl", { class: "facts" }, facts.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
}

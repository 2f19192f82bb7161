// The search page: what is asked, what is shown, and the address that says both.

import {
  byId, Characters, el, get, hasKey, Latest, marked, number, placeOf, plural, Refused, startKey,
} from "./common.js";
import { startTheme } from "./theme.js";
import { Filters } from "./filters.js";
import { DocumentMap } from "./map.js";
import { Reader } from "./reader.js";

const PAUSE = 140; // milliseconds after a key before the question is asked
const FIRST = 10; // results
const MOST = 100;
const SHOWN = 420; // characters of a passage
const LEGS = { dense: "meaning", sparse: "learned words", lexical: "words", late: "tokens" };
const WAYS = { dense: "meaning only", sparse: "learned words only", lexical: "words only" };

const searches = new Latest();
const countings = new Latest();
const listings = new Latest();
let bases = [];
let base = null;
let count = FIRST;
let answer = null; // what is shown
let timer = 0;
let view = "results";

const asked = () => ({ kb: base?.name });
const where = () => filters.where;
const query = () => byId("query").value.trim();
const filters = new Filters(() => {
  count = FIRST;
  refresh();
});
const reader = new Reader(
  () => ({ ...asked(), query: query() || null }),
  () => writeAddress(true));
const map = new DocumentMap(
  () => ({ ...asked(), where: where() }),
  (id) => reader.open(id));

// ---------------------------------------------------------------- the address

let restoring = false;

function address(document) {
  const parts = new URLSearchParams();
  if (query()) parts.set("q", query());
  if (bases.length > 1) parts.set("kb", base.name);
  if (Object.keys(where()).length) parts.set("where", JSON.stringify(where()));
  if (view !== "results") parts.set("view", view);
  if (document) parts.set("doc", wellFormed(document));
  return `#${parts}`;
}

function writeAddress(step = false) {
  const now = address(reader.id);
  if (restoring || now === (location.hash || "#")) return;
  if (step) history.pushState(null, "", now);
  else history.replaceState(null, "", now);
}

async function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  restoring = true;
  try {
    byId("query").value = parts.get("q") ?? "";
    base = bases.find((one) => one.name === parts.get("kb")) ?? bases[0];
    byId("kb").value = base.name;
    filters.set(limitsIn(parts.get("where")));
    showView(parts.get("view") === "map" ? "map" : "results");
    showBase();
    await refresh();
    const id = parts.get("doc");
    if (id) await reader.open(id, { focus: false });
    else reader.close();
  } finally {
    restoring = false;
  }
}

function limitsIn(text) {
  try {
    const found = JSON.parse(text ?? "{}");
    return found && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {}; // an address that somebody cut
  }
}

// ---------------------------------------------------------------- asking

function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    count = FIRST;
    search();
  }, PAUSE);
}

async function refresh() {
  await Promise.all([search(), countFacets(), view === "map" || !query() ? map.load().then(showTopics) : null]);
}

async function search() {
  clearTimeout(timer);
  writeAddress();
  const text = query();
  document.title = text ? `${text} – Search` : "Search";
  if (!text) {
    searches.cancel();
    answer = null;
    byId("results").replaceChildren();
    byId("message").replaceChildren();
    byId("more").hidden = true;
    map.showHits([]);
    tell(base ? plural(base.documents, "document") : "");
    showTopics();
    if (!map.data) map.load().then(showTopics);
    return;
  }
  byId("topics").replaceChildren();
  byId("search-form").classList.add("busy");
  const started = performance.now();
  let found;
  try {
    found = await searches.ask("search", { ...asked(), query: text, k: count, where: where(), ...options() });
  } catch (error) {
    byId("search-form").classList.remove("busy");
    if (!(error instanceof Refused)) throw error;
    fail(error);
    return;
  }
  if (!found) return; // a newer question is under way
  byId("search-form").classList.remove("busy");
  answer = found;
  show(found, performance.now() - started);
}

function options() {
  const way = byId("way").value;
  return {
    legs: way ? [way] : null,
    diversity: Number(byId("diversity").value),
    exact: byId("exact").checked,
    rerank: byId("rerank").checked,
  };
}

async function countFacets() {
  let found;
  try {
    found = await countings.ask("facets", { ...asked(), where: where() });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status !== 401) byId("facets").replaceChildren(el("p", { class: "error" }, error.message));
    return;
  }
  if (!found) return;
  const sample = found.counted < found.total ? `Counts are of a sample of ${plural(found.counted, "document")}.` : "";
  filters.show(found.facets, sample);
}

// ---------------------------------------------------------------- showing

const tell = (text) => { byId("outcome").textContent = text; };

function fail(error) {
  answer = null;
  tell("");
  byId("results").replaceChildren();
  byId("more").hidden = true;
  byId("message").replaceChildren(el("p", { class: "error card", role: "alert" }, error.message));
}

function show(found, milliseconds) {
  const { hits } = found;
  byId("results").replaceChildren(...hits.map((hit) => result(hit)));
  byId("message").replaceChildren(...messages(found));
  byId("more").hidden = hits.length < count || count >= MOST;
  tell(hits.length ? `${plural(hits.length, "result")} in ${number(milliseconds)} ms` : "No results");
  map.showHits(hits);
}

function messages(found) {
  const said = [];
  if (!found.hits.length) {
    const limited = Object.keys(where()).length ? " Fewer filters may help." : "";
    said.push(el("p", { class: "card" }, `Nothing was found.${limited}`));
  }
  if (typeof found.confidence === "number" && found.hits.length) {
    const sure = `${Math.round(100 * found.confidence)} %`;
    said.push(found.confidence < (found.threshold ?? 0.5)
      ? el("p", { class: "card notice" }, `Probably nothing here answers that: confidence ${sure}.`)
      : el("p", { class: "soft" }, `Confidence that an answer is among these: ${sure}.`));
  }
  for (const note of found.notes) said.push(el("p", { class: "soft" }, note));
  if (found.underfilled) said.push(el("p", { class: "soft" }, "The filter left few documents, so all of them were compared."));
  return said;
}

function result(hit) {
  const place = placeOf(hit);
  const heading = hit.passage.heading && hit.passage.heading !== hit.title ? hit.passage.heading : null;
  const more = Object.entries(hit.metadata).filter(([name]) => !["path", "folder", "name", "format"].includes(name));
  return el("li", {},
    el("article", { class: "card result", "aria-labelledby": `result-${hit.rank}` },
      el("h3", {}, el("a", {
        id: `result-${hit.rank}`, href: address(hit.id), onclick: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          reader.open(hit.id);
        },
      }, hit.title ? marked(new Characters(hit.title), hit.title_marks) : hit.id)),
      el("p", { class: "soft place" }, place, heading ? ` § ${heading}` : null),
      el("p", { class: "text" }, excerpt(hit)),
      el("p", { class: "chips" },
        more.slice(0, 4).map(([name, value]) => el("span", { class: "chip" }, el("span", { class: "soft" }, `${name} `), shortened(String(value), 40))),
        hit.duplicates.length ? el("span", { class: "chip" }, `${plural(hit.duplicates.length, "near-copy", "near-copies")}`) : null,
        typeof hit.confidence === "number" ? el("span", { class: "chip" }, `confidence ${Math.round(100 * hit.confidence)} %`) : null),
      el("details", { class: "why", open: byId("scores").checked },
        el("summary", {}, reasons(hit)), whyTable(hit))));
}

// Found by meaning 1st, by words 3rd.
function reasons(hit) {
  const legs = Object.entries(hit.legs).map(([name, leg]) => `${LEGS[name] ?? name} ${ordinal(leg.rank)}`);
  return `Found by ${legs.join(", ")}`;
}

function whyTable(hit) {
  const score = (value) => value === null || value === undefined ? "–" : number(value, 3);
  const rows = Object.entries(hit.legs).map(([name, leg]) => [`by ${LEGS[name] ?? name}`, leg.rank, score(leg.score)]);
  rows.push(["all joined", hit.rank, score(hit.score)]);
  if (hit.rerank !== null) rows.push(["reranker", "–", score(hit.rerank)]);
  if (hit.passage.score !== null) rows.push(["this passage, by meaning", "–", score(hit.passage.score)]);
  return [
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", {}, "Way"), el("th", { class: "n" }, "Rank"), el("th", { class: "n" }, "Score"))),
      el("tbody", {}, rows.map(([name, rank, value]) => el("tr", {}, el("th", { scope: "row" }, name),
        el("td", { class: "n" }, rank), el("td", { class: "n" }, value)))))),
    hit.duplicates.length ? el("p", { class: "soft" }, `Nearly the same: ${hit.duplicates.join(", ")}`) : null];
}

// The part of a passage around its first marks, with the words of the question marked.
function excerpt({ title, passage }) {
  const characters = new Characters(passage.text);
  const head = headingOf(passage.text, [title, passage.heading]);
  const first = passage.marks.find(([from]) => from >= head)?.[0] ?? 0;
  let from = first > head + SHOWN - 80 ? first - 120 : head;
  if (from > head) from += Math.max(0, characters.slice(from, from + 30).search(/\s/) + 1);
  let to = Math.min(characters.length, from + SHOWN);
  if (to < characters.length) {
    const space = characters.slice(from, to).lastIndexOf(" ");
    if (space > SHOWN / 2) to = from + new Characters(characters.slice(from, to).slice(0, space)).length;
  }
  return [from > head ? "… " : null, marked(characters, passage.marks, from, to), to < characters.length ? " …" : null];
}

// The characters of a first line that only repeats what is above the passage already.
function headingOf(text, known) {
  const [line] = text.match(/^[^\n]*(\n[=~^"-]{3,}(?=\n))?\s*/);
  const said = line.split("\n")[0].replace(/^#+ /, "").trim();
  return line.length < text.length && known.includes(said) ? new Characters(line).length : 0;
}

const shortened = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

function ordinal(rank) {
  const ending = rank % 100 >= 11 && rank % 100 <= 13 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" })[rank % 10] ?? "th";
  return `${rank}${ending}`;
}

// Names of files may hold halves of characters, which an address cannot.
const wellFormed = (text) => text.toWellFormed?.() ?? text.replace(/[\ud800-\udfff]/g, "\ufffd");

// What there is, before anything is asked: the groups of the map, each with its typical document.
function showTopics() {
  const box = byId("topics");
  if (query() || !map.data?.regions.length) {
    box.replaceChildren();
    return;
  }
  const title = (id) => map.data.titles[map.places.get(id)] || id;
  box.replaceChildren(
    el("h2", {}, "What is in here"),
    el("ul", { class: "topics" }, map.data.regions.slice(0, 12).map((region, index) => el("li", { class: "card" },
      el("p", { class: "row spread" },
        el("span", {}, el("span", { class: `dot c${index % 12}`, "aria-hidden": "true" }), " ", el("strong", {}, region.name)),
        el("span", { class: "count" }, plural(region.documents, "document"))),
      el("button", { type: "button", class: "link title", onclick: () => reader.open(region.medoid) }, title(region.medoid))))));
}

function showView(name) {
  view = name;
  byId("results-view").hidden = name !== "results";
  byId("map-view").hidden = name !== "map";
  byId("show-results").setAttribute("aria-pressed", name === "results");
  byId("show-map").setAttribute("aria-pressed", name === "map");
  writeAddress();
  if (name === "map") map.load().then(() => map.draw());
}

function showBase() {
  byId("about").textContent = base.name;
  byId("query").placeholder = `Ask a question of ${plural(base.documents, "document")}`;
  const ways = base.legs.map((leg) => el("option", { value: leg }, WAYS[leg] ?? leg));
  byId("way").replaceChildren(el("option", { value: "" }, "meaning and words"), ...ways);
  byId("rerank-field").hidden = !base.reranker;
  showProblems();
}

// What is not in the index: each file has its reason here.
const KINDS = { failed: "could not be read", skipped: "skipped", warning: "with warnings" };

async function showProblems() {
  const box = byId("problems");
  box.hidden = true;
  let found;
  try {
    found = await listings.ask("problems", asked());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return; // the page says already that it may not ask
  }
  if (!found?.groups.length) return;
  const total = (kind) => found.groups.reduce((sum, group) => sum + (group.kind === kind ? group.files : 0), 0);
  const counts = Object.entries(KINDS).map(([kind, label]) => [total(kind), label]).filter(([count]) => count);
  box.hidden = false;
  box.open = false;
  box.replaceChildren(
    el("summary", {}, "Not or not wholly in the index: ", counts.map(([count, label]) => `${number(count)} ${label}`).join(", ")),
    ...found.groups.map((group) => el("details", { class: "problem" },
      el("summary", {}, `${group.reason} `, el("span", { class: "count" }, `${number(group.files)} ${KINDS[group.kind]}`)),
      el("ul", {}, group.places.map((place) => el("li", {}, place)),
        group.files > group.places.length ? el("li", { class: "soft" }, `and ${number(group.files - group.places.length)} more`) : null))));
}

// ---------------------------------------------------------------- keys

const links = () => [...byId("results").querySelectorAll("h3 a")];

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "Escape" && byId("options").open) {
    byId("options").open = false;
    byId("options").querySelector("summary").focus();
  } else if (event.key === "Escape" && !typing && !byId("reader").contains(event.target)) {
    if (reader.id) reader.close();
    else byId("query").focus();
  }
});

byId("query").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" || !links().length) return;
  event.preventDefault();
  links()[0].focus();
});

byId("results").addEventListener("keydown", (event) => {
  const all = links();
  const at = all.indexOf(event.target);
  if (at < 0) return;
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (to < 0) byId("query").focus();
  else all[Math.min(to, all.length - 1)].focus();
});

// ---------------------------------------------------------------- start

byId("query").addEventListener("input", soon);
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  count = FIRST;
  search();
});
byId("more").addEventListener("click", async () => {
  const before = links().length;
  count = Math.min(MOST, count + FIRST);
  await search();
  links()[before]?.focus();
});
for (const id of ["way", "diversity", "exact", "rerank"]) byId(id).addEventListener("change", () => search());
byId("scores").addEventListener("change", (event) => {
  for (const one of document.querySelectorAll("details.why")) one.open = event.target.checked;
});
byId("kb").addEventListener("change", () => {
  base = bases.find((one) => one.name === byId("kb").value);
  filters.set({});
  map.forget();
  reader.close();
  showBase();
  refresh();
});
byId("show-results").addEventListener("click", () => showView("results"));
byId("show-map").addEventListener("click", () => showView("map"));
document.addEventListener("click", (event) => {
  if (!byId("options").contains(event.target)) byId("options").open = false;
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says what is searched
  byId("query").focus();
});
addEventListener("popstate", () => { if (bases.length) readAddress(); });

async function start() {
  map.forget();
  let found;
  try {
    found = await get("status");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) tell("");
    else fail(error);
    return;
  }
  if (!hasKey()) byId("key-form").hidden = true;
  bases = found.knowledge_bases;
  byId("kb").replaceChildren(...bases.map((one) => el("option", { value: one.name }, one.name)));
  byId("kb-field").hidden = bases.length < 2;
  byId("links").replaceChildren(...Object.entries(found.links).map(([name, address]) =>
    el("a", { href: address, "aria-current": address === "./" ? "page" : null }, name)));
  await readAddress();
}

startTheme();
startKey(start);
byId("query").focus();
start();

// The start page: models, a query against pasted documents, live charts of load.

import { bodyOf, byId, call, el, messageOf, number, startKey, startLinks } from "./common.js";
import { startTheme } from "./theme.js";
import { Charts } from "./charts.js";

const LONGEST = 400; // characters of a document that a result shows at first
let models = [];
let charts;
let paused = false;
let shownModels = "";
let refused = false; // until there is another key

// ---------------------------------------------------------------- models

function modelCard(model) {
  const card = model.card;
  const facts = [];
  const add = (name, value) => value !== null && value !== undefined && value !== "" &&
    facts.push(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  if (card) {
    add("Kind", card.kind);
    add("Architecture", `${card.architecture}, ${card.layers} layers`);
    add("Parameters", `${number(card.parameters / 1e6, 1)} M`);
    if (card.kind === "encoder") add("Vectors", vectors(card));
    add("Longest input", `${number(card.max_length)} tokens`);
    add("Runs as", [card.engine, card.precision, card.device].filter(Boolean).join(" · "));
  }
  if (model.max_batch_tokens) add("Batch", `${number(model.max_batch_tokens)} tokens`);
  if (model.max_queue_tokens) add("Queue", `${number(model.max_queue_tokens)} tokens`);
  const more = [];
  const tell = (name, value) => value && more.push(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  if (card) {
    tell("Pooling", card.pooling);
    tell("Outputs", card.outputs.join(", "));
    for (const [role, prompt] of Object.entries(card.prompts)) tell(`Prompt: ${role}`, el("code", {}, prompt));
    tell("Instruction", card.instruction_template && el("code", {}, card.instruction_template));
    tell("Licence", card.licence);
    tell("Fingerprint", el("code", {}, card.fingerprint));
  }
  return el("article", { class: "card model" },
    el("h3", {}, el("span", { class: "name" }, model.name),
      el("span", { class: `state ${model.state}` }, model.state)),
    model.detail ? el("p", { class: "error" }, model.detail) : null,
    el("dl", { class: "facts" }, facts),
    more.length ? el("details", {}, el("summary", {}, "More"), el("dl", { class: "facts wide" }, more)) : null);
}

function vectors(card) {
  const sizes = Array.isArray(card.dimensions) ? card.dimensions.join(", ") : card.dimensions;
  return `${card.dimension} numbers${sizes && sizes.length ? ` (also ${sizes})` : ""}`;
}

function showModels(found) {
  models = found;
  const lasting = JSON.stringify(found.map(({ queued_tokens: _, ...rest }) => rest));
  if (lasting === shownModels) return; // so that an open "More" is not closed
  shownModels = lasting;
  byId("models").replaceChildren(...(found.length
    ? found.map(modelCard) : [el("p", { class: "soft" }, "No model is loaded.")]));
  const select = byId("model");
  const chosen = select.value;
  select.replaceChildren(...found.map((model) => el("option", {
    value: model.name, disabled: model.state === "failed" }, label(model))));
  if (found.some((model) => model.name === chosen)) select.value = chosen;
  showChoices();
}

const label = (model) => {
  const kind = model.card?.kind === "reranker" ? " (reranker)" : "";
  return model.name + kind + (model.state === "ready" ? "" : ` (${model.state})`);
};

function showChoices() {
  const card = models.find((model) => model.name === byId("model").value)?.card;
  const reranker = card?.kind === "reranker";
  byId("role").disabled = reranker;
  const field = byId("instruction");
  field.disabled = !card?.instruction_template || (byId("role").value !== "query" && !reranker);
  field.placeholder = field.disabled ? "this model takes none" : card.default_instruction ?? "none";
  if (!field.disabled || card?.instruction_template) return;
  field.value = "";
}

// ---------------------------------------------------------------- a query against documents

function documents() {
  const text = byId("documents").value;
  const block = document.querySelector("input[name=split]:checked").value === "block";
  return text.split(block ? /\n[ \t]*\n/ : /\n/).map((part) => part.trim()).filter(Boolean);
}

function countDocuments() {
  const n = documents().length;
  byId("document-count").textContent = `${n} document${n === 1 ? "" : "s"}`;
}

class Refused extends Error {}

async function post(path, body) {
  const answer = await call(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const result = await bodyOf(answer);
  if (!answer.ok) throw new Refused(messageOf(result, answer.status));
  return result;
}

function floats(value) {
  if (Array.isArray(value)) return Float32Array.from(value);
  const bytes = Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return dot / (Math.sqrt(aa * bb) || 1);
}

async function compare(model, query, texts, role, instruction) {
  if (model.card?.kind === "reranker") {
    const body = { model: model.name, query, documents: texts };
    if (instruction) body.instruction = instruction;
    const found = await post("v1/rerank", body);
    const rows = texts.map((text) => ({ text, score: null }));
    for (const item of found.results ?? found.data) rows[item.index].score = item.relevance_score;
    return { rows: annotate(rows, found), what: "score" };
  }
  const body = { model: model.name, encoding_format: "base64", details: true, partial: true };
  const asked = { ...body, input: [query], input_type: role };
  if (instruction) asked.instruction = instruction;
  const [left, right] = await Promise.all([
    post("v1/embeddings", asked),
    post("v1/embeddings", { ...body, input: texts, input_type: "document" }),
  ]);
  const queryNote = annotate([{ text: query }], left)[0];
  if (left.data[0].embedding === null) throw new Refused(queryNote.error ?? "The query failed.");
  const vector = floats(left.data[0].embedding);
  const rows = texts.map((text) => ({ text, score: null }));
  for (const item of right.data) {
    if (item.embedding !== null) rows[item.index].score = cosine(vector, floats(item.embedding));
  }
  return { rows: annotate(rows, right), what: "similarity", query: queryNote };
}

// Add to each row what happened to the input: tokens computed and sent, or why it failed.
function annotate(rows, body) {
  const noted = new Map((body.inputs ?? []).map((input) => [input.index, input]));
  return rows.map((row, i) => {
    const input = noted.get(i);
    return { ...row, tokens: input?.embedded_tokens, found: input?.tokens, error: input?.error };
  });
}

function resultRow(row, rank, scale) {
  const share = row.score === null ? 0 : (row.score - scale.low) / (scale.high - scale.low);
  const zero = (0 - scale.low) / (scale.high - scale.low);
  const bar = el("span", { class: row.score < 0 ? "fill below" : "fill" });
  bar.style.left = `${100 * Math.min(zero, share)}%`;
  bar.style.width = `${100 * Math.abs(share - zero)}%`;
  const cut = row.found !== undefined && row.found > row.tokens;
  const long = row.text.length > LONGEST;
  const text = el("p", { class: "text" }, long ? `${row.text.slice(0, LONGEST)} …` : row.text);
  const more = long && el("button", { type: "button", class: "link", onclick: () => {
    text.textContent = row.text;
    more.remove();
  } }, "show all");
  return el("tr", {},
    el("td", { class: "n rank" }, rank),
    el("td", { class: "what" }, text, more || null,
      row.error ? el("p", { class: "error" }, row.error)
        : el("div", { class: "track", "aria-hidden": "true" }, bar)),
    el("td", { class: "n" }, row.score === null ? "failed" : number(row.score, 3)),
    el("td", { class: "n" }, row.tokens === undefined ? "–" : number(row.tokens),
      cut ? el("span", { class: "cut" }, `cut from ${number(row.found)}`) : null));
}

function showResults({ rows, what, query }, model, seconds) {
  const order = [...rows].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const scores = rows.map((row) => row.score).filter((score) => score !== null);
  const scale = { low: Math.min(0, ...scores), high: Math.max(1, ...scores) };
  const cut = rows.filter((row) => row.found > row.tokens).length;
  const parts = [`${rows.length} documents by ${model.name} in ${number(1000 * seconds, 0)} ms`];
  if (query?.tokens) parts.push(`query: ${number(query.tokens)} tokens`);
  if (cut) parts.push(`${cut} cut to the model's longest input`);
  if (query?.found > query?.tokens) parts.push("the query was cut too");
  byId("outcome").replaceChildren(el("p", { class: "soft" }, parts.join(" · ")));
  byId("results").replaceChildren(el("table", { class: "results" },
    el("caption", { class: "hidden" }, `Documents by ${what} to the query, best first`),
    el("thead", {}, el("tr", {}, el("th", { class: "n", scope: "col" }, "#"),
      el("th", { scope: "col" }, "Document"), el("th", { class: "n", scope: "col" }, what),
      el("th", { class: "n", scope: "col" }, "tokens"))),
    el("tbody", {}, order.map((row, i) => resultRow(row, i + 1, scale)))));
}

async function submit(event) {
  event.preventDefault();
  const model = models.find((one) => one.name === byId("model").value);
  const texts = documents();
  const query = byId("query").value;
  const complain = (text) => {
    byId("outcome").replaceChildren(el("p", { class: "error" }, text));
    byId("results").replaceChildren();
  };
  if (refused) {
    byId("key").focus();
    return complain("Enter an API key of this server first.");
  }
  if (!model) return complain("There is no model to ask.");
  if (!query.trim() || !texts.length) return complain("Write a query and at least one document.");
  byId("compare").disabled = true;
  const start = performance.now();
  try {
    const role = byId("role").value;
    const found = await compare(model, query, texts, role, byId("instruction").value.trim());
    showResults(found, model, (performance.now() - start) / 1000);
  } catch (error) {
    complain(error instanceof Refused ? error.message : `The server could not be reached: ${error.message}`);
  } finally {
    byId("compare").disabled = false;
  }
}

// ---------------------------------------------------------------- the state of the server

// Without a key that the server knows, nothing is loading: say what to do, and wait for a key.
function showRefusal(text) {
  refused = true;
  models = [];
  shownModels = "";
  byId("model").replaceChildren();
  byId("models").replaceChildren(
    el("p", { class: "soft" }, "Enter an API key above to see the models."));
  byId("connection").textContent = text;
  byId("connection").hidden = false;
  byId("key").focus();
}

function retry() {
  refused = false;
  return poll();
}

async function poll() {
  if (paused || refused || document.hidden) return;
  const note = byId("connection");
  try {
    const answer = await call(`page/state?since=${charts.last}`, { cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) {
      return showRefusal(messageOf(await bodyOf(answer), answer.status));
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const state = await answer.json();
    note.hidden = true;
    byId("version").textContent = state.version;
    startLinks(state.links);
    showModels(state.models);
    charts.add(state.seconds);
  } catch (error) {
    note.textContent = `The server does not answer (${error.message}); trying again.`;
    note.hidden = false;
  }
}

async function keepPolling() {
  for (;;) {
    await poll();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

startTheme();
startKey(retry);
charts = new Charts(byId("charts"), byId("load-table"));
byId("try-form").addEventListener("submit", submit);
byId("try-form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("try-form").requestSubmit();
  }
});
byId("model").addEventListener("change", showChoices);
byId("role").addEventListener("change", showChoices);
byId("documents").addEventListener("input", countDocuments);
for (const radio of document.querySelectorAll("input[name=split]")) radio.addEventListener("change", countDocuments);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Resume" : "Pause";
});
countDocuments();
keepPolling();

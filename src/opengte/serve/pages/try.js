// A form that compares a query with pasted documents, on the start page and on the models' pages.

import { bodyOf, byId, call, el, messageOf, number } from "./common.js";

const LONGEST = 400; // characters of a document that a result shows at first

function documents() {
  const text = byId("documents").value;
  const block = document.querySelector("input[name=split]:checked")?.value === "block";
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

async function submit(event, { model: chosen, refused }) {
  event.preventDefault();
  const model = chosen();
  const texts = documents();
  const query = byId("query").value;
  const complain = (text) => {
    byId("outcome").replaceChildren(el("p", { class: "error" }, text));
    byId("results").replaceChildren();
  };
  if (refused()) {
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

// model() returns what is asked, refused() whether it takes another key first.
export function startTry(options) {
  const form = byId("try-form");
  form.addEventListener("submit", (event) => submit(event, options));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  byId("documents").addEventListener("input", countDocuments);
  for (const radio of document.querySelectorAll("input[name=split]")) radio.addEventListener("change", countDocuments);
  countDocuments();
}

// The start page: models, a query against pasted documents, live charts of load.

import { bodyOf, byId, call, el, messageOf, number, startKey, startLinks } from "./common.js";
import { startTheme } from "./theme.js";
import { Charts } from "./charts.js";
import { startTry } from "./try.js";

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
startTry({
  model: () => models.find((one) => one.name === byId("model").value),
  refused: () => refused,
});
byId("model").addEventListener("change", showChoices);
byId("role").addEventListener("change", showChoices);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Resume" : "Pause";
});
keepPolling();

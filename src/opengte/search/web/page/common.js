// What the parts of the page share: elements made without HTML strings, requests, the API key.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

// ---------------------------------------------------------------- requests

const KEY = "opengte-key";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function send(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer.", 0);
  }
  const text = await answer.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch { /* said below */ }
  if (answer.ok && body) return body;
  if (answer.status === 401) askForKey();
  throw new Refused(body?.error?.message ?? `The server answered with status ${answer.status}.`, answer.status);
}

export const get = (path) => send(path, {});

export const post = (path, body, signal) => send(path, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

// Questions of one kind, of which only the last one counts: earlier ones are cancelled, and an
// answer that comes late all the same is dropped.
export class Latest {
  #last = null;

  async ask(path, body) {
    this.#last?.abort();
    const mine = new AbortController();
    this.#last = mine;
    try {
      const found = await post(path, body, mine.signal);
      return this.#last === mine ? found : null;
    } catch (error) {
      if (this.#last !== mine || error.name === "AbortError") return null;
      throw error;
    }
  }

  cancel() {
    this.#last?.abort();
    this.#last = null;
  }
}

function askForKey() {
  byId("key-form").hidden = false;
  if (sessionStorage.getItem(KEY)) byId("key-note").textContent = "The server does not know this key.";
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function startKey(changed) {
  byId("key-form").hidden = !sessionStorage.getItem(KEY);
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, byId("key").value.trim());
    byId("key").value = "";
    byId("key-note").textContent = "The key is kept in this browser tab.";
    changed();
  });
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    byId("key-note").textContent = "The key is forgotten.";
    changed();
  });
}

// ---------------------------------------------------------------- texts

// The server counts characters, JavaScript counts halves of some of them.
const PAIRS = /[\ud800-\udbff][\udc00-\udfff]/;

export class Characters {
  constructor(text) {
    this.parts = PAIRS.test(text) ? Array.from(text) : text;
  }

  get length() {
    return this.parts.length;
  }

  slice(from, to) {
    const part = this.parts.slice(from, to);
    return typeof part === "string" ? part : part.join("");
  }
}

// Nodes of a text with the spans [from, to] in it marked.
export function marked(characters, spans, from = 0, to = characters.length) {
  const nodes = [];
  let at = from;
  for (const [start, end] of spans) {
    if (end <= at || start >= to) continue;
    const first = Math.max(start, at);
    nodes.push(characters.slice(at, first));
    at = Math.min(end, to);
    nodes.push(el("mark", {}, characters.slice(first, at)));
  }
  nodes.push(characters.slice(at, to));
  return nodes;
}

// What a person reads of a place: the end of a long path says most.
export function placeOf(hit) {
  const path = String(hit.metadata?.path ?? hit.source ?? "");
  const parts = path.split("/").filter(Boolean);
  const short = parts.length > 3 ? `…/${parts.slice(-3).join("/")}` : path;
  return hit.line ? `${short}:${hit.line}` : short;
}

// What both pages share: elements made without HTML strings, the API key, requests.

export function el(tag, attributes = {}, ...children) {
  const made = tag === "svg" || attributes.svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "svg" || value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

const KEY = "opengte-key";

export function headers(extra = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...extra, authorization: `Bearer ${key}` } : extra;
}

// Fetch from this server, with the key if there is one; a 401 shows the field for it.
export async function call(path, options = {}) {
  const base = document.documentElement.dataset.base ?? ""; // of pages that are not at the root
  const answer = await fetch(base + path, { ...options, headers: headers(options.headers) });
  if (answer.status === 401) askForKey();
  return answer;
}

function askForKey() {
  byId("key-form").hidden = false;
  if (sessionStorage.getItem(KEY)) byId("key-note").textContent = "The server does not know this key.";
}

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

// Links to further pages of this server, before the last link.
export function startLinks(links) {
  const nav = document.querySelector(".bar nav");
  for (const [name, address] of Object.entries(links ?? {})) {
    if (![...nav.children].some((link) => link.getAttribute("href") === address)) {
      nav.lastElementChild.before(el("a", { href: address }, name), " ");
    }
  }
}

// The message of an error body, whichever protocol's shape it has.
export function messageOf(body, status) {
  if (typeof body === "string" && body) return body;
  const found = body?.error?.message ?? body?.error ?? body?.message ?? body?.detail;
  return typeof found === "string" ? found : `The server answered with status ${status}.`;
}

export async function bodyOf(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

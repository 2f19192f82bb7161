// The API page: made from /openapi.json, with a form to try each route.

import { bodyOf, byId, call, el, headers, messageOf, startKey, startLinks } from "./common.js";
import { startTheme } from "./theme.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEEPEST = 5; // levels of a schema that are shown
const LONGEST = 20000; // characters of an answer that are shown
let spec = {};

// ---------------------------------------------------------------- schemas

function resolve(schema) {
  for (let i = 0; schema?.$ref && i < 20; i++) {
    schema = schema.$ref.split("/").slice(1).reduce((at, part) =>
      at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], spec);
  }
  return schema ?? {};
}

const choices = (schema) => schema.anyOf ?? schema.oneOf;

function typeOf(given) {
  const schema = resolve(given);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (choices(schema)) return [...new Set(choices(schema).map(typeOf))].join(" | ");
  if (schema.type === "array") {
    const item = schema.items ? typeOf(schema.items) : "any";
    return item.includes(" | ") ? `list of (${item})` : `list of ${item}`;
  }
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "object") return schema.title ?? "object";
  if (schema.properties) return schema.title ?? "object";
  return schema.type ?? "any";
}

function limits(schema) {
  const parts = [];
  const say = (name, text) => schema[name] !== undefined && parts.push(`${text} ${schema[name]}`);
  say("minimum", "at least");
  say("maximum", "at most");
  say("exclusiveMinimum", "above");
  say("exclusiveMaximum", "below");
  say("minLength", "characters at least");
  say("maxLength", "characters at most");
  say("minItems", "items at least");
  say("maxItems", "items at most");
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

// The object inside a schema whose fields get a row each, if there is one.
function inner(given) {
  const schema = resolve(given);
  if (schema.properties) return schema;
  if (schema.items) return inner(schema.items);
  for (const one of choices(schema) ?? []) {
    const found = inner(one);
    if (found) return found;
  }
  return null;
}

function rowsOf(given, depth = 0, above = []) {
  const schema = inner(given);
  if (!schema || depth > DEEPEST || above.includes(schema)) return [];
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties).flatMap(([name, property]) => {
    const found = resolve(property);
    const about = [property.description ?? found.description, limits(found)].filter(Boolean).join(" · ");
    const row = el("tr", {},
      el("td", { class: `depth${Math.min(depth, 4)}` }, el("code", {}, name),
        required.has(name) ? el("span", { class: "need" }, " required") : null),
      el("td", {}, el("code", {}, typeOf(property)), about ? el("div", { class: "soft" }, about) : null));
    return [row, ...rowsOf(property, depth + 1, [...above, schema])];
  });
}

function schemaTable(given, caption) {
  const rows = rowsOf(given);
  const about = resolve(given).description;
  const parts = [];
  if (about) parts.push(el("p", { class: "soft" }, about));
  if (!rows.length) return [...parts, el("p", {}, el("code", {}, typeOf(given)))];
  if (resolve(given).type === "array") parts.push(el("p", { class: "soft" }, "A list of:"));
  return [...parts, el("div", { class: "scroll" }, el("table", { class: "schema" },
    el("caption", { class: "hidden" }, caption),
    el("thead", { class: "hidden" }, el("tr", {}, el("th", { scope: "col" }, "Field"), el("th", { scope: "col" }, "Type"))),
    el("tbody", {}, rows)))];
}

// A small value that fits a schema: the initial content of the form.
function sample(given, name = "", depth = 0) {
  const schema = resolve(given);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (choices(schema)) return sample(choices(schema).find((one) => resolve(one).type !== "null") ?? {}, name, depth);
  if (depth > DEEPEST) return null;
  if (schema.properties) {
    return Object.fromEntries((schema.required ?? []).map((field) =>
      [field, sample(schema.properties[field] ?? {}, field, depth + 1)]));
  }
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case "array": return [sample(schema.items ?? {}, name, depth + 1)];
    case "integer": return schema.minimum ?? 1;
    case "number": return schema.minimum ?? 0.5;
    case "boolean": return false;
    case "object": return {};
    default: return name === "model" ? firstModel : name === "query" ? "What is a vector?" : "A text to embed.";
  }
}

let firstModel = "";

// ---------------------------------------------------------------- one operation

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(method, url, body) {
  const parts = [`curl ${quoted(url)}`];
  if (method !== "get" && method !== "post") parts.push(`-X ${method.toUpperCase()}`);
  if (headers().authorization) parts.push(`-H "Authorization: Bearer $OPENGTE_API_KEY"`);
  if (body !== null) parts.push("-H 'Content-Type: application/json'", `-d ${quoted(body)}`);
  else if (method === "post") parts.push("-X POST");
  return parts.join(" \\\n  ");
}

function pathWith(path, values) {
  let filled = path.replace(/\{([^}:]+)(?::[^}]+)?\}/g, (_, name) =>
    encodeURIComponent(values.get(`path ${name}`) ?? "").replaceAll("%2F", "/"));
  const query = new URLSearchParams([...values].filter(([key, value]) => key.startsWith("query ") && value)
    .map(([key, value]) => [key.slice(6), value]));
  if (query.size) filled += `?${query}`;
  return filled.replace(/^\//, ""); // relative, so that a path prefix of this server stays
}

function tryForm(method, path, operation, parameters, media) {
  const inputs = new Map();
  const fields = parameters.filter((one) => one.in === "path" || one.in === "query").map((one) => {
    const id = `${operation.operationId ?? method + path}-${one.name}`;
    const input = el("input", { id, autocomplete: "off", oninput: show });
    if (one.in === "path" && one.name.startsWith("model")) input.value = firstModel;
    inputs.set(`${one.in} ${one.name}`, input);
    return el("div", { class: "field" }, el("label", { for: id }, `${one.name}${one.required ? "" : " (optional)"}`), input);
  });
  let body = null;
  if (media) {
    const id = `${operation.operationId ?? method + path}-body`;
    const value = media.example ?? Object.values(media.examples ?? {})[0]?.value ?? sample(media.schema ?? {});
    const text = JSON.stringify(value, null, 2);
    body = el("textarea", { id, class: "code", rows: Math.min(14, text.split("\n").length + 1), spellcheck: "false", oninput: show });
    body.value = text;
    fields.push(el("div", { class: "field" }, el("label", { for: id }, "Body (JSON)"), body));
  }
  const line = el("pre", { tabindex: "0", "aria-label": "The same with curl" });
  const outcome = el("div", { "aria-live": "polite" });
  const send = el("button", { type: "submit", class: "main" }, "Send");
  const copy = el("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      await navigator.clipboard.writeText(line.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(line);
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy curl"; }, 1500);
  } }, "Copy curl");
  const target = () => pathWith(path, new Map([...inputs].map(([key, input]) => [key, input.value])));

  function compact() {
    if (!body) return null;
    try {
      return JSON.stringify(JSON.parse(body.value));
    } catch {
      return body.value;
    }
  }

  function show() {
    line.textContent = curl(method, new URL(target(), document.baseURI).href, compact());
  }

  async function submit(event) {
    event.preventDefault();
    send.disabled = true;
    const start = performance.now();
    try {
      const answer = await call(target(), {
        method: method.toUpperCase(), body: body?.value,
        headers: body ? { "content-type": "application/json" } : {},
      });
      const result = await bodyOf(answer);
      const text = typeof result === "string" ? result : JSON.stringify(result, null, 1);
      const ms = (performance.now() - start).toFixed(0);
      outcome.replaceChildren(
        el("p", {}, el("span", { class: `status ${answer.ok ? "ok" : "not"}` }, `${answer.status} `),
          el("span", { class: "soft" }, `${ms} ms${answer.headers.get("server-timing") ? " · " + answer.headers.get("server-timing") : ""}`)),
        el("pre", { tabindex: "0", "aria-label": "Answer" }, text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${text.length - LONGEST} more characters` : text || "(empty)"));
    } catch (error) {
      outcome.replaceChildren(el("p", { class: "error" }, `The server could not be reached: ${error.message}`));
    } finally {
      send.disabled = false;
      show();
    }
  }

  show();
  return el("form", { onsubmit: submit }, fields, line, el("div", { class: "row" }, send, copy), outcome);
}

function responses(operation) {
  return Object.entries(operation.responses ?? {}).map(([status, given]) => {
    const response = resolve(given);
    const media = Object.entries(response.content ?? {});
    return el("details", {}, el("summary", {}, el("span", { class: `status ${status.startsWith("2") ? "ok" : "not"}` }, status),
      ` ${response.description ?? ""}`),
    Object.entries(response.headers ?? {}).map(([name, header]) =>
      el("p", { class: "soft" }, el("code", {}, name), ` ${resolve(header).description ?? ""}`)),
    media.map(([type, one]) => [el("p", { class: "soft" }, type), one.schema ? schemaTable(one.schema, `Answer ${status}`) : null]));
  });
}

function parameterTable(parameters) {
  return el("div", { class: "scroll" }, el("table", { class: "schema" }, el("tbody", {}, parameters.map((one) =>
    el("tr", {}, el("td", {}, el("code", {}, one.name), one.required ? el("span", { class: "need" }, " required") : null),
      el("td", {}, el("code", {}, `${one.in}: ${typeOf(one.schema ?? {})}`),
        one.description ? el("div", { class: "soft" }, one.description) : null))))));
}

function operationElement(id, path, method, operation, shared) {
  const parameters = [...(shared ?? []), ...(operation.parameters ?? [])].map(resolve);
  const content = resolve(operation.requestBody)?.content ?? {};
  const json = Object.keys(content).find((type) => type.includes("json"));
  const made = el("details", { class: "card operation", id },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", {}, path),
      el("span", { class: "soft" }, operation.summary ?? "")));
  made.addEventListener("toggle", () => {
    if (!made.open || made.children.length > 1) return; // rendered when it is first opened
    made.append(el("div", { class: "inside" },
      operation.description ? operation.description.split("\n\n").map((part) => el("p", {}, part)) : null,
      parameters.length ? [el("h4", {}, "Parameters"), parameterTable(parameters)] : null,
      json ? [el("h4", {}, "Body"), ...schemaTable(content[json].schema ?? {}, "Body")] : null,
      el("h4", {}, "Answers"), responses(operation),
      el("h4", {}, "Try it"), tryForm(method, path, operation, parameters, content[json])));
  });
  return made;
}

// ---------------------------------------------------------------- the page

function groups() {
  const found = new Map((spec.tags ?? []).map((tag) => [tag.name, { about: tag.description, operations: [] }]));
  for (const [path, item] of Object.entries(spec.paths ?? {})) {
    for (const method of METHODS.filter((one) => item[one])) {
      const tag = item[method].tags?.[0] ?? "Other";
      if (!found.has(tag)) found.set(tag, { about: "", operations: [] });
      found.get(tag).operations.push({ path, method, operation: item[method], shared: item.parameters });
    }
  }
  return [...found].filter(([, group]) => group.operations.length);
}

function show() {
  byId("title").textContent = spec.info?.title ?? "API";
  byId("version").textContent = spec.info?.version ?? "";
  if (spec.paths?.["/kb/search"]) startLinks({ Search: "kb/" });
  byId("about").replaceChildren(...(spec.info?.description ?? "").split("\n\n").filter(Boolean).map((part) => el("p", {}, part)));
  const links = [];
  const sections = groups().map(([name, group]) => {
    links.push(el("h2", {}, name));
    const made = group.operations.map(({ path, method, operation, shared }) => {
      const id = operation.operationId ?? `${method}${path}`.replace(/\W+/g, "-");
      links.push(el("a", { href: `#${id}`, onclick: () => open(id) }, path));
      return operationElement(id, path, method, operation, shared);
    });
    return el("section", { class: "group" }, el("h2", {}, name), group.about ? el("p", { class: "soft" }, group.about) : null, made);
  });
  byId("links").replaceChildren(...links);
  byId("operations").replaceChildren(...sections);
  byId("operations").append(el("p", { class: "soft" }, "The same for machines: ", el("a", { href: "openapi.json" }, "openapi.json")));
  filter();
  if (location.hash) open(decodeURIComponent(location.hash.slice(1)));
}

function open(id) {
  const found = byId(id);
  if (!found?.matches("details")) return;
  found.open = true;
  found.scrollIntoView();
}

function filter() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const fits = (text) => text.toLowerCase().includes(wanted);
  for (const group of document.querySelectorAll(".group")) {
    const name = group.querySelector("h2").textContent;
    let any = false;
    for (const one of group.querySelectorAll(".operation")) {
      one.hidden = !(fits(name) || fits(one.querySelector("summary").textContent));
      any ||= !one.hidden;
    }
    group.hidden = !any;
  }
  for (const link of document.querySelectorAll("#links a")) link.hidden = byId(link.hash.slice(1))?.hidden ?? false;
  for (const title of document.querySelectorAll("#links h2")) {
    let next = title.nextElementSibling;
    let any = false;
    for (; next?.matches("a"); next = next.nextElementSibling) any ||= !next.hidden;
    title.hidden = !any;
  }
}

async function load() {
  const note = byId("connection");
  try {
    const [answer, listed] = await Promise.all([call("openapi.json"), call("v1/models")]);
    const body = await bodyOf(answer);
    if (!answer.ok) throw new Error(messageOf(body, answer.status));
    if (listed.ok) firstModel = (await listed.json()).data?.[0]?.id ?? "";
    spec = body;
    note.hidden = true;
    show();
  } catch (error) {
    note.textContent = `The description of the API could not be read: ${error.message}`;
    note.hidden = false;
  }
}

startTheme();
startKey(load);
byId("filter").addEventListener("input", filter);
load();

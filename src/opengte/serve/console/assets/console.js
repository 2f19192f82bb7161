// What the console's pages do beyond their forms: theme, code to copy, trying a model.

import { byId, startKey } from "./common.js";
import { startTheme } from "./theme.js";
import { startTry } from "./try.js";

const base = new URL(document.documentElement.dataset.base, location.href);

// Put this server's address, and the reader's own key if the tab has it, into the code.
function fillCode() {
  const key = sessionStorage.getItem("opengte-key") ?? "YOUR_KEY";
  for (const code of document.querySelectorAll("code.snippet-code")) {
    code.dataset.text ??= code.textContent;
    code.textContent = code.dataset.text.replaceAll("$URL", base.href.replace(/\/$/, "")).replaceAll("$KEY", key);
  }
}

function startCopying() {
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("code").textContent;
      await navigator.clipboard.writeText(text).then(
        () => { button.textContent = "Copied"; },
        () => { button.textContent = "Select the text and copy it"; });
    });
  }
}

const EXAMPLES = {
  two: ["The cat sleeps on the sofa.", "A kitten takes a nap."],
  documents: ["a sleeping cat", "A kitten takes a nap on the warm window sill.\nThe stock market fell on Tuesday."],
  long: ["what is the last word?", "word ".repeat(9000) + "end"],
};

function startModelPage(form) {
  const model = { name: form.dataset.model, card: { kind: form.dataset.kind } };
  startTry({ model: () => model, refused: () => false });
  startKey(fillCode);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      [byId("query").value, byId("documents").value] = EXAMPLES[button.dataset.example];
      byId("documents").dispatchEvent(new Event("input"));
      form.requestSubmit();
    });
  }
}

// A new key is on its page once; this puts it where this tab's pages find it.
function startKeeping() {
  byId("keep-key")?.addEventListener("click", (event) => {
    sessionStorage.setItem("opengte-key", byId("new-key").textContent.trim());
    event.target.textContent = "In use in this tab";
  });
}

startTheme();
fillCode();
startCopying();
startKeeping();
if (byId("try-form")) startModelPage(byId("try-form"));

// The page: reads the form, calls the service, has the answer drawn.

import { Refusal, embedAll } from "./api.js";
import { snippets } from "./snippets.js";
import { drawHeatmap, drawRanking, drawVector, ranked } from "./view.js";

const $ = (id) => document.getElementById(id);
const { model, maxLength } = document.body.dataset;
const keyed = Boolean($("key"));

let last; // the wish and the answer that are shown
let running; // ends the call under way

function wish() {
  return {
    query: $("query").value,
    texts: $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean),
    isQuery: $("is_query").checked,
    normalize: $("normalize").checked,
    key: $("key")?.value.trim() ?? "",
  };
}

async function run() {
  running?.abort();
  const call = (running = new AbortController());
  const wished = wish();
  clearErrors();
  show(wished.texts.length);
  try {
    const answer = await embedAll(wished, (done) => ($("progress").value = done), call.signal);
    draw(wished, answer);
  } catch (error) {
    if (error.name === "AbortError") {
      if (call === running) $("figures").textContent = "Stopped.";
    } else if (error instanceof Refusal) {
      blame(error);
    } else {
      throw error;
    }
  } finally {
    if (call === running) hide();
  }
}

function show(count) {
  $("progress").max = Math.max(1, count);
  $("progress").value = 0;
  $("progress").hidden = $("stop").hidden = false;
  document.body.setAttribute("aria-busy", "true");
}

function hide() {
  running = undefined;
  $("progress").hidden = $("stop").hidden = true;
  document.body.removeAttribute("aria-busy");
}

function draw(wished, answer) {
  const same = last && last.wished.query === wished.query && String(last.wished.texts) === String(wished.texts);
  const order = ranked(answer.query, answer.vectors);
  drawRanking($("ranking"), $("scale"), {
    order,
    texts: wished.texts,
    truncated: answer.truncated,
    maxLength,
    normalize: wished.normalize,
    before: same ? last.order : undefined,
  });
  drawHeatmap($("heatmap"), $("heatmap-hint"), { texts: wished.texts, vectors: answer.vectors });
  last = { wished, answer, order };
  const chosen = same ? $("which").value : "-1";
  $("which").replaceChildren(
    new Option("what is searched for", "-1"),
    ...wished.texts.slice(0, 100).map((text, index) => new Option(`${index + 1}: ${text.slice(0, 60)}`, index)),
  );
  $("which").value = chosen;
  drawChosen();
  const cut = answer.truncated.length;
  const rest = answer.elapsed - answer.queue - answer.tokenize - answer.encode;
  $("figures").textContent =
    `${wished.texts.length + 1} texts with ${answer.tokens} tokens, ${cut || "none"} of them cut,` +
    ` in ${answer.elapsed.toFixed(0)} ms: ${answer.encode.toFixed(0)} of encoding,` +
    ` ${answer.tokenize.toFixed(1)} of tokenizing, ${answer.queue.toFixed(1)} of waiting for a worker,` +
    ` ${Math.max(0, rest).toFixed(0)} on the way.`;
}

function drawChosen() {
  if (!last) return;
  const index = Number($("which").value);
  drawVector($("vector"), $("vector-hint"), index < 0 ? last.answer.query : last.answer.vectors[index]);
}

function clearErrors() {
  for (const field of ["query", "texts", "key", "form"]) {
    if ($(`${field}-error`)) $(`${field}-error`).textContent = "";
    $(field)?.removeAttribute("aria-invalid");
  }
}

function blame({ field, message }) {
  const known = $(`${field}-error`) ? field : "form";
  $(`${known}-error`).textContent = message;
  if (known === "form") return;
  $(known).setAttribute("aria-invalid", "true");
  $(known).focus();
}

function drawSnippets() {
  const origin = new URL(".", location.href).href.replace(/\/$/, "");
  for (const [name, code] of Object.entries(snippets({ ...wish(), origin, model, keyed }))) $(name).textContent = code;
}

function copy(button) {
  // Not the Clipboard API: neither a frame nor a page without TLS may use it.
  getSelection().selectAllChildren($(button.dataset.snippet));
  if (!document.execCommand("copy")) {
    $("copied").textContent = "Press Ctrl+C to copy what is selected.";
    return;
  }
  getSelection().removeAllRanges();
  $("copied").textContent = "Copied.";
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("form").addEventListener("input", drawSnippets);
for (const option of ["is_query", "normalize"]) $(option).addEventListener("change", () => last && run());
$("stop").addEventListener("click", () => running?.abort());
$("which").addEventListener("change", drawChosen);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawChosen);
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
drawSnippets();
// So that there is something to see; a key has to be typed first.
if (!keyed) run();

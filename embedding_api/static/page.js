// The page: reads the form, calls the service, draws the answer.

import { ApiError, embedAll } from "./api.js";
import { MAX_SNIPPET_TEXTS, snippets } from "./snippets.js";
import { drawHeatmap, drawRanking, drawVector, lowestOf, ranked, shortened } from "./view.js";

const $ = (id) => document.getElementById(id);
const { model, maxLength, maxTexts } = document.body.dataset;
const keyed = Boolean($("key"));
const FIELDS = ["query", "texts", "key", "form"];

let last; // what is shown: the form, the answer, the order and where the bars begin
let running; // the AbortController of the call under way

function readForm() {
  const lines = $("texts").value.split("\n").map((text, index) => ({ text: text.trim(), number: index + 1 }));
  const filled = lines.filter(({ text }) => text);
  return {
    query: $("query").value,
    texts: filled.map(({ text }) => text),
    lines: filled.map(({ number }) => number),
    isQuery: $("is_query").checked,
    normalize: $("normalize").checked,
    key: $("key")?.value.trim() ?? "",
  };
}

function sameTexts(form, other) {
  const content = ({ query, texts, lines }) => JSON.stringify([query, texts, lines]);
  return content(form) === content(other);
}

async function run(submitted) {
  running?.abort();
  const call = (running = new AbortController());
  const form = readForm();
  const focused = document.activeElement;
  clearErrors();
  begin(form.texts.length);
  const callbacks = {
    done: (count) => ($("progress").value = count),
    busy: (seconds) => ($("figures").textContent = `The service is busy. Trying again in ${seconds} s …`),
  };
  try {
    const answer = await embedAll(form, Number(maxTexts), callbacks, call.signal);
    if (call === running) draw(form, answer);
  } catch (error) {
    if (call !== running) return;
    if (error.name === "AbortError") {
      $("figures").textContent = "Stopped.";
    } else {
      const failure = error instanceof ApiError ? error : new ApiError("form", `This page has failed: ${error.message}`);
      showError(failure, submitted && document.activeElement === focused);
      $("figures").textContent = "Nothing new is ranked.";
    }
    markStale();
  } finally {
    if (call === running) end();
  }
}

function begin(count) {
  $("progress").max = Math.max(1, count);
  $("progress").value = 0;
  $("progress").hidden = $("stop").hidden = false;
  $("figures").textContent = "Ranking …";
  $("results").setAttribute("aria-busy", "true");
}

function end() {
  running = undefined;
  if (document.activeElement === $("stop")) $("rank").focus();
  $("progress").hidden = $("stop").hidden = true;
  $("results").removeAttribute("aria-busy");
}

function draw(form, answer) {
  const before = last && sameTexts(last.form, form) ? last : undefined;
  const order = ranked(answer.query, answer.vectors);
  const lowest = Math.min(lowestOf(order), before?.lowest ?? 1);
  drawRanking($("ranking"), $("scale"), { order, lowest, form, truncated: answer.truncated, maxLength, before });
  drawHeatmap($("heatmap"), $("heatmap-hint"), { form, vectors: answer.vectors });
  last = { form, answer, order, lowest };
  const chosen = before ? $("which").value : "-1";
  $("which").replaceChildren(
    new Option("what is searched for", "-1"),
    ...form.texts.slice(0, 100).map((text, index) => new Option(`line ${form.lines[index]}: ${shortened(text, 60)}`, index)),
  );
  $("which").value = chosen;
  drawChosen();
  drawFigures(form, answer);
  markStale();
  for (const section of document.querySelectorAll("section[hidden]")) section.hidden = false;
}

function drawFigures(form, answer) {
  const count = form.texts.length;
  const cut = answer.truncated.length;
  const slept = answer.slept ? `, ${answer.slept} until the service had room` : "";
  $("figures").textContent =
    `${count} text${count === 1 ? "" : "s"} and the query have ${answer.tokens} tokens.` +
    ` Cut at ${maxLength} tokens: ${cut || "no"} text${cut === 1 ? "" : "s"}${answer.queryCut ? " and the query" : ""}.` +
    ` It took ${answer.elapsed.toFixed(0)} ms: ${answer.encode.toFixed(0)} to encode,` +
    ` ${answer.tokenize.toFixed(1)} to tokenize, ${answer.queue.toFixed(1)} waiting for a forward pass,` +
    ` ${answer.rest.toFixed(0)} on the way${slept}.`;
}

function drawChosen() {
  if (!last) return;
  const index = Number($("which").value);
  drawVector($("vector"), $("vector-hint"), index < 0 ? last.answer.query : last.answer.vectors[index]);
}

/** Mark the results as stale if the form has changed since. */
function markStale() {
  $("results").classList.toggle("old", Boolean(last) && !sameTexts(last.form, readForm()));
}

function clearErrors() {
  for (const field of FIELDS) {
    if ($(`${field}-error`)) $(`${field}-error`).textContent = "";
    $(field)?.removeAttribute("aria-invalid");
  }
}

function showError({ field, message }, focus) {
  const known = $(`${field}-error`) ? field : "form";
  $(`${known}-error`).textContent = message;
  if (known === "form") return;
  $(known).setAttribute("aria-invalid", "true");
  if (focus) $(known).focus();
}

function drawSnippets() {
  const form = readForm();
  const origin = new URL(".", location.href).href.replace(/\/$/, "");
  for (const [name, code] of Object.entries(snippets({ ...form, origin, model, keyed }))) $(name).textContent = code;
  const more = form.texts.length > MAX_SNIPPET_TEXTS;
  $("shown").textContent = more ? `They have the first ${MAX_SNIPPET_TEXTS} of the ${form.texts.length} texts.` : "";
}

function copy(button) {
  // Not the Clipboard API: neither a frame nor a page without TLS may use it.
  getSelection().selectAllChildren($(button.dataset.snippet));
  const done = document.execCommand("copy");
  $("copied").textContent = done ? "Copied." : "Press Ctrl+C to copy what is selected.";
  if (!done) return;
  getSelection().removeAllRanges();
  setTimeout(() => ($("copied").textContent = ""), 2000);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run(true);
});
$("form").addEventListener("input", () => {
  drawSnippets();
  markStale();
});
for (const option of ["is_query", "normalize"]) $(option).addEventListener("change", () => last && run(false));
$("stop").addEventListener("click", () => running?.abort());
$("which").addEventListener("change", drawChosen);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawChosen);
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
drawSnippets();
// Show a result at once, unless a key has to be typed first.
if (!keyed) run(false);

// The page: reads the form, calls the service, has the answer drawn.

import { Refusal, embedAll } from "./api.js";
import { MOST, snippets } from "./snippets.js";
import { drawHeatmap, drawRanking, drawVector, lowestOf, ranked, shortened } from "./view.js";

const $ = (id) => document.getElementById(id);
const { model, maxLength, maxTexts } = document.body.dataset;
const keyed = Boolean($("key"));
const FIELDS = ["query", "texts", "key", "form"];

let last; // what is shown: the wish, the answer, the order and where the bars begin
let running; // ends the call under way

function read() {
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

function sameTexts(wish, other) {
  const content = ({ query, texts, lines }) => JSON.stringify([query, texts, lines]);
  return content(wish) === content(other);
}

async function run(submitted) {
  running?.abort();
  const call = (running = new AbortController());
  const wish = read();
  const focused = document.activeElement;
  clearErrors();
  begin(wish.texts.length);
  const tell = {
    done: (count) => ($("progress").value = count),
    busy: (seconds) => ($("figures").textContent = `The service is busy. Trying again in ${seconds} s …`),
  };
  try {
    const answer = await embedAll(wish, Number(maxTexts), tell, call.signal);
    if (call === running) draw(wish, answer);
  } catch (error) {
    if (call !== running) return;
    if (error.name === "AbortError") {
      $("figures").textContent = "Stopped.";
    } else {
      const refusal = error instanceof Refusal ? error : new Refusal("form", `This page has failed: ${error.message}`);
      blame(refusal, submitted && document.activeElement === focused);
      $("figures").textContent = "Nothing new is ranked.";
    }
    markOld();
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

function draw(wish, answer) {
  const before = last && sameTexts(last.wish, wish) ? last : undefined;
  const order = ranked(answer.query, answer.vectors);
  const lowest = Math.min(lowestOf(order), before?.lowest ?? 1);
  drawRanking($("ranking"), $("scale"), { order, lowest, wish, truncated: answer.truncated, maxLength, before });
  drawHeatmap($("heatmap"), $("heatmap-hint"), { wish, vectors: answer.vectors });
  last = { wish, answer, order, lowest };
  const chosen = before ? $("which").value : "-1";
  $("which").replaceChildren(
    new Option("what is searched for", "-1"),
    ...wish.texts.slice(0, 100).map((text, index) => new Option(`line ${wish.lines[index]}: ${shortened(text, 60)}`, index)),
  );
  $("which").value = chosen;
  drawChosen();
  drawFigures(wish, answer);
  markOld();
  for (const section of document.querySelectorAll("section[hidden]")) section.hidden = false;
}

function drawFigures(wish, answer) {
  const count = wish.texts.length;
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

/** Show that the ranking is of what the form had before. */
function markOld() {
  $("results").classList.toggle("old", Boolean(last) && !sameTexts(last.wish, read()));
}

function clearErrors() {
  for (const field of FIELDS) {
    if ($(`${field}-error`)) $(`${field}-error`).textContent = "";
    $(field)?.removeAttribute("aria-invalid");
  }
}

function blame({ field, message }, focus) {
  const known = $(`${field}-error`) ? field : "form";
  $(`${known}-error`).textContent = message;
  if (known === "form") return;
  $(known).setAttribute("aria-invalid", "true");
  if (focus) $(known).focus();
}

function drawSnippets() {
  const wish = read();
  const origin = new URL(".", location.href).href.replace(/\/$/, "");
  for (const [name, code] of Object.entries(snippets({ ...wish, origin, model, keyed }))) $(name).textContent = code;
  const more = wish.texts.length > MOST;
  $("shown").textContent = more ? `They have the first ${MOST} of the ${wish.texts.length} texts.` : "";
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
  markOld();
});
for (const option of ["is_query", "normalize"]) $(option).addEventListener("change", () => last && run(false));
$("stop").addEventListener("click", () => running?.abort());
$("which").addEventListener("change", drawChosen);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawChosen);
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
drawSnippets();
// So that there is something to see; a key has to be typed first.
if (!keyed) run(false);

// The calls of the page, all to /embed, as any client could make them.

const BATCH_TEXTS = 16; // in a request: few, so that the progress bar moves
const BATCH_CHARACTERS = 200_000;
const ATTEMPTS = 5;
const LONGEST_WAIT = 10; // seconds: a longer Retry-After is an error

/** An answer without vectors. `field` says where to show it: "query", "texts", "key" or "form". */
export class ApiError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * The vectors of a query and of texts, and the service's figures for them, in tokens and milliseconds.
 * @param {{query: string, texts: string[], lines: number[], isQuery: boolean, normalize: boolean, key: string}} form
 * @param {number} maxTexts the most that the service takes in a request
 * @param {{done: (count: number) => void, busy: (seconds: number) => void}} callbacks for texts done, and for waits
 * @param {AbortSignal} signal aborts it
 */
export async function embedAll(form, maxTexts, callbacks, signal) {
  if (!/^[\x21-\x7e]*$/.test(form.key)) throw new ApiError("key", "A key has no such characters. Paste it once more.");
  const call = { form, callbacks, signal, slept: 0 };
  const began = performance.now();
  const asked = await embed(call, "query", [form.query], form.isQuery, 0);
  const total = { ...asked, truncated: [], queryCut: asked.truncated.length > 0, vectors: [] };
  do {
    const offset = total.vectors.length;
    const answer = await embed(call, "texts", nextBatch(form.texts, offset, maxTexts), false, offset);
    total.vectors.push(...answer.vectors);
    total.truncated.push(...answer.truncated.map((index) => index + offset));
    for (const figure of ["tokens", "queue", "tokenize", "encode"]) total[figure] += answer[figure];
    callbacks.done(total.vectors.length);
  } while (total.vectors.length < form.texts.length);
  const elapsed = performance.now() - began;
  const rest = elapsed - total.queue - total.tokenize - total.encode - call.slept;
  return { ...total, query: asked.vectors[0], elapsed, slept: call.slept, rest: Math.max(0, rest) };
}

function nextBatch(texts, offset, maxTexts) {
  let end = offset;
  let characters = 0;
  while (end < texts.length && end - offset < Math.min(BATCH_TEXTS, maxTexts)) {
    characters += texts[end].length;
    if (characters > BATCH_CHARACTERS && end > offset) break;
    end += 1;
  }
  return texts.slice(offset, end);
}

async function embed(call, field, texts, isQuery, offset) {
  const { form, signal } = call;
  const headers = { "Content-Type": "application/json" };
  if (form.key) headers.Authorization = `Bearer ${form.key}`;
  const body = JSON.stringify({ texts, is_query: isQuery, normalize: form.normalize });
  for (let attempt = 1; ; attempt++) {
    const [response, answer] = await fetchJson("embed", { method: "POST", headers, body, signal });
    if (response.ok && answer?.embeddings) return { vectors: answer.embeddings, ...figuresOf(response.headers) };
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(wait > 0 && wait <= LONGEST_WAIT) || attempt === ATTEMPTS) {
      throw toApiError(response, answer?.error, field, form, offset);
    }
    call.callbacks.busy(wait);
    await sleep(1000 * wait, signal);
    call.slept += 1000 * wait;
  }
}

/** A response and its JSON, or null if it has none. */
async function fetchJson(path, options) {
  try {
    const response = await fetch(path, options);
    const text = await response.text();
    try {
      return [response, JSON.parse(text)];
    } catch {
      return [response, null];
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("form", "The service cannot be reached. Is it running?");
  }
}

function figuresOf(headers) {
  const list = headers.get("X-Truncated-Texts");
  const figures = { queue: 0, tokenize: 0, encode: 0 };
  for (const [, name, duration] of (headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)) {
    figures[name] = Number(duration);
  }
  return { tokens: Number(headers.get("X-Tokens")), truncated: list ? list.split(",").map(Number) : [], ...figures };
}

function toApiError(response, error, field, form, offset) {
  if (typeof error?.message !== "string") {
    const status = `status ${response.status}`;
    return new ApiError("form", `Something between here and the service gave an answer that is not its own (${status}).`);
  }
  if (response.status === 401) return new ApiError("key", form.key ? error.message : "Type an API key here.");
  const place = /^texts(?:\[(\d+)\])?$/.exec(error.param ?? "");
  if (!place) return new ApiError("form", error.message);
  const line = place[1] !== undefined && field === "texts" ? `Line ${form.lines[Number(place[1]) + offset]}: ` : "";
  return new ApiError(field, line + error.message.replace(/^texts(\[\d+\])?: /, ""));
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("Stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

// The calls of the page, all of them to /embed, as anybody's code would make them.

const BATCH_TEXTS = 16; // in a request: few, so that the progress is seen to move
const BATCH_CHARACTERS = 200_000;
const ATTEMPTS = 5;
const LONGEST_WAIT = 10; // seconds that are waited for a service which says so

/** An answer that is not vectors. `field` is what to blame: "query", "texts", "key" or "form". */
export class Refusal extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * The vectors of a query and of texts, and what the service says of the work, in milliseconds and tokens.
 * @param {{query: string, texts: string[], lines: number[], isQuery: boolean, normalize: boolean, key: string}} wish
 * @param {number} maxTexts the most that the service takes in a request
 * @param {{done: (count: number) => void, busy: (seconds: number) => void}} tell of texts done, and of waits
 * @param {AbortSignal} signal ends it
 */
export async function embedAll(wish, maxTexts, tell, signal) {
  if (!/^[\x21-\x7e]*$/.test(wish.key)) throw new Refusal("key", "A key has no such characters. Paste it once more.");
  const call = { wish, tell, signal, slept: 0 };
  const began = performance.now();
  const asked = await embed(call, "query", [wish.query], wish.isQuery, 0);
  const total = { ...asked, truncated: [], queryCut: asked.truncated.length > 0, vectors: [] };
  do {
    const offset = total.vectors.length;
    const answer = await embed(call, "texts", nextBatch(wish.texts, offset, maxTexts), false, offset);
    total.vectors.push(...answer.vectors);
    total.truncated.push(...answer.truncated.map((index) => index + offset));
    for (const figure of ["tokens", "queue", "tokenize", "encode"]) total[figure] += answer[figure];
    tell.done(total.vectors.length);
  } while (total.vectors.length < wish.texts.length);
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
  const { wish, signal } = call;
  const headers = { "Content-Type": "application/json" };
  if (wish.key) headers.Authorization = `Bearer ${wish.key}`;
  const body = JSON.stringify({ texts, is_query: isQuery, normalize: wish.normalize });
  for (let attempt = 1; ; attempt++) {
    const [response, answer] = await reach("embed", { method: "POST", headers, body, signal });
    if (response.ok && answer?.embeddings) return { vectors: answer.embeddings, ...about(response.headers) };
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(wait > 0 && wait <= LONGEST_WAIT) || attempt === ATTEMPTS) {
      throw refusal(response, answer?.error, field, wish, offset);
    }
    call.tell.busy(wait);
    await sleep(1000 * wait, signal);
    call.slept += 1000 * wait;
  }
}

/** A response and the JSON in it, which is null where there is none. */
async function reach(path, options) {
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
    throw new Refusal("form", "The service cannot be reached. Is it running?");
  }
}

function about(headers) {
  const list = headers.get("X-Truncated-Texts");
  const figures = { queue: 0, tokenize: 0, encode: 0 };
  for (const [, name, duration] of (headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)) {
    figures[name] = Number(duration);
  }
  return { tokens: Number(headers.get("X-Tokens")), truncated: list ? list.split(",").map(Number) : [], ...figures };
}

function refusal(response, error, field, wish, offset) {
  if (typeof error?.message !== "string") {
    const status = `status ${response.status}`;
    return new Refusal("form", `Something between here and the service gave an answer that is not its own (${status}).`);
  }
  if (response.status === 401) return new Refusal("key", wish.key ? error.message : "Type an API key here.");
  const place = /^texts(?:\[(\d+)\])?$/.exec(error.param ?? "");
  if (!place) return new Refusal("form", error.message);
  const line = place[1] !== undefined && field === "texts" ? `Line ${wish.lines[Number(place[1]) + offset]}: ` : "";
  return new Refusal(field, line + error.message.replace(/^texts(\[\d+\])?: /, ""));
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

// The calls of the page, all of them to /embed, as anybody's code would make them.

const BATCH = 16; // texts in a request: few, so that the progress is seen to move
const ATTEMPTS = 5;

/** An answer that is not vectors. `field` is what to blame: "query", "texts", "key" or "form". */
export class Refusal extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * The vectors of a query and of texts, and what the service says of the work.
 * @param {{query: string, texts: string[], isQuery: boolean, normalize: boolean, key: string}} wish
 * @param {(done: number) => void} progress is told how many texts are done
 * @param {AbortSignal} signal ends it
 */
export async function embedAll(wish, progress, signal) {
  const began = performance.now();
  const total = { tokens: 0, truncated: [], queue: 0, tokenize: 0, encode: 0 };
  const add = (answer, offset) => {
    total.tokens += answer.tokens;
    total.truncated.push(...answer.truncated.map((index) => index + offset));
    for (const part of ["queue", "tokenize", "encode"]) total[part] += answer.timing[part] ?? 0;
  };
  const asked = await embed("query", [wish.query], wish.isQuery, wish, signal, 0);
  add(asked, -1);
  const vectors = [];
  do {
    const batch = wish.texts.slice(vectors.length, vectors.length + BATCH);
    const answer = await embed("texts", batch, false, wish, signal, vectors.length);
    add(answer, vectors.length);
    vectors.push(...answer.vectors);
    progress(vectors.length);
  } while (vectors.length < wish.texts.length);
  return { query: asked.vectors[0], vectors, ...total, elapsed: performance.now() - began };
}

async function embed(field, texts, isQuery, wish, signal, offset) {
  const headers = { "Content-Type": "application/json" };
  if (wish.key) headers.Authorization = `Bearer ${wish.key}`;
  const body = JSON.stringify({ texts, is_query: isQuery, normalize: wish.normalize });
  for (let attempt = 1; ; attempt++) {
    const response = await reach("embed", { method: "POST", headers, body, signal });
    if (response.ok) {
      const { embeddings } = await response.json();
      return { vectors: embeddings, ...about(response.headers) };
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !wait || attempt === ATTEMPTS) throw await refusal(response, field, offset);
    await sleep(1000 * wait, signal);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("form", "The service cannot be reached. Is it running?");
  }
}

function about(headers) {
  const list = headers.get("X-Truncated-Texts");
  const timing = {};
  for (const [, name, duration] of (headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)) {
    timing[name] = Number(duration);
  }
  return {
    tokens: Number(headers.get("X-Tokens")),
    truncated: list ? list.split(",").map(Number) : [],
    timing,
  };
}

async function refusal(response, field, offset) {
  let error;
  try {
    error = (await response.json()).error;
  } catch {
    return new Refusal("form", `Something between here and the service answered with status ${response.status}.`);
  }
  if (response.status === 401) return new Refusal("key", error.message);
  if (!error.param?.startsWith("texts")) return new Refusal("form", error.message);
  const index = /\[(\d+)\]/.exec(error.param);
  const about = index && field === "texts" ? `Text ${Number(index[1]) + offset + 1}: ` : "";
  return new Refusal(field, about + error.message.replace(/^texts(\[\d+\])?: /, ""));
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("Stopped", "AbortError"));
    });
  });
}

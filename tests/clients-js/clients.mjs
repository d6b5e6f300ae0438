// Embedding clients for JavaScript: what each makes of texts and of a query, what it says when something is wrong, and
// after how long.
//
// It reads JSON from standard input: `url`, a service; `strict`, one that takes the model `model`, at most four texts,
// and the key `key`; `large`, one that computes in no time; `texts`, `query`, and `chunks`, as many as `large` takes in a
// request. It writes JSON: by the name of each client its vectors of the texts, of the query and of the query under
// /query/v1, and its errors; and how many vectors the chunks get.

import { readFileSync } from "node:fs";

import { createOpenAI } from "@ai-sdk/openai";
import { OpenAIEmbeddings } from "@langchain/openai";
import { embed, embedMany } from "ai";
import OpenAI from "openai";

const clients = {
  openai(baseURL, apiKey, model) {
    const client = new OpenAI({ baseURL, apiKey });
    const vectors = async (input, fields) => {
      const reply = await client.embeddings.create({ model, input, ...fields });
      return reply.data.map((item) => item.embedding);
    };
    return { documents: vectors, query: async (text) => (await vectors(text, { input_type: "query" }))[0] };
  },
  langchain(baseURL, apiKey, model) {
    const client = new OpenAIEmbeddings({ model, apiKey, configuration: { baseURL } });
    return { documents: (texts) => client.embedDocuments(texts), query: (text) => client.embedQuery(text) };
  },
  ai(baseURL, apiKey, name) {
    const model = createOpenAI({ baseURL, apiKey }).embedding(name);
    return {
      documents: async (values) => (await embedMany({ model, values })).embeddings,
      query: async (value) => (await embed({ model, value })).embedding,
    };
  },
};

async function error(call) {
  const started = performance.now();
  try {
    await call();
  } catch (error) {
    return { message: String(error), seconds: (performance.now() - started) / 1000 };
  }
  return null;
}

const { url, strict, large, model, key, texts, query, chunks } = JSON.parse(readFileSync(0, "utf8"));
const answers = {};
for (const [name, client] of Object.entries(clients)) {
  const ours = client(`${url}/v1`, "none", "text-embedding-3-small");
  const right = client(`${strict}/v1`, key, model);
  const wrong = client(`${strict}/v1`, "wrong", model);
  answers[name] = {
    documents: await ours.documents(texts),
    query: await ours.query(query),
    queries: await client(`${url}/query/v1`, "none", "text-embedding-3-small").query(query),
    errors: {
      "wrong key": await error(() => wrong.documents(texts)),
      "blank text": await error(() => right.documents(["a", " "])),
      "too many texts": await error(() => right.documents(Array(5).fill("a"))),
    },
    chunks: (await client(`${large}/v1`, "none", "any").documents(chunks)).length,
  };
}
console.log(JSON.stringify(answers));

// Code that makes the page's call. People run it as it is, so no text may end the quotes around it.

export const MAX_SNIPPET_TEXTS = 20;
const DEFAULTS = { is_query: false, normalize: true };

const PRINT_RANKING = `scores = [sum(a * b for a, b in zip(query, vector)) for vector in vectors]
for score, text in sorted(zip(scores, texts), reverse=True):
    print(f"{score:.3f}  {text}")
`;

export function snippets({ query, texts, isQuery, normalize, origin, model, keyed }) {
  const some = texts.slice(0, MAX_SNIPPET_TEXTS);
  return {
    curl: curl({ query, some, isQuery, normalize, origin, keyed }),
    python: python({ query, some, isQuery, normalize, origin, keyed }),
    openai: openai({ query, some, isQuery, normalize, origin, model, keyed }),
  };
}

function curl({ query, some, isQuery, normalize, origin, keyed }) {
  const call = (body) =>
    [
      `curl '${origin}/embed' -H 'Content-Type: application/json'`,
      ...(keyed ? [`-H "Authorization: Bearer $API_KEY"`] : []),
      `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`,
    ].join(" \\\n  ");
  return [
    call({ texts: some, ...omitDefaults({ normalize }) }),
    "echo",
    call({ texts: query, ...omitDefaults({ is_query: isQuery, normalize }) }),
  ].join("\n");
}

function python({ query, some, isQuery, normalize, origin, keyed }) {
  const fields = (texts, extra) =>
    `{${[`"texts": ${texts}`, ...Object.entries(extra).map(([name, value]) => `"${name}": ${literal(value)}`)].join(", ")}}`;
  const key = keyed ? `, headers={"Authorization": f"Bearer {os.environ['API_KEY']}"}` : "";
  return `${keyed ? "import os\n" : ""}import requests

def embed(body):
    reply = requests.post(${literal(origin + "/embed")}, json=body, timeout=60${key})
    reply.raise_for_status()
    return reply.json()["embeddings"]

texts = ${list(some)}
vectors = embed(${fields("texts", omitDefaults({ normalize }))})
[query] = embed(${fields(literal(query), omitDefaults({ is_query: isQuery, normalize }))})
${PRINT_RANKING}`;
}

function openai({ query, some, isQuery, normalize, origin, model, keyed }) {
  const extra = isQuery ? `, extra_body={"input_type": "query"}` : "";
  return `${keyed ? "import os\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(origin + "/v1")}, api_key=${keyed ? 'os.environ["API_KEY"]' : '"none"'})
${normalize ? "" : "# OpenAI's API knows vectors of length 1 only.\n"}texts = ${list(some)}
reply = client.embeddings.create(model=${literal(model)}, input=texts)
vectors = [item.embedding for item in reply.data]
reply = client.embeddings.create(model=${literal(model)}, input=${literal(query)}${extra})
query = reply.data[0].embedding
${PRINT_RANKING}`;
}

function omitDefaults(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([name, value]) => value !== DEFAULTS[name]));
}

function list(texts) {
  return `[\n${texts.map((text) => `    ${literal(text)},\n`).join("")}]`;
}

function literal(value) {
  // JSON's strings are valid in Python; its true and false are not.
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
}

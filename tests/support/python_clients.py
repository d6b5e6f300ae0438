"""Embedding clients for Python: what each makes of texts and of a query, and what it says when something is wrong.

A program for the environment of requirements-clients.txt. It reads JSON from standard input: `url`, a service;
`strict`, one that takes the model `model`, at most four texts, and the key `key`; `texts` and `query`. It writes JSON:
by the name of each client its vectors of the texts and of the query, and its errors.
"""

import json
import os
import sys

import numpy as np


def huggingface_hub(url, key, model):
    from huggingface_hub import InferenceClient

    client = InferenceClient(url, token=key)
    return client.feature_extraction, lambda text: client.feature_extraction(text, prompt_name="query")[0]


def haystack(url, key, model):
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.huggingface_api import (
        HuggingFaceAPIDocumentEmbedder,
        HuggingFaceAPITextEmbedder,
    )

    options = {"api_type": "text_embeddings_inference", "token": Secret.from_token(key), "normalize": True}
    for_documents = HuggingFaceAPIDocumentEmbedder(**options, api_params={"url": url}, progress_bar=False)
    for_queries = HuggingFaceAPITextEmbedder(**options, api_params={"url": f"{url}/query"})

    def documents(texts):
        found = for_documents.run([Document(content=text) for text in texts])["documents"]
        return [document.embedding for document in found]

    return documents, lambda text: for_queries.run(text)["embedding"]


def litellm(url, key, model):
    from litellm import embedding
    from litellm.llms.huggingface.embedding import handler

    # It asks the Hub what the model is for.
    handler.get_hf_task_embedding_for_model = lambda **_: "feature-extraction"

    def vectors(base, texts):
        reply = embedding(model=f"huggingface/{model}", input=texts, api_base=base, api_key=key)
        return [item["embedding"] for item in reply.data]

    return lambda texts: vectors(url, texts), lambda text: vectors(f"{url}/query", [text])[0]


def ollama(url, key, model):
    from ollama import Client

    headers = {"Authorization": f"Bearer {key}"}
    for_documents, for_queries = Client(url, headers=headers), Client(f"{url}/query", headers=headers)
    return (
        lambda texts: for_documents.embed(model, texts).embeddings,
        lambda text: for_queries.embed(model, text).embeddings[0],
    )


def llama_index(url, key, model):
    from llama_index.embeddings.ollama import OllamaEmbedding

    options = {"model_name": model, "client_kwargs": {"headers": {"Authorization": f"Bearer {key}"}}}
    for_documents = OllamaEmbedding(base_url=url, embed_batch_size=64, **options)
    for_queries = OllamaEmbedding(base_url=f"{url}/query", **options)
    return for_documents.get_text_embedding_batch, for_queries.get_query_embedding


def chromadb(url, key, model):
    from chromadb.utils.embedding_functions import OllamaEmbeddingFunction

    # The only way to give it a key.
    os.environ["OLLAMA_API_KEY"] = key
    for_documents = OllamaEmbeddingFunction(url, model)
    for_queries = OllamaEmbeddingFunction(f"{url}/query", model)
    return for_documents, lambda text: for_queries([text])[0]


def langchain_nvidia(url, key, model):
    from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings

    client = NVIDIAEmbeddings(base_url=f"{url}/v1", model=model, api_key=key, truncate="END")
    return client.embed_documents, client.embed_query


def voyageai(url, key, model):
    from voyageai import Client

    client = Client(api_key=key, base_url=f"{url}/v1")
    return (
        lambda texts: client.embed(texts, model=model, input_type="document").embeddings,
        lambda text: client.embed([text], model=model, input_type="query").embeddings[0],
    )


CLIENTS = (huggingface_hub, haystack, litellm, ollama, llama_index, chromadb, langchain_nvidia, voyageai)


def try_out(client, url, strict, model, key, texts, query):
    documents, queries = client(url, "none", "BAAI/bge-small-en-v1.5")
    strict_documents, strict_queries = client(strict, key, model)
    wrong_documents, wrong_queries = client(strict, "wrong", model)
    return {
        "documents": np.array(documents(texts)).tolist(),
        "query": np.array(queries(query)).tolist(),
        "errors": {
            "wrong key": [error(wrong_documents, texts), error(wrong_queries, query)],
            "blank text": [error(strict_documents, ["a", " "]), error(strict_queries, " ")],
            "too many texts": [error(strict_documents, ["a"] * 5)],
        },
    }


def error(function, argument):
    """What a client says of an error; None if there is none."""
    try:
        function(argument)
    except Exception as error:
        return str(error)
    return None


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    answers = {client.__name__: try_out(client, **asked) for client in CLIENTS}
    # Some of them write to standard output.
    print()
    print(json.dumps(answers))

"""fastembed (onnxruntime) in a Flask app as small as the naive one."""

import os

from fastembed import TextEmbedding
from flask import Flask, request

app = Flask(__name__)
# A session's threads do not survive a fork, so each worker loads its own.
threads = int(os.environ["THREADS"])
model = TextEmbedding("BAAI/bge-small-en-v1.5", specific_model_path=os.environ["MODEL"], threads=threads)


@app.post("/embed")
def embed():
    texts = request.get_json()["texts"]
    vectors = model.embed([texts] if isinstance(texts, str) else texts)
    return {"embeddings": [vector.tolist() for vector in vectors]}

"""The simplest service: Flask and `SentenceTransformer.encode`, preloaded, with a sync worker for each core."""

import os

from flask import Flask, request
from sentence_transformers import SentenceTransformer

app = Flask(__name__)
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


@app.post("/embed")
def embed():
    texts = request.get_json()["texts"]
    vectors = model.encode([texts] if isinstance(texts, str) else texts, normalize_embeddings=True)
    return {"embeddings": vectors.tolist(), "dimension": vectors.shape[1]}

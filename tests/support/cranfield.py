"""The Cranfield collection, from the directory that CRANFIELD names; made-up texts without it."""

import os
import random
from pathlib import Path

from embedding_api.bulk import collection
from tests.support.server import ROOT


def load():
    """The collection's 1,398 abstracts that are not empty, and its 225 queries."""
    if "CRANFIELD" not in os.environ:
        return _made_up()
    cranfield = collection.load(Path(os.environ["CRANFIELD"]))
    return list(cranfield.documents.values()), list(cranfield.queries.values())


def _made_up():
    words = (ROOT / "README.md").read_text().split()
    chance = random.Random(1)
    texts = [" ".join(chance.choices(words, k=chance.randint(3, 400))) for _ in range(1398)]
    return texts, [" ".join(text.split()[:12]) for text in texts[:225]]

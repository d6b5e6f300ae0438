"""The Cranfield collection, from the directory that CRANFIELD names; made-up texts without it."""

import os
import random
from pathlib import Path


def load():
    """The collection's 1,398 abstracts that are not empty, and its 225 queries."""
    if "CRANFIELD" not in os.environ:
        return _made_up()
    directory = Path(os.environ["CRANFIELD"])
    return [text for text in sections(directory / "cran.all.1400") if text], sections(directory / "cran.qry")


def sections(path):
    """The texts of one of the collection's files, in order; two abstracts are empty."""
    texts = [entry.partition("\n.W\n")[2] for entry in path.read_text().split("\n.I ")]
    return [" ".join(text.split()) for text in texts]


def _made_up():
    words = (Path(__file__).parent.parent / "README.md").read_text().split()
    chance = random.Random(1)
    texts = [" ".join(chance.choices(words, k=chance.randint(3, 400))) for _ in range(1398)]
    return texts, [" ".join(text.split()[:12]) for text in texts[:225]]

"""Models of the shapes people use, compared with sentence-transformers: `python -m benchmarks.shapes`.

20 minutes on one core. The weights are random: a forward pass takes as long with any others. Each engine has a process
of its own with one thread, and only one runs at a time: in each round, each is measured with each case. Figures are
medians over the rounds, ratios the medians of the rounds' ratios. The table goes to docs/models.md.
"""

import gc
import math
import multiprocessing
import re
import time
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.engine import cpu
from embedding_api.config import Settings

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SECONDS = 1  # the least that a measurement takes
SPAWN = multiprocessing.get_context("spawn")
# By the shape's name: the architecture, and how many layers, numbers in a row, heads and token ids it has.
SHAPES = {
    "bge-small": ("Bert", 12, 384, 12, 30522),
    "bge-base": ("Bert", 12, 768, 12, 30522),
    "bge-large": ("Bert", 24, 1024, 16, 30522),
    "distilbert-base": ("DistilBert", 6, 768, 12, 30522),
    "all-mpnet-base": ("MPNet", 12, 768, 12, 30527),
    "multilingual-e5-small": ("Bert", 12, 384, 12, 250037),
    "multilingual-e5-base": ("XLMRoberta", 12, 768, 12, 250002),
}
REFERENCE, FLOAT32, BFLOAT16 = ENGINES = "sentence-transformers", "float32", "bfloat16"
CASES = {"1 x 11": (1, 11), "8 x 32": (8, 32), "32 x 128": (32, 128)}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--shape", "names", multiple=True, default=list(SHAPES), help="Only these.  [default: all]")
def main(rounds, names):
    lines = [
        f"{cpu()}, one thread, {date.today()}, medians of {rounds} rounds, random weights:",
        "",
        "| Shape | weights | memory | " + " | ".join(f"{case}, tokens/s" for case in CASES) + " | bfloat16 |",
        "|---|---|---|" + "---|" * (len(CASES) + 1),
    ]
    for name in names:
        with TemporaryDirectory() as folder:
            directory, weights = run(make, Path(folder), *SHAPES[name])
            lines.append(row(name, weights, *measure(directory, rounds)))
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(text)
    if list(names) == list(SHAPES):
        before, after = re.split(r"(?<=<!-- shapes -->\n).*(?=<!-- /shapes -->)", PAGE.read_text(), flags=re.DOTALL)
        PAGE.write_text(f"{before}{text}\n{after}")


def run(function, *arguments):
    """What a function returns in a process of its own, whose memory is freed afterwards."""
    with SPAWN.Pool(1) as pool:
        return pool.apply(function, arguments)


def make(folder, architecture, layers, width, heads, vocabulary):
    """Save a model of a shape, with a small tokenizer; returns its directory and the number of its weights."""
    from safetensors import safe_open

    from tests.support import saved_models

    directory = saved_models.save(
        folder,
        architecture,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        initializer_range=0.02,
        vocabulary=vocabulary,
    )
    with safe_open(directory / "model.safetensors", "np") as file:
        return directory, sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def measure(directory, rounds):
    """Lists of seconds by case and engine, and the memory of the process that has our engine, in bytes."""
    seconds = {(case, engine): [] for case in CASES for engine in ENGINES}
    running = {engine: Engine(directory, engine) for engine in ENGINES}
    for case, size in CASES.items():
        repeat = {}
        for engine, process in running.items():
            process.ask(*size, 1)
            repeat[engine] = math.ceil(SECONDS / process.ask(*size, 1))
        for _ in range(rounds):
            for engine, process in running.items():
                seconds[case, engine].append(process.ask(*size, repeat[engine]))
    memory = running[FLOAT32].memory
    for process in running.values():
        process.stop()
    return seconds, memory


def row(name, weights, seconds, memory):
    cells = [f"{weights / 1e6:,.0f} million", f"{memory / 1e6:,.0f} MB"]
    for case, (texts, tokens) in CASES.items():
        cells.append(f"{texts * tokens / median(seconds[case, FLOAT32]):,.0f} ({ratio(seconds, case, FLOAT32):.2f}x)")
    cells.append(", ".join(f"{ratio(seconds, case, BFLOAT16):.2f}x" for case in CASES))
    return f"| {name} | {' | '.join(cells)} |"


def ratio(seconds, case, engine):
    """How many times as fast as sentence-transformers an engine is."""
    pairs = zip(seconds[case, REFERENCE], seconds[case, engine], strict=True)
    return median(reference / own for reference, own in pairs)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, directory, engine):
        self._pipe, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(other, directory, engine), daemon=True)
        self._process.start()
        other.close()
        self.memory = self._pipe.recv()

    def ask(self, texts, tokens, repeat):
        """Seconds to encode so many texts of so many tokens, the mean of `repeat` times."""
        self._pipe.send((texts, tokens, repeat))
        return self._pipe.recv()

    def stop(self):
        self._pipe.send(None)
        self._process.join()


def serve(pipe, directory, engine):
    encode, count = load_reference(directory) if engine == REFERENCE else load_ours(directory, engine)
    gc.freeze()
    pipe.send(anonymous_memory())
    while task := pipe.recv():
        texts, tokens, repeat = task
        batch = [text_of(tokens, count, seed) for seed in range(texts)]
        start = time.perf_counter()
        for _ in range(repeat):
            encode(batch)
        pipe.send((time.perf_counter() - start) / repeat)


def load_reference(directory):
    """A function from texts to vectors, and one from a text to the number of its tokens."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return model.encode, lambda text: len(model.tokenizer(text)["input_ids"])


def load_ours(directory, dtype):
    from embedding_api.encoder.compute_threads import ComputeThreads
    from embedding_api.encoder.loading import load_encoder

    encoder = load_encoder(Settings(model=str(directory), dtype=dtype))
    encoder.run_in_worker(threads=ComputeThreads(1))
    assert encoder.engine == "kernel"
    return lambda texts: encoder.encode(encoder.tokenize(texts).ids), lambda text: encoder.tokenize([text]).count


def text_of(tokens, count, seed):
    """A text of exactly so many tokens, special ones included: words of the tokenizer's corpus, then single letters."""
    from tests.support.saved_models import CORPUS

    words, text = np.random.default_rng(seed).permutation(CORPUS[0].split()), "a"
    while count(text) < tokens:
        longer = f"{text} {words[len(text) % len(words)]}"
        text = longer if count(longer) <= tokens else f"{text} a"
    assert count(text) == tokens
    return text


def anonymous_memory():
    return 1024 * int(re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    main()

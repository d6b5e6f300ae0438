"""The encoder beside sentence-transformers, onnxruntime and OpenVINO: `python -m benchmarks.engine`, half an hour.

Needs `.venv/bin/pip install -r benchmarks/requirements.txt`. Each engine has a process of its own, and only one runs at
a time: in each round, each computes each case once. Figures are medians over the rounds, ratios the medians of the
rounds' ratios. Tables and figure go to docs/.
"""

import gc
import math
import multiprocessing
import os
import platform
import re
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks import engines
from benchmarks.docs import DOCS, write_tables
from embedding_api.encoder.compute_threads import usable_cores
from tests.support.cranfield import load

SECONDS = 0.4  # the least that a measurement takes
PAUSE = 0.05  # seconds between two measurements, in which onnxruntime's threads stop spinning
LIMITS = {"limits, float32": "float32", "limits, bfloat16": "bfloat16"}
WORDS = ["the", "of", "a", "in", "on", "for", "with", "and", "to", "is", "at", "by", "from", "heat"]
SPAWN = multiprocessing.get_context("spawn")


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--abstracts", default=140, show_default=True, help="How many of Cranfield's 1,398, evenly spread.")
def main(rounds, abstracts):
    cases = make_cases(abstracts)
    with tempfile.TemporaryDirectory() as directory:
        onnx = str(Path(directory) / "model.onnx")
        export = SPAWN.Process(target=engines.export_onnx, args=(onnx,))
        export.start()
        export.join()
        results = {threads: measure(cases, rounds, threads, onnx) for threads in sorted({1, usable_cores()})}
    heading = f"{cpu()}, {date.today()}, medians of {rounds} rounds, {abstracts} of the abstracts, " + ", ".join(
        f"{name} {version(name)}" for name in ("torch", "sentence-transformers", "onnxruntime", "openvino")
    )
    tables = [table(cases, threads, seconds) for threads, seconds in results.items()]
    text = "\n\n".join([heading + ".", *tables])
    print(text)
    write_tables("engine", text)
    draw(cases, results)


def make_cases(abstracts):
    if "CRANFIELD" not in os.environ:
        raise click.UsageError("Set CRANFIELD to a directory with cran.all.1400 and cran.qry.")
    documents, queries = load()
    return {
        "1 text of 5 tokens": texts(1, 5),
        "1 of 11": texts(1, 11),
        "1 of 24": texts(1, 24),
        "8 of 11": texts(8, 11),
        "8 queries": queries[:8],
        "32 queries": queries[:32],
        "8 of 32": texts(8, 32),
        "32 of 32": texts(32, 32),
        "32 of 128": texts(32, 128),
        "2 of 512": texts(2, 512),
        "Cranfield abstracts": documents[:: max(1, len(documents) // abstracts)][:abstracts],
    }


def texts(count, tokens):
    """Different texts of common words, each of one token; [CLS] and [SEP] are two more."""
    return [" ".join(row) for row in np.random.default_rng(tokens).choice(WORDS, (count, tokens - 2))]


def measure(cases, rounds, threads, onnx):
    """Lists of seconds, by case and engine, with one number for each round."""
    seconds = {(case, name): [] for case in cases for name in [*engines.NAMES, *LIMITS]}
    running = {name: Engine(name, threads, onnx) for name in engines.NAMES}
    limits = Engine("limits", threads, onnx)
    for case, batch in cases.items():
        warm = {name: engine.time(batch, 1) for name, engine in running.items()}
        if warm[engines.REFERENCE] < SECONDS:  # the first time takes longer than the others
            warm = {name: engine.time(batch, 1) for name, engine in running.items()}
        repeat = {name: max(1, math.ceil(SECONDS / once)) for name, once in warm.items()}
        for _ in range(rounds):
            for name, engine in running.items():
                seconds[case, name].append(engine.time(batch, repeat[name]))
            for name, dtype in LIMITS.items():
                seconds[case, name].append(limits.time(batch, dtype))
        ratios = ", ".join(f"{name} {ratio(seconds, case, name):.2f}x" for name in engines.NAMES[1:])
        print(f"{threads} threads, {case}: {ratios}", flush=True)
    for engine in [*running.values(), limits]:
        engine.stop()
    return seconds


class Engine:
    """An engine, or the limits, in a process of its own."""

    def __init__(self, *arguments):
        self._pipe, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()

    def time(self, batch, repeat):
        """Seconds to encode the batch, the mean of `repeat` times in a row."""
        time.sleep(PAUSE)
        self._pipe.send((batch, repeat))
        return self._pipe.recv()

    def stop(self):
        self._pipe.send(None)
        self._process.join()


def serve(pipe, name, threads, onnx):
    time_ = time_limit() if name == "limits" else time_engine(engines.make(name, threads, onnx))
    gc.freeze()  # as the service does before it forks: the collector would walk all of torch's modules
    pipe.send("ready")
    while task := pipe.recv():
        pipe.send(time_(*task))


def time_engine(run):
    def seconds(batch, repeat):
        start = time.perf_counter()
        for _ in range(repeat):
            run(batch)
        return (time.perf_counter() - start) / repeat

    return seconds


def time_limit():
    limits, tokenizer = engines.Limits(), engines.tokenizer()
    return lambda batch, dtype: limits.seconds([len(each.ids) for each in tokenizer.encode_batch(batch)], dtype)


def ratio(seconds, case, name):
    """How many times as fast as sentence-transformers an engine is."""
    pairs = zip(seconds[case, engines.REFERENCE], seconds[case, name], strict=True)
    return median(reference / own for reference, own in pairs)


def table(cases, threads, seconds):
    tokenizer = engines.tokenizer()
    # What one core can do at most.
    limits = LIMITS if threads == 1 else ()
    lines = [
        f"**{threads} thread{'s' if threads > 1 else ''}**, tokens a second, and how many times as fast as"
        f" {engines.REFERENCE}:",
        "",
        f"| | {' | '.join([*engines.NAMES, *(f'ours, of the {name}' for name in limits)])} |",
        "|---|" + "---|" * (len(engines.NAMES) + len(limits)),
    ]
    for case, batch in cases.items():
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(batch))
        cells = [
            f"{tokens / median(seconds[case, name]):,.0f} ({ratio(seconds, case, name):.2f}x)" for name in engines.NAMES
        ]
        for name in limits:
            pairs = zip(seconds[case, name], seconds[case, f"ours, {LIMITS[name]}"], strict=True)
            cells.append(f"{median(limit / own for limit, own in pairs):.0%}")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(cases, results):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "engine"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(results), 1, figsize=(9, 3.2 * len(results)), squeeze=False, sharex=True)
    width = 0.8 / len(engines.NAMES)
    for axis, (threads, seconds) in zip(axes[:, 0], results.items(), strict=True):
        for place, name in enumerate(engines.NAMES):
            heights = [ratio(seconds, case, name) for case in cases]
            axis.bar(
                [x + (place - len(engines.NAMES) // 2) * width for x in range(len(cases))], heights, width, label=name
            )
        axis.axhline(1, color="black", linewidth=0.5)
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=10)
        axis.set_ylabel(f"times {engines.REFERENCE}", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, ncols=4, loc="upper center")
    axes[-1, 0].set_xticks(range(len(cases)), [case.replace(" of ", "\nof ") for case in cases], fontsize=7)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(DOCS / "engine.svg", metadata={"Date": None})


def cpu():
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{usable_cores()} cores of {names[0] if names else platform.processor()}"


if __name__ == "__main__":
    main()

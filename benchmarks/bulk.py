"""The bulk command compared with the engine and sentence-transformers' pool of processes: `python -m benchmarks.bulk`.

Half an hour on two cores. In each round the command embeds all of Cranfield's abstracts and a share of 200,000 short
texts of generated lengths, and the others a sample of the same texts; figures are tokens a second while encoding, so
without loading the model, medians over the rounds. `--memory` instead shows, in half an hour, that the command needs no
more memory for 1,000,000 rows than for 10,000. `--files` shows, in some minutes, how fast it reads and writes 1,000,000
rows and how much memory that takes, without a model: the vectors are made up. `--beside` names another checkout, and
its code takes turns with this one's.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks import engines
from benchmarks.engine import SPAWN, WORDS, Engine, cpu
from embedding_api.encoder.compute_threads import usable_cores
from tests.support.cranfield import load
from tests.support.server import ROOT, pss

SHORT_TEXTS = 200_000
MEDIAN_WORDS = 8
SAMPLES = {"Cranfield": (699, 140), "short texts": (8000, 2000)}  # for sentence-transformers, and for the engine
COMMAND, POOL = "the command", "sentence-transformers' pool"
ENGINE, CORES = "the engine, a thread for each core", "the engine, one core, times the cores"
MEMORY_ROWS = 10_000, 1_000_000
FILE_ROWS, DIMENSION = 1_000_000, 8
# A run whose vectors cost nothing; in a checkout's own directory, so that its code is what runs.
WITHOUT_MODEL = f"""
import sys, time
from pathlib import Path
import numpy
from embedding_api.bulk import run
from embedding_api.bulk.checkpoint import WindowStats
from embedding_api.bulk.inputs import Inputs

vectors = numpy.random.default_rng(1).normal(size=(1024, {DIMENSION})).astype(numpy.float32)
def encode(windows, progress):
    for window in windows:
        yield window, vectors[: len(window.texts)], WindowStats(rows=len(window.texts))

begin, begin_cpu = time.perf_counter(), time.process_time()
run.embed(Inputs([sys.argv[1]]), Path(sys.argv[2]), {{"dtype": "float32"}}, encode, strict=False, echo=str)
print(time.perf_counter() - begin, time.process_time() - begin_cpu)
"""


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--memory", is_flag=True, help="Show memory instead of speed.")
@click.option("--files", is_flag=True, help="Show reading and writing alone.")
@click.option("--beside", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Another checkout.")
def main(rounds, memory, files, beside):
    with tempfile.TemporaryDirectory() as folder:
        if memory:
            measure_memory(Path(folder))
        elif files:
            measure_files(Path(folder), rounds, {"this": ROOT} | ({"the other": beside} if beside else {}))
        else:
            measure_speed(Path(folder), rounds)


def measure_speed(folder, rounds):
    cases = {"Cranfield": load()[0], "short texts": generated(SHORT_TEXTS)}
    tokenizer = engines.tokenizer()
    cores = usable_cores()
    all_cores, one_core, pool = Engine("ours, float32", cores, None), Engine("ours, float32", 1, None), Pool(cores)
    speeds = {(case, name): [] for case in cases for name in (COMMAND, ENGINE, CORES, POOL)}
    for number in range(rounds):
        for case, texts in cases.items():
            own = texts if case == "Cranfield" else texts[number::rounds]
            of_pool, of_engine = (own[:: len(own) // size] for size in SAMPLES[case])
            counts = [sum(len(each) for each in tokenizer.encode_batch(sample)) for sample in (of_pool, of_engine)]
            speeds[case, COMMAND].append(command(folder, own))
            speeds[case, ENGINE].append(counts[1] / all_cores.time(of_engine, 1))
            speeds[case, CORES].append(counts[1] / one_core.time(of_engine, 1) * cores)
            speeds[case, POOL].append(counts[0] / pool.time(of_pool))
            print(
                f"round {number + 1}, {case}: { ({name: round(speeds[case, name][-1]) for _, name in speeds}) }",
                flush=True,
            )
    for engine in (all_cores, one_core, pool):
        engine.stop()
    print(f"\n{cpu()}, {date.today()}, float32, medians of {rounds} rounds (lowest to highest), tokens a second\n")
    print(f"| | {' | '.join(cases)} |\n|---|{'---|' * len(cases)}")
    for name in (COMMAND, ENGINE, CORES, POOL):
        print(f"| {name} | {' | '.join(cell(speeds, case, name) for case in cases)} |")


def cell(speeds, case, name):
    own, commands = speeds[case, name], speeds[case, COMMAND]
    times = f"; the command is {median(a / b for a, b in zip(commands, own, strict=True)):.2f} times as fast"
    return f"{median(own):,.0f} ({min(own):,.0f}-{max(own):,.0f}){times if name != COMMAND else ''}"


def generated(count, median_words=MEDIAN_WORDS):
    """Texts of common words. The number of words has a log-normal distribution."""
    chance = np.random.default_rng(1)
    lengths = np.clip(chance.lognormal(np.log(median_words), 0.6, count), 1, 400).astype(int)
    return [" ".join(chance.choice(WORDS, length)) for length in lengths]


def command(folder, texts):
    """Tokens a second of the command, as it prints them."""
    source, output = folder / "texts.jsonl", folder / "vectors.parquet"
    write(source, texts)
    result = subprocess.run(arguments(source, output), cwd=ROOT, check=True, capture_output=True, text=True)
    output.unlink()
    return float(re.search(r"([\d,]+) tokens/s\.", result.stderr)[1].replace(",", ""))


def write(source, texts):
    with open(source, "w") as file:
        file.writelines(json.dumps({"id": row, "text": text}) + "\n" for row, text in enumerate(texts))


def arguments(source, output):
    return [sys.executable, "-m", "embedding_api", "embed", str(source), str(output)]


class Pool:
    """SentenceTransformer.encode with a process for each core, each on one thread, which is fastest."""

    def __init__(self, cores):
        self._pipe, other = SPAWN.Pipe()
        os.environ["OMP_NUM_THREADS"] = "1"
        self._process = SPAWN.Process(target=serve_pool, args=(other, cores))
        self._process.start()
        self._pipe.recv()
        del os.environ["OMP_NUM_THREADS"]

    def time(self, texts):
        """Seconds to encode the texts."""
        self._pipe.send(texts)
        return self._pipe.recv()

    def stop(self):
        self._pipe.send(None)
        self._process.join()


def serve_pool(pipe, cores):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(engines.model(), device="cpu", local_files_only=True)
    pool = model.start_multi_process_pool(["cpu"] * cores)
    model.encode(["warm", "up"] * cores, pool=pool, chunk_size=1)
    pipe.send("ready")
    while texts := pipe.recv():
        start = time.perf_counter()
        # Chunks small enough that no process waits long for the other at the end.
        model.encode(texts, pool=pool, chunk_size=max(32, len(texts) // (8 * cores)), normalize_embeddings=True)
        pipe.send(time.perf_counter() - start)
    model.stop_multi_process_pool(pool)


def measure_memory(folder):
    print(f"{cpu()}, {date.today()}, PSS of the command")
    for rows in MEMORY_ROWS:
        source, output = folder / "texts.jsonl", folder / "vectors.parquet"
        write(source, generated(rows, median_words=1))
        process = subprocess.Popen(arguments(source, output), cwd=ROOT, stderr=subprocess.DEVNULL)
        samples, tenths = sample_memory(process, 1)
        print(f"{rows:,} rows in {len(samples)} s; {tenths}", flush=True)
        output.unlink()


def sample_memory(process, interval):
    """The memory of a process and its children until it ends, every so many seconds, and the highest in words."""
    samples = []
    while process.poll() is None:
        samples.append(sum(family(process.pid)))
        time.sleep(interval)
    assert process.returncode == 0
    tenths = [f"{max(part, default=0):,.0f}" for part in np.array_split(samples, 10)]
    return samples, f"highest MB in each tenth of the time: {', '.join(tenths)}"


def measure_files(folder, rounds, checkouts):
    print(f"{cpu()}, {date.today()}, {FILE_ROWS:,} rows of JSONL, vectors of {DIMENSION}")
    source, seconds = folder / "texts.jsonl", {}
    write(source, generated(FILE_ROWS))
    for number in range(rounds):
        for ending in ("jsonl", "parquet"):
            for name, root in checkouts.items():
                output = folder / f"vectors.{ending}"
                command = [sys.executable, "-c", WITHOUT_MODEL, str(source), str(output)]
                process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                _, tenths = sample_memory(process, 0.2)
                taken, on_cpu = map(float, process.stdout.read().split())
                seconds.setdefault((ending, name), []).append((taken, on_cpu))
                print(
                    f"round {number + 1}, {ending}, {name}: {taken:.1f} s, {on_cpu:.1f} s of CPU time; {tenths}",
                    flush=True,
                )
                output.unlink()
    for (ending, name), own in seconds.items():
        taken, on_cpu = (FILE_ROWS / median(times) for times in zip(*own, strict=True))
        print(f"{ending}, {name}: {taken:,.0f} rows/s, {on_cpu:,.0f} rows a second of CPU time; medians")


def family(pid):
    """The PSS of a process and of its children, in MB."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pss(pid), *(memory for child in children for memory in family(int(child)))]
    except (FileNotFoundError, ProcessLookupError):
        return []


if __name__ == "__main__":
    main()

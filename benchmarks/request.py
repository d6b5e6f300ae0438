"""How the CPU time of one short request is spent: `python -m benchmarks.request`, some two minutes on two cores.

Sends queries by wrk on connections that it keeps. The CPU time of all workers is read from /proc: with the forward
pass, and with vectors of ones instead of it, which is what a request costs apart from the pass. The second time, a
timer of CPU time interrupts each worker's main thread, and each sample counts for the innermost module that is not
Python's own. The table goes to docs/.
"""

import json
import os
import re
import signal
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from statistics import median

import click

from benchmarks.docs import write_tables
from benchmarks.engine import cpu, texts
from benchmarks.load import Load
from benchmarks.memory import wait_for_workers
from tests.support.server import ROOT, Server

SHORT_TOKENS = 11
CLIENTS = 1, 16
SECONDS = 6
WARM_SECONDS = 1
TICK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.002
LEAST = 0.03  # the part of a request's time from which a module gets a line of its own

# What is added to Gunicorn's configuration.
CONFIG = """
from benchmarks import request

_init = post_worker_init

def post_worker_init(worker):
    _init(worker)
    request.without_pass(worker, {directory!r})
"""


def without_pass(worker, directory):
    """Leave out the forward pass, and sample which module runs; SIGUSR2 writes the samples to a file."""
    import numpy as np

    encoder = worker.wsgi.extensions["encoder"]
    type(encoder._engine).forward = lambda self, batch, with_helper=False: np.ones(
        (len(batch), encoder.dimension), np.float32
    )
    samples = Counter()

    def sample(number, frame):
        while frame and not (name := module(frame.f_code.co_filename)):
            frame = frame.f_back
        samples[name if frame else "Python"] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR2, lambda *_: (Path(directory) / str(os.getpid())).write_text(json.dumps(samples)))
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)


def module(path):
    """The package of a file, or its module if it is this service's; None for Python's own files and for this one."""
    found = re.search(r"site-packages/(\w+)|(embedding_api/.+)\.py$", path)
    return found and (found[1] or found[2])


@click.command()
@click.option("--rounds", default=3, show_default=True)
def main(rounds):
    short = list(dict.fromkeys(texts(20_000, SHORT_TOKENS)))
    whole, apart, parts = ({clients: [] for clients in CLIENTS} for _ in range(3))
    for _ in range(rounds):
        for clients in CLIENTS:
            whole[clients].append(run(clients, short, "")[0])
            milliseconds, samples = run(clients, short, CONFIG)
            apart[clients].append(milliseconds)
            parts[clients].append({name: milliseconds * count / samples.total() for name, count in samples.items()})
    text = table(whole, apart, parts, rounds)
    print(text)
    write_tables("request", text)


def run(clients, short, added):
    """Milliseconds of CPU time a request, from /proc, and the number of samples by module."""
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        samples = directory / "samples"
        samples.mkdir()
        config = directory / "gunicorn.conf.py"
        config.write_text((ROOT / "gunicorn.conf.py").read_text() + added.format(directory=str(samples)))
        with Server({}, directory, ["gunicorn", "-c", str(config), "wsgi:app"]) as server:
            wait_for_workers(server)
            load = Load(directory, "short", short)
            load(server, clients, WARM_SECONDS)
            before, seconds = answers(server), cpu_seconds(server)
            load(server, clients, SECONDS)
            seconds, count = cpu_seconds(server) - seconds, answers(server) - before
            if added:
                for pid in server.workers():
                    os.kill(pid, signal.SIGUSR2)
        files = [json.loads(file.read_text()) for file in samples.iterdir()]
    return 1000 * seconds / count, sum(map(Counter, files), Counter())


def answers(server):
    """How many requests to /embed were answered."""
    figures = server.metrics().items()
    return sum(value for name, value in figures if name.startswith("embedding_requests_total") and '"/embed"' in name)


def cpu_seconds(server):
    total = 0
    for pid in server.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def table(whole, apart, parts, rounds):
    """A line for each module, the longest first, and those for all of a request."""
    names = Counter({name: median(one.get(name, 0) for one in parts[CLIENTS[0]]) for name in parts[CLIENTS[0]][0]})
    shown = [name for name, value in names.most_common() if value > LEAST * median(apart[CLIENTS[0]])]
    rest = {
        clients: [sum(one.values()) - sum(one.get(name, 0) for name in shown) for one in parts[clients]]
        for clients in CLIENTS
    }
    rows = {name: {clients: [one.get(name, 0) for one in parts[clients]] for clients in CLIENTS} for name in shown}
    rows |= {"others": rest, "**all but the pass**": apart, "with the pass": whole}
    return "\n".join(
        [
            f"{cpu()}, {date.today()}, medians of {rounds} rounds, {SHORT_TOKENS} tokens, milliseconds of CPU time:",
            "",
            f"| | {' | '.join(f'{count} client' + 's' * (count > 1) for count in CLIENTS)} |",
            "|---|" + "---|" * len(CLIENTS),
            *(
                f"| {name} | {' | '.join(f'{median(row[count]):.2f}' for count in CLIENTS)} |"
                for name, row in rows.items()
            ),
        ]
    )


if __name__ == "__main__":
    main()

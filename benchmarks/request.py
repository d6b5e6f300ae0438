"""Where the time of one short request goes: `python -m benchmarks.request`, some two minutes on two cores.

Starts the service with clocks around each of its parts, in every worker and both of its threads, and sends it queries
by wrk. A part's time is the CPU time of its thread, without that of the parts that it calls. How long a request waits
for a worker, the service's own metrics say. Then the pass is left out (vectors of ones), without any clocks, and the
CPU time of all workers is read from /proc: what a request costs apart from the pass, which leaves the caches to it. The
table goes to docs/.
"""

import json
import os
import re
import tempfile
import threading
from collections import Counter
from datetime import date
from functools import wraps
from pathlib import Path
from statistics import median
from time import thread_time_ns

import click

from benchmarks.engine import DOCS, cpu, texts
from benchmarks.load import Load
from benchmarks.memory import wait_for_workers
from tests.support.server import ROOT, Server

SHORT_TOKENS = 11
CLIENTS = 1, 16
SECONDS = 6
WARM_SECONDS = 1
TICK = os.sysconf("SC_CLK_TCK")
PASS, ANSWER = "the forward pass", "JSON of the answer"
WAITS = {"elapsed: waiting for a worker": "embedding_queue_seconds_sum"}

# What is added to Gunicorn's configuration: a hook of this module is called in each worker.
CONFIG = """
import os
from pathlib import Path
from benchmarks import request

_init, _exit = post_worker_init, worker_exit

def post_worker_init(worker):
    _init(worker)
    request.{hook}(worker)

def worker_exit(server, worker):
    request.write(Path({directory!r}) / str(os.getpid()))
    _exit(server, worker)
"""

_spent, _calls = Counter(), Counter()
_current = threading.local()


def clock(part, function):
    """The function, with the CPU time that it takes noted as that of a part."""

    @wraps(function)
    def measured(*arguments, **options):
        outer = getattr(_current, "inner", 0)
        _current.inner = 0
        began = thread_time_ns()
        try:
            return function(*arguments, **options)
        finally:
            taken = thread_time_ns() - began
            _spent[part] += taken - _current.inner
            _calls[part] += 1
            _current.inner = outer + taken

    return measured


def with_clocks(worker):
    """Put a clock around each part of a worker, in its process."""
    import embedding_api.embed
    from embedding_api import json_provider
    from embedding_api.door import Door
    from embedding_api.encoder.encoder import Encoder
    from embedding_api.visit import QUEUE

    app = worker.wsgi
    engine = app.extensions["encoder"]._engine
    patches = [
        ("the door: accept, read, close", Door, ["_accept", "_resume", "_begin_unsent"]),
        ("the queue", type(QUEUE), ["put", "get"]),
        ("the worker's round", type(worker), ["_serve_next"]),
        ("Gunicorn: parse the head, make the environ, write", type(worker), ["answer"]),
        ("sending", type(worker), ["_send"]),
        ("validation: the body and its fields", embedding_api.embed, ["load_payload"]),
        ("tokenizing", Encoder, ["tokenize"]),
        ("around the pass: micro-batches, normalising", Encoder, ["encode"]),
        (ANSWER, json_provider.OrjsonProvider, ["response"]),
        (PASS, type(engine), ["forward"]),
    ]
    for part, owner, names in patches:
        for name in names:
            setattr(owner, name, clock(part, getattr(owner, name)))
    app.wsgi_app = clock("Flask: route, context, response", app.wsgi_app)
    for functions in (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs):
        for function_list in functions.values():
            function_list[:] = [clock(_name(function), function) for function in function_list]


def _name(function):
    module = function.__module__.rpartition(".")[2]
    return {"logs": "log", "metrics": "metrics"}.get(module, "other hooks: request id, access, headers")


def without_pass(worker):
    """Leave the forward pass out."""
    import numpy as np

    encoder = worker.wsgi.extensions["encoder"]
    type(encoder._engine).forward = lambda self, batch: np.ones((len(batch), encoder.dimension), dtype=np.float32)


def write(path):
    path.write_text(json.dumps([_spent, _calls]))


@click.command()
@click.option("--rounds", default=3, show_default=True)
def main(rounds):
    short = list(dict.fromkeys(texts(20_000, SHORT_TOKENS)))
    parts = {clients: [] for clients in CLIENTS}
    apart, waits = {clients: [] for clients in CLIENTS}, {clients: [] for clients in CLIENTS}
    for _ in range(rounds):
        for clients in CLIENTS:
            _, taken, waited = run("with_clocks", clients, short)
            parts[clients].append(taken)
            waits[clients].append(waited)
            apart[clients].append(run("without_pass", clients, short)[0])
    text = table(parts, waits, apart, rounds)
    print(text)
    page = DOCS / "performance.md"
    before, after = re.split(r"(?<=<!-- request -->\n).*(?=<!-- /request -->)", page.read_text(), flags=re.DOTALL)
    page.write_text(f"{before}{text}\n{after}")


def run(hook, clients, short):
    """Milliseconds a request: CPU time of all workers by /proc, CPU time by part, and the waits by what for."""
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        clocks = directory / "clocks"
        clocks.mkdir()
        config = directory / "gunicorn.conf.py"
        own = (ROOT / "gunicorn.conf.py").read_text()
        config.write_text(own + CONFIG.format(hook=hook, directory=str(clocks)))
        with Server({"EMBEDDING_LOG_FORMAT": "text"}, directory, ["gunicorn", "-c", str(config), "wsgi:app"]) as server:
            wait_for_workers(server)
            load = Load(directory, "short", short)
            load(server, clients, WARM_SECONDS)
            before, seconds = server.metrics(), cpu_seconds(server)
            load(server, clients, SECONDS)
            seconds, after = cpu_seconds(server) - seconds, server.metrics()
            count = answers(after) - answers(before)
            waited = {what: 1000 * (after.get(name, 0) - before.get(name, 0)) / count for what, name in WAITS.items()}
        spent, calls = Counter(), Counter()
        for file in clocks.iterdir():
            of_worker = json.loads(file.read_text())
            spent.update(of_worker[0])
            calls.update(of_worker[1])
    return 1000 * seconds / count, {part: taken / calls[ANSWER] / 1e6 for part, taken in spent.items()}, waited


def answers(figures):
    return sum(
        value for name, value in figures.items() if name.startswith("embedding_requests_total") and '"/embed"' in name
    )


def cpu_seconds(server):
    total = 0
    for pid in server.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def table(parts, waits, apart, rounds):
    """A line for each part, the longest first, what all but the pass take together, and the waits."""
    clients = [f"{count} client{'s' * (count > 1)}" for count in CLIENTS]
    lines = [
        f"{cpu()}, {date.today()}, medians of {rounds} rounds, {SHORT_TOKENS} tokens, milliseconds of CPU time:",
        "",
        f"| | {' | '.join(clients)} |",
        "|---|" + "---|" * len(CLIENTS),
    ]

    def line(name, values):
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")

    middle = {
        count: {part: median(one[part] for one in rounds) for part in rounds[0]} for count, rounds in parts.items()
    }
    for part in sorted(middle[CLIENTS[0]], key=middle[CLIENTS[0]].get, reverse=True):
        line(part, [middle[count][part] for count in CLIENTS])
    others = [sum(taken for part, taken in middle[count].items() if part != PASS) for count in CLIENTS]
    line("**all but the pass**, with the pass in between and clocks", others)
    line("**all but the pass**, with the pass left out and no clocks", [median(apart[count]) for count in CLIENTS])
    for what in WAITS:
        line(what, [median(one[what] for one in waits[count]) for count in CLIENTS])
    return "\n".join(lines)


if __name__ == "__main__":
    main()

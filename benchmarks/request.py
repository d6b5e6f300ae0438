"""Where the time of one short request goes: `python -m benchmarks.request`, some two minutes on two cores.

Starts the service with clocks around each of its parts, in every worker and both of its threads, and sends it queries
by wrk. A part's time is the CPU time of its thread, without that of the parts that it calls. Then the forward pass is
left out (vectors of ones), without any clocks, and the CPU time of all workers is read from /proc: what a request costs
apart from the pass, with the caches to itself.
"""

import json
import os
import threading
from collections import Counter
from functools import wraps
from pathlib import Path
from time import thread_time_ns

CLIENTS = 1, 16
TICK = os.sysconf("SC_CLK_TCK")
CONFIG = """
{own}
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
    import embedding_api.worker
    from embedding_api import json_provider, payload
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
        ("around the pass: board, micro-batches, normalising", Encoder, ["encode"]),
        ("JSON of the answer", json_provider.OrjsonProvider, ["response"]),
        ("the forward pass", type(engine), ["forward"]),
    ]
    for part, owner, names in patches:
        for name in names:
            setattr(owner, name, clock(part, getattr(owner, name)))
    app.wsgi_app = clock("Flask: route, context, response", app.wsgi_app)
    for functions in (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs):
        for function_list in functions.values():
            function_list[:] = [clock(_name(function), function) for function in function_list]
    del payload


def _name(function):
    module = function.__module__.rpartition(".")[2]
    return {"logs": "log", "metrics": "metrics"}.get(module, "other hooks: request id, access, headers")


def without_pass(worker):
    """Leave the forward pass out."""
    import numpy as np

    encoder = worker.wsgi.extensions["encoder"]
    type(encoder._engine).forward = lambda self, batch, between_layers=None: np.ones(
        (len(batch), encoder.dimension), dtype=np.float32
    )


def write(path):
    path.write_text(json.dumps([_spent, _calls]))


def cpu_seconds(server):
    total = 0
    for pid in server.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def both(worker):
    without_pass(worker)
    with_clocks(worker)

"""What the service needs of memory: `python -m benchmarks.memory`, up to ten minutes on two cores.

Many clients at once send the largest requests that the limits allow, one kind after the other, each for some time:
which is left when the time is over. Prints the proportional set size (PSS: shared pages count for their share) of each
process and in total: before, at the highest moment (sampled twice a second), and after each kind. It exits with 1 if
the memory does not come back. Linux only.
"""

import contextlib
import http.client
import json
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from math import isqrt

import click

from embedding_api.config import Settings
from tests.support.server import Server, pss, wait_until

SAMPLE_SECONDS = 0.5
CLIENTS = 32
# Until the memory must be back, and how much more than idle that may be.
BACK_SECONDS, BACK = 60, 1.1


@click.command()
@click.option("--seconds", default=40, show_default=True, help="How long each kind of request is sent.")
def main(seconds):
    settings = Settings.from_env()
    with tempfile.TemporaryDirectory() as directory, Server({}, directory) as server:
        wait_for_workers(server)
        warm(server)
        print(f"{settings.workers} workers; PSS in MB: master + workers = total\n")
        idle = memory(server)
        show("idle", idle)
        requests = largest(settings, server.get("/info").json["dimension"])
        back = [measure(server, name, *request, seconds, sum(idle)) for name, request in requests.items()]
    raise SystemExit(not all(back))


def warm(server):
    """Have each worker serve usual requests, whose code and memory then belong to what it has when idle."""
    for texts in ["a short query"] * 20 + [["a text of some words " * 20] * 32] * 4:
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(server.embed, [texts] * 4))
    time.sleep(2)


def measure(server, name, path, body, seconds, idle):
    """Whether the memory is back to what it was, idle, some time after these requests."""
    with highest_total(lambda: memory(server)) as samples:
        statuses = send(server, path, body, seconds)
    show(f"peak, {name}", max(samples, key=sum), statuses)
    began = time.monotonic()
    while sum(memory(server)) > BACK * idle and time.monotonic() < began + BACK_SECONDS:
        time.sleep(SAMPLE_SECONDS)
    after = memory(server)
    show(f"{time.monotonic() - began:.0f} s after, {sum(after) / idle - 1:+.0%} of idle", after)
    return sum(after) <= BACK * idle


def largest(settings, dimension):
    """By name, the path and the body of each kind."""
    many, few = settings.max_texts, settings.max_tokens // 512
    each, pairs = settings.max_tokens // many, isqrt(many * dimension)
    ranked = {"rank": True, "texts": different_texts(many, 6)}
    requests = {
        f"{few} texts of 512 tokens": ("/embed", {"texts": different_texts(few, 512)}),
        f"{many} texts of {each} tokens": ("/embed", {"texts": different_texts(many, each)}),
        f"{many} ranked texts": ("/similarity", ranked | {"query": "0"}),
        f"{pairs} texts ranked for each other": ("/similarity", ranked | {"texts": different_texts(pairs, 6)}),
        "one text of the largest body": ("/embed", {"texts": "." * (settings.max_body_bytes - 20)}),
    }
    return {name: (path, json.dumps(fields).encode()) for name, (path, fields) in requests.items()}


def different_texts(count, tokens):
    """Equal ones would be computed once. A number below 100 is one token to BERT, and [CLS] and [SEP] are two."""
    return [f"{number // 100} {number % 100} " + "word " * (tokens - 4) for number in range(count)]


def send(server, path, body, seconds):
    """How many answers of each status many clients get, until they leave after so many seconds."""
    end, statuses = time.monotonic() + seconds, Counter()

    def run(_):
        while (left := end - time.monotonic()) > 0:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=left)) as connection:
                try:
                    connection.request("POST", path, body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    response.read()
                    statuses[response.status] += 1
                    if response.status != 200:
                        time.sleep(1)
                except TimeoutError:
                    statuses["left"] += 1
                except (OSError, http.client.HTTPException) as error:
                    statuses[type(error).__name__] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(run, range(CLIENTS)))
    return dict(statuses)


def wait_for_workers(server):
    """Until all of them have started; the first one serves alone for a moment."""
    workers = server.get("/info").json["workers"]
    wait_until(lambda: server.started() >= workers)


class highest_total:
    """Collects what a function returns, twice a second, while the `with` block runs."""

    def __init__(self, sample):
        self._take = sample
        self._samples = []
        self._done = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self._samples

    def _sample(self):
        while True:
            self._samples.append(self._take())
            if self._done.wait(SAMPLE_SECONDS):
                return

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()


def memory(server):
    """PSS of the master and of each worker, in MB."""
    return [pss(pid) for pid in (server.pid, *server.workers())]


def show(name, sample, statuses=""):
    total = f"{' + '.join(f'{value:.0f}' for value in sample)} = {sum(sample):.0f}"
    print(f"  {name:45} {total} {statuses}", flush=True)


if __name__ == "__main__":
    main()

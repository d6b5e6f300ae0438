"""How much memory the service needs: `python -m benchmarks.memory`, up to ten minutes on two cores.

Many clients at once send the largest requests that the limits allow, one kind after the other. Each kind is sent for a
fixed time; then the clients leave. Prints the proportional set size (PSS: shared pages count for their share) of each
process and in total: when idle, at the highest sample of two a second, and after each kind. It exits with 1 if the
memory does not come back. Linux only.
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
# The seconds in which the memory must come back, and how many times the idle memory it may then be.
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
    """Have each worker serve ordinary requests, so that the memory they need counts as idle memory."""
    for texts in ["a short query"] * 20 + [["a text of some words " * 20] * 32] * 4:
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(server.embed, [texts] * 4))
    time.sleep(2)


def measure(server, name, path, body, seconds, idle):
    """Send requests of one kind; returns whether the memory comes back to what it was when idle."""
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
    """The path and the body of each kind of request, by its name."""
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
    """Different texts of so many tokens. A number below 100 is one token to BERT, and [CLS] and [SEP] are two."""
    return [f"{number // 100} {number % 100} " + "word " * (tokens - 4) for number in range(count)]


def send(server, path, body, seconds):
    """Send a request again and again by many clients, for so many seconds; returns the number of answers by status."""
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
    """Wait until all workers have started: at first only one serves."""
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

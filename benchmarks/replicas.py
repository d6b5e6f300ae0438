"""Three replicas behind nginx: `python -m benchmarks.replicas`.

The real nginx with the configuration of deploy/, and real replicas, which share this machine's cores: what nginx costs,
how evenly it spreads requests, and what clients notice of a rolling restart and of a replica killed with -9. Every
vector is compared with sentence-transformers'. It exits with 1 if a request was lost, refused or answered wrong.
"""

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.engine import cpu
from benchmarks.soak import Outcome, ask, with_vectors
from embedding_api.config import Settings
from embedding_api.encoder.model_files import find_model
from tests.support.cranfield import load
from tests.support.nginx import Nginx, free_port
from tests.support.server import Server

CLIENTS = 16


class Replica(Server):
    """A replica that can be started again at the same port."""

    def __init__(self, directory):
        self._directory = Path(directory)
        super().__init__({"BIND": f"127.0.0.1:{free_port()}"}, directory)

    def restart(self):
        self.__exit__()
        self.__enter__()

    def kill(self):
        for pid in (self.pid, *self.workers()):
            os.kill(pid, signal.SIGKILL)
        self.wait(10)

    def embedded(self):
        return self.metrics().get("embedding_texts_total", 0)


class Clients:
    """Clients that send one query after the other, for a `with` statement.

    Attributes:
        outcomes: a list of each query's `Outcome`.
        rate: queries a second, known at the end.
    """

    def __init__(self, port, requests):
        self._port, self._requests = port, requests
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        self.outcomes = []

    def __enter__(self):
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.rate = len(self.outcomes) / (time.monotonic() - self._began)

    def _run(self, number):
        while not self._end.is_set():
            began = time.monotonic()
            status, what = ask(self._port, self._requests[number % len(self._requests)])
            self.outcomes.append(Outcome(began, time.monotonic() - began, status, what))
            number += CLIENTS

    def show(self, what):
        """Print the outcomes; returns whether every request was answered right."""
        outcomes = Counter((outcome.status, outcome.what) for outcome in self.outcomes)
        p50, p99 = np.percentile([outcome.seconds for outcome in self.outcomes], (50, 99))
        longest = max(outcome.seconds for outcome in self.outcomes)
        print(f"{what}: {dict(outcomes)}, p50 {p50:.3f} s, p99 {p99:.3f} s, longest {longest:.2f} s", flush=True)
        return set(outcomes) == {(200, "right")}


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Of the comparison of speed.")
@click.option("--seconds", default=8, show_default=True, help="How long each of its measurements takes.")
def main(rounds, seconds):
    settings = Settings.from_env()
    print(f"{date.today()}, {cpu()}; replicas of {settings.workers} workers, {CLIENTS} clients with one query each")
    requests = with_vectors(find_model(settings), [[query] for query in load()[1]])
    with ExitStack() as stack:
        folder = lambda: stack.enter_context(tempfile.TemporaryDirectory())  # noqa: E731
        replicas = [stack.enter_context(Replica(folder())) for _ in range(3)]
        one = stack.enter_context(Nginx([replicas[0].port], folder()))
        front = stack.enter_context(Nginx([replica.port for replica in replicas], folder()))
        compare(
            {"one replica": replicas[0], "nginx over it": one, "nginx over three": front}, requests, rounds, seconds
        )
        good = [
            spread(front, replicas, requests, seconds),
            rolling_restart(front, replicas, requests),
            killed(front, replicas[0], requests),
        ]
    raise SystemExit(not all(good))


def compare(fronts, requests, rounds, seconds):
    rates = {name: [] for name in fronts}
    for _ in range(rounds):
        for name, front in fronts.items():
            with Clients(front.port, requests) as clients:
                time.sleep(seconds)
            rates[name].append(clients.rate)
    first = rates["one replica"]
    for name, values in rates.items():
        ratio = median(ours / theirs for ours, theirs in zip(values, first, strict=True))
        print(f"{name}: {median(values):.0f} requests/s ({min(values):.0f} to {max(values):.0f}), {ratio:.2f}x")


def spread(front, replicas, requests, seconds):
    before = [replica.embedded() for replica in replicas]
    with Clients(front.port, requests) as clients:
        time.sleep(seconds)
    counts = [replica.embedded() - early for replica, early in zip(replicas, before, strict=True)]
    print("texts by replica:", *(f"{count:.0f}" for count in counts))
    return clients.show("undisturbed")


def rolling_restart(front, replicas, requests):
    with Clients(front.port, requests) as clients:
        for replica in replicas:
            time.sleep(2)
            replica.restart()
        time.sleep(2)
    return clients.show("rolling restart of all three")


def killed(front, replica, requests):
    with Clients(front.port, requests) as clients:
        time.sleep(2)
        replica.kill()
        time.sleep(4)
    good = clients.show("one of them killed with -9")
    replica.__enter__()
    return good


if __name__ == "__main__":
    main()

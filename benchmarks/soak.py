"""A soak test, `python -m benchmarks.soak`: ten minutes at twice the service's capacity, with faults.

Measures the service's capacity for a mix of requests, then sends twice as many a second, at random moments. Meanwhile
workers are killed with -9, the service is reloaded, and clients vanish, stay silent, do not read, or send what is not
valid. Half of the clients keep their connections. Every vector is compared with sentence-transformers'. With
`--overload` it sends four times the capacity, without faults.

It exits with 1 if an answer was wrong, a refusal was not clean, a request was lost without a killed worker, or if the
memory of the second half differs by more than 5% from that of the first, by the medians of their minutes. From minute
to minute it varies by more, with the requests under way. Of the lost requests, "closed unanswered" means that the
service closed a kept connection on which a request had been sent, before any byte of its answer. A connection that is
found closed before a request is sent is replaced, as clients do, and only counted.
"""

import http.client
import json
import os
import random
import select
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click
import numpy as np
import orjson

from embedding_api.config import Settings
from embedding_api.encoder.model_files import find_model
from tests.support.cranfield import load
from tests.support.server import Server, embed_request

TOLERANCE = 2e-6
CAPACITY_CLIENTS = 8
CLIENTS = 400
# The connections that are left silent or unread at the same time.
SILENT = 50
# The seconds after a worker's death in which a request that it was computing may be found lost.
LOSS_SECONDS = 2


@dataclass
class Outcome:
    started: float
    seconds: float
    status: int | None
    what: str


class Mix:
    """Requests of mixed sizes, and their vectors by sentence-transformers."""

    def __init__(self, directory):
        abstracts, queries = load()
        bodies = [[query] for query in queries[:60]]
        bodies += [queries[start : start + 8] for start in range(60, 220, 8)]
        bodies += [abstracts[start : start + 16] for start in range(0, 160, 16)]
        self._requests = with_vectors(directory, bodies)

    def __call__(self):
        return random.choice(self._requests)


def with_vectors(directory, bodies):
    """A request for each list of texts: its body, the texts, and their vectors by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return [(json.dumps({"texts": texts}).encode(), texts, model.encode(texts)) for texts in bodies]


class Client:
    """Sends one request after the other.

    Args:
        keep: whether to keep the connection.

    Attributes:
        found_closed: how often the connection had been closed when the next request was to be sent.
    """

    def __init__(self, port, keep, timeout=300):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._keep = keep
        self.found_closed = 0

    def ask(self, request, tolerance=TOLERANCE):
        """Send a request and check the answer; returns its status, and "right" or what is wrong with it."""
        body, texts, expected = request
        if self._connection.sock and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()
            self.found_closed += 1
        kept, response = self._connection.sock is not None, None
        try:
            headers = {"Content-Type": "application/json"} | ({} if self._keep else {"Connection": "close"})
            self._connection.request("POST", "/embed", body, headers)
            response = self._connection.getresponse()
            answer = orjson.loads(response.read())
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            self._connection.close()
            unanswered = kept and not response and isinstance(error, ConnectionError)
            return None, "lost: closed unanswered" if unanswered else f"lost: {type(error).__name__}"
        if not self._keep:
            self._connection.close()
        if response.status == 200:
            right = np.abs(np.array(answer["embeddings"], np.float32) - expected).max() <= tolerance
            return 200, "right" if right and len(answer["embeddings"]) == len(texts) else "WRONG VECTORS"
        clean = response.status == 503 and response.headers["Retry-After"] and answer["error"]["code"] == "overloaded"
        return response.status, "right" if clean else f"UNCLEAN: {answer}"


def ask(port, request, tolerance=TOLERANCE, timeout=300):
    """Send a request on a connection of its own; returns what `Client.ask` does."""
    return Client(port, False, timeout).ask(request, tolerance)


def capacity(port, mix, seconds=20):
    """Requests a second that the service answers. Clients are more than workers, as these compute several together."""
    stop = time.monotonic() + seconds

    def run(number):
        client, count = Client(port, keep=number % 2 == 0), 0
        while time.monotonic() < stop:
            count += client.ask(mix()) == (200, "right")
        return count

    with ThreadPoolExecutor(CAPACITY_CLIENTS) as pool:
        return sum(pool.map(run, range(CAPACITY_CLIENTS))) / seconds


def send(port, mix, rate, seconds):
    """Send requests at random moments, so many a second on average while clients are free; returns their `Outcome`s."""
    clients = [Client(port, keep=number % 2 == 0) for number in range(CLIENTS)]
    outcomes, busy, free = [], 0, deque(clients)

    def one(client):
        started = time.monotonic()
        status, what = client.ask(mix())
        outcomes.append(Outcome(started, time.monotonic() - started, status, what))
        free.append(client)

    end = time.monotonic() + seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        while time.monotonic() < end:
            if free:
                pool.submit(one, free.popleft())
            else:
                busy += 1
            time.sleep(random.expovariate(rate))
    found_closed = sum(client.found_closed for client in clients)
    print(
        f"{busy} requests were not sent as all {CLIENTS} clients waited; {found_closed} connections were found closed"
    )
    return outcomes


class Faults(threading.Thread):
    """Causes a fault every half second or so.

    Attributes:
        deaths: the moments when workers were killed.
        done: the number of faults of each kind.
        unclean: the statuses of answers to invalid requests, if they are neither 4xx nor 503.
    """

    def __init__(self, server, mix):
        super().__init__()
        self._server, self._mix = server, mix
        self._stop_it = threading.Event()
        self._idle = []
        self.deaths = []
        self.done = Counter()
        self.unclean = []

    def stop(self):
        self._stop_it.set()
        self.join()
        for connection in self._idle:
            connection.close()

    def run(self):
        faults = {self._vanish: 30, self._stay_silent: 20, self._send_nonsense: 20, self._kill: 4, self._reload: 2}
        while not self._stop_it.wait(random.uniform(0.2, 0.8)):
            (fault,) = random.choices(list(faults), faults.values())
            fault()
            self.done[fault.__name__.strip("_")] += 1

    def _vanish(self):
        body, _, _ = self._mix()
        with self._server.connect(embed_request(json.loads(body)["texts"])):
            time.sleep(random.uniform(0, 0.2))

    def _stay_silent(self):
        whole = embed_request(["a"] * 64)
        sent = random.choice([b"", whole[:14], whole[:-20], whole, whole + whole])
        self._idle.append(self._server.connect(sent))
        if len(self._idle) > SILENT:
            self._idle.pop(0).close()

    def _send_nonsense(self):
        request = random.choice([b"nonsense\r\n\r\n", embed_request([]), embed_request([1]), embed_request([" "])])
        try:
            status = self._server.raw(request).status
        except (OSError, IndexError):
            # Its worker has been killed.
            return
        if not (400 <= status < 500 or status == 503):
            self.unclean.append(status)

    def _kill(self):
        os.kill(random.choice(self._server.workers()), signal.SIGKILL)
        self.deaths.append(time.monotonic())

    def _reload(self):
        os.kill(self._server.pid, signal.SIGHUP)


class Memory(threading.Thread):
    """Samples the memory of all processes together, in MB, once a second."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self._server = server
        self._samples = []

    def run(self):
        while True:
            try:
                self._samples.append((time.monotonic(), self._server.memory()))
            except (FileNotFoundError, ProcessLookupError):
                # A worker has ended after it was listed.
                continue
            time.sleep(1)

    def by_minute(self, begin):
        """The median of each whole minute since `begin`; a reload doubles the workers for a second."""
        minutes = defaultdict(list)
        for moment, pss in self._samples:
            minutes[int((moment - begin) / 60)].append(pss)
        return [statistics.median(minutes[minute]) for minute in range(int((time.monotonic() - begin) / 60))]


@click.command()
@click.option("--minutes", default=10, type=click.IntRange(2), show_default=True)
@click.option(
    "--overload", is_flag=True, help="Send four times what the service can do, for one minute, and nothing else."
)
def main(minutes, overload):
    settings = Settings.from_env()
    mix = Mix(find_model(settings))
    with tempfile.TemporaryDirectory() as directory:
        with Server({}, directory) as server:
            ask(server.port, mix())
            rate = capacity(server.port, mix)
            print(f"{settings.workers} workers, {settings.max_waiting} may wait: {rate:.1f} requests/s", flush=True)
            good = flood(server, mix, rate) if overload else soak(server, mix, rate, minutes)
        log = server.log()
    problems = [line for line in log.splitlines() if "Traceback" in line or "Unexpected" in line or "failed" in line]
    print(f"problems in the log: {problems[:5] or 'none'}")
    raise SystemExit(not good or bool(problems))


def flood(server, mix, rate):
    outcomes = send(server.port, mix, 4 * rate, 60)
    accepted = [outcome.seconds for outcome in outcomes if outcome.status == 200]
    refused = [outcome.seconds for outcome in outcomes if outcome.status == 503] or [0]
    p99 = statistics.quantiles(accepted, n=100)[98]
    print(f"accepted {len(accepted)}: p50 {statistics.median(accepted):.2f} s, p99 {p99:.2f} s")
    print(f"refused: p50 {1000 * statistics.median(refused):.1f} ms, max {1000 * max(refused):.0f} ms")
    return show(outcomes, []) and statistics.median(refused) < 0.05


def soak(server, mix, rate, minutes):
    faults, memory = Faults(server, mix), Memory(server)
    memory.start()
    faults.start()
    begin = time.monotonic()
    outcomes = send(server.port, mix, 2 * rate, 60 * minutes)
    faults.stop()
    medians = memory.by_minute(begin)
    middle = len(medians) // 2
    early, late = statistics.median(medians[:middle]), statistics.median(medians[middle:])
    print(f"faults: {dict(faults.done)}; unclean answers to them: {faults.unclean or 'none'}")
    print(f"memory by minute: {', '.join(f'{pss:.0f}' for pss in medians)} MB; second half {late / early - 1:+.1%}")
    return show(outcomes, faults.deaths) and not faults.unclean and abs(late / early - 1) <= 0.05


def show(outcomes, deaths):
    """Print the outcomes; returns whether no answer was wrong and no request was lost without a killed worker."""
    print(f"{len(outcomes)} requests: {dict(Counter((outcome.status, outcome.what) for outcome in outcomes))}")
    lost = [outcome for outcome in outcomes if outcome.status is None]
    by_death = Counter(_death(outcome, deaths) for outcome in lost)
    unexcused = by_death.pop(None, 0)
    print(f"lost: {len(lost)}, of them {len(lost) - unexcused} with {len(deaths)} killed workers", end="")
    print(f", at most {max(by_death.values())} with one" if by_death else "")
    if unexcused:
        print(f"LOST WITHOUT: {Counter(outcome.what for outcome in lost if _death(outcome, deaths) is None)}")
    wrong = [outcome for outcome in outcomes if outcome.status is not None and outcome.what != "right"]
    return not wrong and not unexcused


def _death(outcome, deaths):
    """The moment of the death that a request was lost with, or None."""
    end = outcome.started + outcome.seconds
    near = [death for death in deaths if outcome.started - LOSS_SECONDS <= death and abs(death - end) <= LOSS_SECONDS]
    return min(near, key=lambda death: abs(death - end), default=None)


if __name__ == "__main__":
    main()

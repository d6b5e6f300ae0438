"""Workers that share forward passes, beside workers that do not: `python -m benchmarks.batching`, half an hour.

Starts the service with EMBEDDING_BATCHING=on and its default number of workers, and with `off` and 1 to 4 workers. In
each round every variant has its turn with a case, each time in another order. Figures are medians over the rounds, with
the lowest and the highest of them; ratios are those of the medians, with the ratios of single rounds. Needs wrk, as a
client in Python would take too much of the cores it shares with the service. Memory comes last, with nobody to share
its pages with: another server that has the same libraries mapped would pay a part of it.

`--kills 200` does something else, for some five minutes: it kills that many workers with -9, one after the other, while
16 clients send queries and one sends abstracts. Every vector is held against sentence-transformers'. It exits with 1 if
an answer was wrong or unclean or took two seconds longer than without kills, or if something was left behind.
"""

import contextlib
import itertools
import math
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks import soak
from benchmarks.engine import Engine, cpu, texts
from benchmarks.load import SHORT_PAUSE, SHORT_TIMEOUT, Load, send_all, short_beside_bulk
from benchmarks.memory import highest_total, largest_requests, memory, show, wait_for_workers
from embedding_api.config import Settings, usable_cores
from embedding_api.encoder.model_files import find_model
from tests.cranfield import load
from tests.server import Server, wait_until

OFF = (2, 3, 4)  # numbers of workers; what is best of them is what `on` has to beat
SHORT_TOKENS = 11
SHORT_TARGETS = {1: 0.97, 4: 1.1, 16: 1.8}  # by clients
ENGINE_TEXTS, ENGINE_TARGET = 8, 0.65
QUERIES_CLIENTS, QUERIES_TARGET = 16, 1.6
IDLE_SECONDS = 8
BULK_CLIENTS, BULK_REQUESTS = 2, 4  # so many in all, each of 32 texts of 512 tokens
BESIDE_TARGET, BULK_TARGET, CROWD_TARGET = 3, 0.9, 0.5
MIDDLE_REQUESTS = {1: 5, 4: 12}  # of 32 texts of 100 tokens, by clients
MEMORY_TARGET = 1000
MEMORY_ATTEMPTS = 3

KILL_SECONDS = 0.3
KILL_CLIENTS = 16
USUAL_SECONDS = 10
KILL_TOLERANCE = 1e-5
KILL_DELAY = 2  # seconds that a request may take longer because a worker is killed
ALONE = 50


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=4, show_default=True, help="Of a measurement with wrk.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--only", type=click.Choice(["short", "queries", "beside", "middle", "memory"]), multiple=True)
@click.option("--kills", default=0, help="Kill so many workers under load, and do nothing else.")
def main(rounds, seconds, dtype, only, kills):
    # Who stops it, by a timeout as well, stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if "CRANFIELD" not in os.environ:
        raise click.UsageError("Set CRANFIELD to a directory with cran.all.1400 and cran.qry.")
    if kills and dtype != "float32":
        raise click.UsageError("--kills compares vectors in float32.")
    print(f"{cpu()}, {date.today()}, {dtype}, ", end="")
    if kills:
        print(f"{kills} kills", flush=True)
        raise SystemExit(not mistreat(kills))
    print(f"medians of {rounds} rounds (lowest to highest)", flush=True)
    cases = {"short": short, "queries": queries, "beside": beside, "middle": middle}
    chosen = [case for name, case in cases.items() if not only or name in only]
    with tempfile.TemporaryDirectory() as directory:
        if chosen:
            with Bench(Path(directory), rounds, seconds, dtype) as bench:
                for case in chosen:
                    case(bench)
        if not only or "memory" in only:
            with start(directory, "memory", dtype) as server:
                memory_use(server, Settings.from_env())


def start(directory, name, dtype, batching="on", workers=None):
    """A server with a directory of its own for its log; None is the default number of workers."""
    own = Path(directory) / name
    own.mkdir()
    environment = {"EMBEDDING_BATCHING": batching, "EMBEDDING_DTYPE": dtype, "EMBEDDING_LOG_LEVEL": "info"}
    if workers:
        environment["WEB_CONCURRENCY"] = str(workers)
    return Server(environment | {"EMBEDDING_LOG_FORMAT": "text"}, own)


class Bench:
    """All variants of the service, and what to send them.

    Attributes:
        servers: by the name of the variant: "on", and "off 1" to "off 4".
        names: of those that are compared: all but "off 1".
        short_texts: an endless iterator over texts that differ.
    """

    def __init__(self, directory, rounds, seconds, dtype):
        self.directory, self.rounds, self.seconds, self.dtype = directory, rounds, seconds, dtype
        self.names = ["on", *(f"off {workers}" for workers in OFF)]
        # Equal texts in one forward pass would be computed once.
        self._short = list(dict.fromkeys(texts(20_000, SHORT_TOKENS)))
        self.short_texts = itertools.cycle(self._short)
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with self._stack as stack:
            servers = {"on": start(self.directory, "on", self.dtype)}
            servers |= {
                f"off {count}": start(self.directory, f"off {count}", self.dtype, "off", count) for count in (1, *OFF)
            }
            self.servers = {name: stack.enter_context(server) for name, server in servers.items()}
            for server in self.servers.values():
                wait_for_workers(server)
            print(", ".join(f"{name}: {len(server.workers())} workers" for name, server in self.servers.items()))
            self.load_short = Load(self.directory, "short", self._short)
            for server in self.servers.values():
                tokens = server.embed(self._short[:8]).headers["X-Tokens"]
                assert tokens == str(8 * SHORT_TOKENS), f"8 short texts have {tokens} tokens"
                self.load_short(server, 4, 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def interleave(self, names, measure):
        """What `measure(name)` gives, by name, one value for each round."""
        values = {name: [] for name in names}
        for turn in range(self.rounds):
            first = turn % len(names)
            for name in [*names[first:], *names[:first]]:
                values[name].append(measure(name))
        return values


def short(bench):
    for clients, target in SHORT_TARGETS.items():
        title = f"queries of {SHORT_TOKENS} tokens, {clients} client{'s' * (clients > 1)}"
        if clients < max(SHORT_TARGETS):
            compare(title, bench.interleave(bench.names, on_load(bench, bench.load_short, clients)), target)
            continue
        with EngineAlone(bench.dtype, bench.seconds) as alone:
            measure = on_load(bench, bench.load_short, clients)
            names = [*bench.names, "engine"]
            values = bench.interleave(names, lambda name: alone.rate() if name == "engine" else measure(name))  # noqa: B023
        compare(title, values, target)
        what = f"on / engine alone, {usable_cores()} processes of one thread, {ENGINE_TEXTS} texts at a time"
        show_ratio(what, values["on"], values["engine"], ENGINE_TARGET)


def queries(bench):
    sent = load()[1]
    measure = on_load(bench, Load(bench.directory, "queries", sent), QUERIES_CLIENTS)
    title = f"{len(sent)} queries of Cranfield, {QUERIES_CLIENTS} clients"
    compare(title, bench.interleave(bench.names, measure), QUERIES_TARGET)


def on_load(bench, load, clients):
    return lambda name: load(bench.servers[name], clients, bench.seconds)


class EngineAlone:
    """The encoder without any service: for each core a process with one thread, asleep while it is not measured."""

    def __init__(self, dtype, seconds):
        self._dtype, self._seconds = dtype, seconds
        self._batch = texts(ENGINE_TEXTS, SHORT_TOKENS)

    def __enter__(self):
        self._engines = [Engine(f"ours, {self._dtype}", 1, None) for _ in range(usable_cores())]
        self._time(2)
        self._repeat = math.ceil(self._seconds / median(self._time(10)))
        return self

    def __exit__(self, *error):
        for engine in self._engines:
            engine.stop()

    def rate(self):
        """Texts a second of all processes together."""
        return sum(ENGINE_TEXTS / taken for taken in self._time(self._repeat))

    def _time(self, repeat):
        with ThreadPoolExecutor(len(self._engines)) as pool:
            return list(pool.map(lambda engine: engine.time(self._batch, repeat), self._engines))


def beside(bench):
    """A short query now and then, beside clients that send large requests without pause."""
    workers = len(bench.servers["on"].workers())

    def measure_with(clients):
        bulk = texts(32 * max(BULK_REQUESTS, clients), 512)
        requests = [bulk[at : at + 32] for at in range(0, len(bulk), 32)]
        return lambda name: short_beside_bulk(bench.servers[name], bench.short_texts, requests, clients, IDLE_SECONDS)

    results = bench.interleave(bench.names, measure_with(BULK_CLIENTS))
    print(f"\na short query every {SHORT_PAUSE} s beside {BULK_CLIENTS} clients with 32 texts of 512 tokens")
    for name, rounds in results.items():
        print(f"  {name:7} {describe(rounds)}")
    show_slowdown(results["on"])
    values = {name: [result["rate"] for result in rounds] for name, rounds in results.items()}
    compare("their texts, meanwhile", values, BULK_TARGET, unit="texts/s")
    if workers != BULK_CLIENTS:
        results = bench.interleave(["on"], measure_with(workers))
    print(f"\na short query beside {workers} such clients, as many as workers\n  on      {describe(results['on'])}")
    slowest = median(result["beside"][1] for result in results["on"])
    print(f"  p95 {slowest:.3f} s, target less than {CROWD_TARGET} s: {verdict(slowest < CROWD_TARGET)}", flush=True)


def middle(bench):
    """32 texts of 100 tokens: one client against a process that has every core, several against the best."""
    for clients, count in MIDDLE_REQUESTS.items():
        pool = texts(32 * count, 100)
        requests = [pool[at : at + 32] for at in range(0, len(pool), 32)]

        def rate(name, clients=clients, requests=requests):
            return len(requests) / send_all(bench.servers[name], clients, requests)[0]

        names = ["on", "off 1"] if clients == 1 else bench.names
        compare(f"32 texts of 100 tokens, {clients} client{'s' * (clients > 1)}", bench.interleave(names, rate), 1)


def memory_use(server, settings):
    """The memory of `on`, before, while and after its workers have had the largest requests."""
    wait_for_workers(server)
    workers = server.workers()
    print(f"\nmemory of on, {len(workers)} workers; PSS in MB: master + workers = total")
    time.sleep(2)
    show("idle", memory(server))
    highest = 0
    for name, request in largest_requests(settings).items():
        with highest_total(lambda: memory(server)) as samples:
            reached = on_every_worker(server, workers, request)
        show(f"highest, {name}, {reached} workers had it", max(samples, key=sum))
        highest = max(highest, *map(sum, samples))
    show("afterwards", memory(server))
    print(f"  highest {highest:.0f} MB, target less than {MEMORY_TARGET}: {verdict(highest < MEMORY_TARGET)}")


def on_every_worker(server, workers, request):
    """Send a request until each worker has answered it, by the log; returns how many have."""
    begin = len(server.log())
    for _ in range(MEMORY_ATTEMPTS):
        send_all(server, len(workers), [request] * len(workers))
        answered = set(map(int, re.findall(r"\[(\d+)\] \[INFO\] .*POST /embed 200", server.log()[begin:])))
        if answered >= set(workers):
            break
    return len(answered & set(workers))


def compare(title, values, target, unit="requests/s"):
    """Print a rate for each variant, and how `on` compares with the best of those that are `off`."""
    print(f"\n{title}, {unit}")
    for name, rates in values.items():
        print(f"  {name:7} {spread(rates, '.2f' if median(rates) < 20 else '.1f')}")
    best = max((name for name in values if name.startswith("off")), key=lambda name: median(values[name]))
    show_ratio(
        f"on / {best}", values["on"], values[best], target, void=any(map(math.isnan, itertools.chain(*values.values())))
    )


def show_ratio(what, ours, theirs, target, void=False):
    if void:
        print(f"  {what}: void, as there were errors", flush=True)
        return
    ratio = median(ours) / median(theirs)
    single = [own / other for own, other in zip(ours, theirs, strict=True)]
    around = f"{min(single):.2f} to {max(single):.2f}"
    print(f"  {what}: {ratio:.2f} ({around}), target at least {target}: {verdict(ratio >= target)}", flush=True)


def show_slowdown(rounds):
    times = [result["beside"][1] / result["idle"][1] for result in rounds]
    reached = verdict(median(times) <= BESIDE_TARGET)
    print(f"  on, p95 beside / p95 idle: {spread(times, '.2f')}, target at most {BESIDE_TARGET}: {reached}")


def describe(rounds):
    """What `short_beside_bulk` has measured, in milliseconds."""
    parts = []
    for where in ("idle", "beside"):
        p50, p95 = ([1000 * result[where][place] for result in rounds] for place in (0, 1))
        parts.append(f"{where} p50 {spread(p50, '.0f')}, p95 {spread(p95, '.0f')} ms")
    counts = sum(result["sent"] for result in rounds), sum(result["refused"] for result in rounds)
    return f"{'; '.join(parts)}; {counts[0]} sent beside, {counts[1]} times bulk was refused"


def spread(values, form):
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def verdict(good):
    return "reached" if good else "MISSED"


def mistreat(kills):
    """Kill workers under load, and tell what became of the requests; whether all is as it should be."""
    abstracts, asked = load()
    bulk = [abstracts[at : at + 16] for at in range(0, 64, 16)]
    known = soak.with_vectors(find_model(Settings.from_env()), [*([text] for text in asked), *bulk])
    short_requests, bulk_requests = known[: len(asked)], known[len(asked) :]
    with tempfile.TemporaryDirectory() as directory, start(directory, "on", "float32") as server:
        wait_for_workers(server)
        one_by_one(server, short_requests, "before")
        usual, crowd = (Crowd(server, short_requests, bulk_requests) for _ in range(2))
        usual.run_while(lambda: time.sleep(USUAL_SECONDS))
        deaths = []
        crowd.run_while(lambda: kill(server, kills, deaths))
        good = [usual.tell("without kills", []), crowd.tell(f"with {kills} kills", deaths)]
        longest = [each.longest() for each in (usual, crowd)]
        good.append(longest[1] < longest[0] + KILL_DELAY)
        print(f"longest answered query: {longest[0]:.2f} s without kills, {longest[1]:.2f} s with: {verdict(good[-1])}")
        good.append(is_idle(server))
        good.append(one_by_one(server, short_requests, "afterwards"))
        good.append(takes_large(server, bulk_requests[0]))
    return all(good)


def kill(server, kills, deaths):
    """Kill a random worker again and again, always when all of them are there."""
    count = len(server.workers())
    for _ in range(kills):
        time.sleep(KILL_SECONDS)
        pid = random.choice(server.workers())
        os.kill(pid, signal.SIGKILL)
        deaths.append(time.monotonic())
        wait_until(lambda: pid not in (now := server.workers()) and len(now) == count, 30)  # noqa: B023


class Crowd:
    """16 clients with queries and one with abstracts, and what became of their requests."""

    def __init__(self, server, short_requests, bulk_requests):
        self._server = server
        self._kinds = {"queries": short_requests, "abstracts": bulk_requests}
        self._outcomes = {kind: [] for kind in self._kinds}
        self._stop = threading.Event()

    def run_while(self, deed):
        threads = [threading.Thread(target=self._send, args=["queries", SHORT_TIMEOUT]) for _ in range(KILL_CLIENTS)]
        threads.append(threading.Thread(target=self._send, args=["abstracts", 4 * SHORT_TIMEOUT]))
        for thread in threads:
            thread.start()
        try:
            deed()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self, kind, timeout):
        while not self._stop.is_set():
            began = time.monotonic()
            request = random.choice(self._kinds[kind])
            status, what = soak.ask(self._server.port, request, KILL_TOLERANCE, timeout)
            self._outcomes[kind].append(soak.Outcome(began, time.monotonic() - began, status, what))
            if status == 503:
                time.sleep(1)

    def longest(self):
        return max(one.seconds for one in self._outcomes["queries"] if one.status == 200)

    def tell(self, title, deaths):
        """Print what became of the requests, and how many each killed worker has cost; whether all is as it should be.

        A request counts for the last worker that had died when its connection ended.
        """
        good = True
        for kind, outcomes in self._outcomes.items():
            print(f"{title}, {kind}: ", end="")
            good = soak.tell(outcomes, deaths) and good
            lost = [one for one in outcomes if one.status is None]
            hung = sum("Timeout" in one.what for one in lost)
            costs = Counter(int(np.searchsorted(deaths, one.started + one.seconds)) for one in lost)
            kills = Counter(costs[number] for number in range(1, len(deaths) + 1))
            print("".join(f"  {cost} lost at {times} kills\n" for cost, times in sorted(kills.items())), end="")
            print(f"  never answered nor closed: {hung}")
            good = good and not hung
        return good


def is_idle(server):
    """Whether nothing counts as being worked on once nobody asks any longer."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: server.busy() == 0, 10)
    print(f"afterwards: {server.busy():.0f} requests in progress beside the one that asks")
    return server.busy() == 0


def one_by_one(server, requests, when):
    """Send some queries, one after the other; whether all are answered right, and soon."""
    seconds, outcomes = [], []
    for request in requests[:ALONE]:
        began = time.monotonic()
        outcomes.append(soak.ask(server.port, request, KILL_TOLERANCE, SHORT_TIMEOUT))
        seconds.append(time.monotonic() - began)
    right = outcomes.count((200, "right"))
    p50, longest = 1000 * median(seconds), 1000 * max(seconds)
    print(f"{when}: {right} of {ALONE} single queries right, p50 {p50:.0f} ms, longest {longest:.0f} ms", flush=True)
    return right == ALONE and max(seconds) < KILL_DELAY


def takes_large(server, request):
    """Whether as many large requests are taken at once as ever."""
    most = max(1, len(server.workers()) - 1)
    with ThreadPoolExecutor(most) as pool:
        outcomes = list(pool.map(lambda _: soak.ask(server.port, request, KILL_TOLERANCE), range(most)))
    print(f"afterwards: {most} at once with 16 abstracts: {dict(Counter(outcomes))}")
    return set(outcomes) == {(200, "right")}


if __name__ == "__main__":
    main()

"""What is measured: each case, for all servers in turn, round by round, each round in another order."""

import http.client
import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.engine import texts
from benchmarks.load import Load, LoadError, send_all, short_alone, short_beside_bulk, wait_until_quiet
from benchmarks.memory import highest_total
from tests.support.cranfield import load

SHORT_TOKENS, SHORT_CLIENTS = 11, (1, 4, 16, 64)
QUERIES_CLIENTS = 16
MIDDLE_TEXTS, MIDDLE_TOKENS, MIDDLE_REQUESTS = 32, 100, {1: 4, 4: 12}  # the last by clients
BULK_TEXTS, BULK_TOKENS, BULK_REQUESTS = 32, 512, {2: 4, 12: 12}  # the last by clients
ALONE_SECONDS = 6
BESIDE_ROUNDS = 3  # some servers take half a minute for each
LARGE_CLIENTS = 4
SETTLE_SECONDS = 1
WARM_SECONDS = 2
WARM_CLIENTS = 4
# Cosine of each vector to sentence-transformers' own, at least.
RIGHT = 0.999

CONNECTIONS = {"keep-alive": "keep-alive", "close": "a connection for each"}  # by the header, what the tables say


def name_case(sent, clients, connection=None):
    return f"{sent}, {clients} client{'s' * (clients > 1)}" + (f", {CONNECTIONS[connection]}" if connection else "")


SHORT, QUERIES = f"{SHORT_TOKENS} tokens", "Cranfield's queries"
# By case: what is sent, by how many clients, and the header.
SMALL = {
    name_case(what, clients, connection): (what, clients, connection)
    for what, clients in [*((SHORT, clients) for clients in SHORT_CLIENTS), (QUERIES, QUERIES_CLIENTS)]
    for connection in CONNECTIONS
}
MIDDLE = {name_case(f"{MIDDLE_TEXTS}x{MIDDLE_TOKENS}", clients): clients for clients in MIDDLE_REQUESTS}
TABLES = [[case for case in SMALL if SMALL[case][2] == connection] for connection in CONNECTIONS] + [list(MIDDLE)]
CASES = [*SMALL, *MIDDLE]


class Results(dict):
    """By the server's name, a dictionary of what was measured: lists with one value for each round.

    "seconds", "idle", "highest": the start in seconds, and the memory in MB; "cosine": the lowest to the reference;
    "alone": what `short_alone` returns, and "beside 2" and so on, by clients, what `short_beside_bulk` does; and each
    of CASES in requests a second. "errors" has, by any of these, what went wrong, which makes the server's values void.
    """

    def __init__(self, names):
        super().__init__({name: {"errors": {}} for name in names})

    def measure(self, name, what, function):
        """Note what a function returns, or that it failed."""
        row = self[name]
        if what in row["errors"]:
            return
        try:
            value = function()
            if isinstance(value, float) and math.isnan(value):
                raise LoadError("Some answers were errors.")
        except (LoadError, OSError, http.client.HTTPException, KeyError, ValueError) as error:
            row["errors"][what] = f"{type(error).__name__}: {error}"
            print(f"{name}, {what}: {error}", flush=True)
        else:
            row.setdefault(what, []).append(value)


def rounds(names, count):
    """The names, once in each round, each round with another one first."""
    for turn in range(count):
        first = turn % max(1, len(names))
        yield from [*names[first:], *names[:first]]


def measure_starts(results, start, names, count):
    """Seconds to the first vector, and memory before and while several clients have large texts: each alone.

    Args:
        start: what makes a `Running` of a name.
    """
    bulk = texts(BULK_TEXTS * LARGE_CLIENTS, BULK_TOKENS)
    for name in rounds(names, count):
        try:
            with start(name) as running:
                if running.seconds is None:
                    continue
                results.measure(name, "seconds", lambda: running.seconds)
                time.sleep(SETTLE_SECONDS)
                results.measure(name, "idle", running.memory)
                with highest_total(running.memory) as samples:
                    results.measure(
                        name, "large", lambda: send_all(running, LARGE_CLIENTS, _requests(bulk, BULK_TEXTS))
                    )
                results.measure(name, "highest", lambda: max(samples))
        except LoadError as error:
            results[name]["errors"]["seconds"] = str(error)
            print(f"{name}: {error}", flush=True)


def check_vectors(results, running, known):
    """The lowest cosine to the reference, `known`: texts and their vectors, which have length 1.

    The texts are sent together, and each by itself by many clients at once, as servers compute these together.
    """
    sent, expected = known
    for name, server in running.items():
        results.measure(name, "cosine", lambda: _lowest_cosine(server.vectors(sent), expected))  # noqa: B023
        results.measure(
            name,
            "cosine",
            lambda: _lowest_cosine(_one_by_one(server, 4 * sent), np.tile(expected, (4, 1))),  # noqa: B023
        )


def _one_by_one(server, texts):
    with ThreadPoolExecutor(QUERIES_CLIENTS) as pool:
        return [vector for [vector] in pool.map(lambda text: server.vectors([text]), texts)]


def _lowest_cosine(vectors, expected):
    vectors = np.array(vectors)
    lowest = float(((vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)).min())
    if not lowest >= RIGHT:
        raise LoadError(f"Wrong vectors: the lowest cosine to the reference is {lowest:.4f}.")
    return lowest


def measure_cases(results, running, directory, count, seconds):
    """Requests a second of each case, and short queries beside large requests.

    Args:
        running: by name, the `Running` servers.
        directory: for what wrk sends.
        count: of rounds.
        seconds: that wrk takes for each measurement.
    """
    # A server may compute equal texts once.
    short = list(dict.fromkeys(texts(20_000, SHORT_TOKENS)))
    names = list(running)

    def loads(what, bodies):
        apis = {server.peer.api for server in running.values()}
        made = {
            api: Load(directory, f"{what}-{number}", bodies, api.path, api.fields) for number, api in enumerate(apis)
        }
        return {name: made[server.peer.api] for name, server in running.items()}

    def turns(names, count):
        for name in rounds(names, count):
            wait_until_quiet()
            yield name

    sent = {SHORT: loads("short", short), QUERIES: loads("queries", load()[1])}
    for name, server in running.items():
        sent[SHORT][name](server, WARM_CLIENTS, WARM_SECONDS)
    for case, (what, clients, connection) in SMALL.items():
        for name in turns(names, count):
            rate = lambda: sent[what][name](running[name], clients, seconds, connection).rate  # noqa: B023, E731
            results.measure(name, case, rate)
        show(results, case)
    for case, clients in MIDDLE.items():
        requests = _requests(texts(MIDDLE_TEXTS * MIDDLE_REQUESTS[clients], MIDDLE_TOKENS), MIDDLE_TEXTS)
        for name in turns(names, count):
            results.measure(name, case, lambda: _rate(running[name], clients, requests))  # noqa: B023
        show(results, case)
    endless = itertools.cycle(short)
    for name in turns(names, count):
        results.measure(name, "alone", lambda: short_alone(running[name], endless, ALONE_SECONDS))  # noqa: B023
    for clients, number in BULK_REQUESTS.items():
        requests = _requests(texts(BULK_TEXTS * number, BULK_TOKENS), BULK_TEXTS)
        able = [name for name in names if clients <= running[name].peer.bulk_clients]
        for name in turns(able, min(count, BESIDE_ROUNDS)):
            beside = lambda: short_beside_bulk(running[name], endless, requests, clients)  # noqa: B023, E731
            results.measure(name, f"beside {clients}", beside)


def _rate(server, clients, sent):
    seconds, refused = send_all(server, clients, sent)
    if refused:
        raise LoadError(f"It has refused {refused} requests.")
    return len(sent) / seconds


def show(results, case):
    """Print the medians of a case."""
    rates = {name: np.median(row[case]) for name, row in results.items() if row.get(case)}
    print(f"{case}: " + ", ".join(f"{name} {rate:.4g}" for name, rate in rates.items()), flush=True)


def _requests(sent, size):
    return [sent[at : at + size] for at in range(0, len(sent), size)]

"""What the benchmarks send: short requests, large requests, and short requests now and then beside large ones.

Short requests are sent by wrk, as a client in Python would use too much of the cores that it shares with the service. A
server is anything with a `url` and a method `embed(texts, timeout)` that returns a `tests.support.server.Reply`.
"""

import json
import math
import random
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

SHORT_TIMEOUT = 30
SHORT_PAUSE = 0.15  # from the start of one short query to that of the next

WRK = """
local requests, position = {}, 0

function init(arguments)
  local headers = {["Content-Type"] = "application/json", ["Connection"] = arguments[4]}
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", arguments[2], headers, body)
  end
  position = tonumber(arguments[3])
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency)
  local errors = summary.errors
  local sum = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("requests %d microseconds %d errors %d p50 %d p99 %d\\n",
    summary.requests, summary.duration, sum, latency:percentile(50), latency:percentile(99)))
end
"""


# The machine counts as quiet if its processes use at most this part of its cores for so many seconds.
QUIET_PART, QUIET_SECONDS, QUIET_TIMEOUT = 0.1, 0.3, 180


class LoadError(Exception):
    """A server has answered with an error."""


def embed_fields(texts):
    """The fields of a request to /embed."""
    return {"texts": texts}


@dataclass
class Speed:
    """Answers a second, and two percentiles of the seconds from a request to its answer."""

    rate: float
    p50: float
    p99: float


class Load:
    """Sends requests of one text each, by wrk with one thread.

    Args:
        directory: where wrk's files go.
        name: of the file of requests.
        texts: those to send, in turn.
        path: where to post them.
        fields: a function that makes a request's fields of a text.
    """

    def __init__(self, directory, name, texts, path="/embed", fields=embed_fields):
        self._script = directory / "wrk.lua"
        self._script.write_text(WRK)
        self._bodies = directory / f"{name}.bodies"
        self._bodies.write_text("".join(json.dumps(fields(text)) + "\n" for text in texts))
        self._count = len(texts)
        self._path = path

    def __call__(self, server, clients, seconds, connection="keep-alive"):
        """The `Speed`, whose rate is NaN where an answer was an error.

        Args:
            connection: the header of each request: "keep-alive", or "close" for a new connection for each.
        """
        options = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", f"{SHORT_TIMEOUT}s", "-s", str(self._script)]
        arguments = [server.url, "--", str(self._bodies), self._path, str(random.randrange(self._count)), connection]
        ended = subprocess.run(["wrk", *options, *arguments], capture_output=True, text=True, timeout=seconds + 60)
        if ended.returncode:
            raise LoadError(f"wrk has failed: {ended.stderr or ended.stdout}")
        output = ended.stdout
        found = re.search(r"^requests (\d+) microseconds (\d+) errors (\d+) p50 (\d+) p99 (\d+)$", output, re.MULTILINE)
        requests, microseconds, errors, p50, p99 = map(int, found.groups())
        rate = requests / microseconds * 1e6
        if errors or not requests or "Non-2xx" in output:
            print(f"  {errors} errors beside {requests} answers:\n{output}")
            rate = math.nan
        return Speed(rate, p50 / 1e6, p99 / 1e6)


def wait_until_quiet():
    """Wait until the machine is quiet: servers still compute requests that wrk has left, which would slow the next."""
    deadline = time.monotonic() + QUIET_TIMEOUT
    while True:
        before = _processor_ticks()
        time.sleep(QUIET_SECONDS)
        busy, total = (after - first for after, first in zip(_processor_ticks(), before, strict=True))
        if busy <= QUIET_PART * total:
            return
        if time.monotonic() > deadline:
            raise LoadError("Something else takes this machine's time: stop it, and measure again.")


def _processor_ticks():
    """The ticks in which the machine's cores have been busy, and all ticks."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def short_alone(server, texts, seconds):
    """p50 and p95, in seconds, of short queries that are sent now and then for so many seconds."""
    stop = time.monotonic() + seconds
    return np.percentile(short_queries(server, texts, lambda: time.monotonic() >= stop), (50, 95))


def short_beside_bulk(server, short_texts, requests, clients):
    """Send large requests, and short queries now and then beside them.

    Args:
        short_texts: an iterator over the queries.
        requests: the large requests, each a list of texts.
        clients: the number of clients that send the large requests.

    Returns:
        A dictionary: "short", p50 and p95 of the short query in seconds; "rate", the texts a second of the large
        requests; "sent", how many short queries were sent beside them; "refused", how often a large one was.
    """
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_all, server, clients, requests)
        time.sleep(SHORT_PAUSE)
        taken = short_queries(server, short_texts, sent.done)
    seconds, refused = sent.result()
    rate = sum(map(len, requests)) / seconds
    return {"short": np.percentile(taken, (50, 95)), "rate": rate, "sent": len(taken), "refused": refused}


def short_queries(server, texts, done):
    """The seconds of each short query. They are sent one after the other, until `done` returns true."""
    taken = []
    while not taken or not done():
        began = time.monotonic()
        reply = server.embed(next(texts))
        if reply.status != 200:
            raise LoadError(f"A short query got {reply.status}: {reply.body[:300]!r}")
        taken.append(time.monotonic() - began)
        time.sleep(max(0, SHORT_PAUSE - taken[-1]))
    return taken


def send_all(server, clients, requests):
    """Send large requests by several clients. Each client takes the next request when it is free.

    All requests count, and the time is from the start of the first to the end of the last. A client that is refused
    returns its request to the others and waits for the seconds of Retry-After.

    Returns:
        The seconds, and how often the service refused.
    """
    waiting = SimpleQueue()
    for request in requests:
        waiting.put(request)

    def run(_):
        refused, answered = 0, 0.0
        while True:
            try:
                request = waiting.get_nowait()
            except Empty:
                return refused, answered
            # A large request at each worker takes minutes.
            reply = server.embed(request, timeout=3600)
            if reply.status == 200:
                answered = time.monotonic()
            elif reply.status == 503:
                waiting.put(request)
                refused += 1
                time.sleep(float(reply.headers["Retry-After"]))
            else:
                raise LoadError(f"The server answered {reply.status}: {reply.body[:300]!r}")

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        refusals, answers = zip(*pool.map(run, range(clients)), strict=True)
    return max(answers) - began, sum(refusals)

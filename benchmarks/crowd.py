"""Ordinary requests beside many idle or slow clients: `python -m benchmarks.crowd`, three minutes on two cores.

Prints requests a second and latency of a few clients with short queries: alone, beside connections on which nothing is
sent, beside requests of which half is sent, beside clients that read their answers slowly, beside all of them, and
alone again.
"""

import contextlib
import socket
import tempfile
import threading
from datetime import date
from pathlib import Path
from statistics import median

import click

from benchmarks.engine import cpu, texts
from benchmarks.load import Load, wait_until_quiet
from benchmarks.memory import wait_for_workers
from tests.support.server import Server, embed_request

TOKENS, CLIENTS = 11, 8
# So that no client is given up on while it is measured.
ENVIRONMENT = {"EMBEDDING_CLIENT_TIMEOUT": "120"}
READ_BYTES, READ_SECONDS = 256, 0.5
# Few tokens, whose answer is long.
REQUEST = embed_request(["slowly"] * 64)


class Crowd:
    """Clients that each have sent some bytes, for a `with` statement. Every half second each reads a little."""

    def __init__(self, server, *groups):
        self._connections = [_connect(server.port, sent) for sent, count in groups for _ in range(count)]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *error):
        self._end.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _read(self):
        while not self._end.wait(READ_SECONDS):
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.recv(READ_BYTES)


def _connect(port, sent):
    connection = socket.socket()
    # With a larger buffer the operating system would take the whole answer.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(sent)
    connection.setblocking(False)
    return connection


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=5, show_default=True, help="Of a measurement.")
@click.option("--count", default=200, show_default=True, help="How many of each kind.")
def main(rounds, seconds, count):
    idle, half, slow = (b"", count), (REQUEST[: len(REQUEST) // 2], count), (REQUEST, count)
    crowds = {
        "alone": [],
        f"{count} idle connections": [idle],
        f"{count} half-sent requests": [half],
        f"{count} slow readers": [slow],
        "all of these": [idle, half, slow],
        "alone again": [],
    }
    speeds = {name: [] for name in crowds}
    with tempfile.TemporaryDirectory() as directory, Server(ENVIRONMENT, directory) as server:
        wait_for_workers(server)
        load = Load(Path(directory), "short", list(dict.fromkeys(texts(20_000, TOKENS))))
        load(server, CLIENTS, 1)
        for _ in range(rounds):
            for name, groups in crowds.items():
                with Crowd(server, *groups):
                    # Until the slow readers' answers are computed.
                    wait_until_quiet()
                    speeds[name].append(load(server, CLIENTS, seconds))
    print(f"{cpu()}, {date.today()}, {TOKENS} tokens, {CLIENTS} clients, keep-alive, medians of {rounds} rounds:\n")
    print("| beside | requests/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for name, own in speeds.items():
        rate, p50, p99 = (median(getattr(speed, what) for speed in own) for what in ("rate", "p50", "p99"))
        print(f"| {name} | {rate:.0f} | {1000 * p50:.1f} | {1000 * p99:.1f} |")


if __name__ == "__main__":
    main()

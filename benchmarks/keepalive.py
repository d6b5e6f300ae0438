"""Do all workers have work? `python -m benchmarks.keepalive`, five minutes on two cores.

Linux decides which worker gets a new connection. With few connections that are kept, one worker may get most of them.
Starts the service many times, each time with new connections, and prints the requests a second of the worst start and
of the best one.
"""

import tempfile
from datetime import date
from pathlib import Path
from statistics import median

import click

from benchmarks.engine import cpu, texts
from benchmarks.load import Load
from benchmarks.memory import wait_for_workers
from tests.support.server import Server

TOKENS = 11
CLIENTS = 4, 16


@click.command()
@click.option("--starts", default=20, show_default=True)
@click.option("--seconds", default=3, show_default=True, help="Of a measurement with wrk.")
def main(starts, seconds):
    rates = {clients: [] for clients in CLIENTS}
    short = list(dict.fromkeys(texts(20_000, TOKENS)))
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as directory, Server({}, directory) as server:
            wait_for_workers(server)
            load = Load(Path(directory), "short", short)
            load(server, max(CLIENTS), 1, "close")
            for clients in CLIENTS:
                rates[clients].append(load(server, clients, seconds).rate)
    print(
        f"{cpu()}, {date.today()}, {TOKENS} tokens, keep-alive, {starts} starts, {seconds} s each, requests a second:\n"
    )
    print("| clients | worst | median | best | worst of best |\n|---|---|---|---|---|")
    for clients, values in rates.items():
        worst, best = min(values), max(values)
        print(f"| {clients} | {worst:.0f} | {median(values):.0f} | {best:.0f} | {worst / best:.0%} |")


if __name__ == "__main__":
    main()

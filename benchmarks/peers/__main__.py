"""The service beside other servers of embeddings: `make bench`, an hour and a half on two cores.

Each server has an environment of its own under .bench/, the same model, all cores that this process may use, and its
own defaults. First each is started alone, to measure its start and its memory. Then all of them run, and in each round
each is measured with each case, while the others are idle. Figures are medians over the rounds. A server whose vectors
differ from sentence-transformers' (cosine below 0.999), or that answers with errors, gets no figures. Needs wrk, and
some 16 GB of memory. Tables and figure go to docs/.
"""

import json
import re
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import click

from benchmarks import engines
from benchmarks.engine import SPAWN
from benchmarks.load import LoadError
from benchmarks.peers import reference, report, servers
from benchmarks.peers.cases import Results, check_vectors, measure_cases, measure_starts
from benchmarks.peers.servers import BENCH, Peer, Running
from tests.support.cranfield import load


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--starts", default=3, show_default=True, help="How often each server is started.")
@click.option("--seconds", default=3, show_default=True, help="Of a measurement with wrk.")
@click.option("--tei", metavar="PATH", help="text-embeddings-router, to be measured as well.")
@click.option("--openai", metavar="URL", multiple=True, help="A server that runs already: http://HOST:PORT/v1")
@click.option("--checkout", metavar="DIR", multiple=True, help="A checkout of another version, to be measured as well.")
@click.option(
    "--command",
    metavar="NAME=COMMAND",
    multiple=True,
    help="What starts a server with this service's API at port {port}. One whose name begins with 'this service' is not"
    " among the others.",
)
@click.option("--only", metavar="REGEX", default="", help="Of all these, only servers whose name this is found in.")
@click.option(
    "--docs/--no-docs", default=True, show_default=True, help="Write tables and figure to docs/, or print only."
)
@click.option("--openai-model", default="BAAI/bge-small-en-v1.5", show_default=True, help="What it calls the model.")
def main(rounds, starts, seconds, tei, openai, checkout, command, only, docs, openai_model):
    # So that SIGTERM, which `timeout` sends, also stops the servers that were started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not shutil.which("wrk"):
        raise click.UsageError("Install wrk, which sends the short requests: apt-get install wrk")
    model = Path(engines.model())
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        directory = Path(directory)
        with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
            process.submit(reference.export, model, directory / "onnx").result()
            documents, queries = load()
            sent = [*queries[:16], *documents[:16]]
            known = sent, process.submit(reference.vectors, sent).result()
        known_peers = servers.peers(model, directory / "onnx")
        known_peers += [servers.tei(tei, model)] if tei else []
        known_peers += [running_already(url, openai_model) for url in openai]
        known_peers += [servers.checkout(directory, model) for directory in checkout]
        known_peers += map(servers.command, command)
        by_name = {peer.name: peer for peer in known_peers if re.search(only, peer.name)}
        results = Results(by_name)

        def start(name):
            return Running(by_name[name], BENCH / f"{name.replace('/', '_')}.log")

        measure_starts(results, start, list(by_name), starts)
        running = {}
        for name in by_name:
            if not results[name]["errors"]:
                running[name] = stack.enter_context(start(name))
        check_vectors(results, running, known)
        right = {name: server for name, server in running.items() if not results[name]["errors"]}
        measure_cases(results, right, directory, rounds, seconds)
        check_vectors(results, right, known)
    (BENCH / "results.json").write_text(json.dumps(results, default=list))
    text = report.tables(results, {name: peer.packages for name, peer in by_name.items()}, rounds, seconds)
    print(text)
    if docs:
        report.write(text, results)


def running_already(url, model):
    """The `Peer` at an address such as http://HOST:PORT/v1. wrk takes no path but that of a request."""
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/embeddings"
    return Peer(url, servers.openai(model, path), url=f"{parts.scheme}://{parts.netloc}")


if __name__ == "__main__":
    try:
        main()
    except LoadError as error:
        sys.exit(f"Error: {error}")

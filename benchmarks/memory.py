"""What the service needs of memory: `python -m benchmarks.memory`, some ten minutes on two cores.

Starts the service with and without preloading, has every worker answer the largest requests the limits allow, and
prints the proportional set size (PSS: shared pages count for their share) of each process and in total: before, at
the highest moment (sampled twice a second) and after. Linux only.
"""

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from embedding_api.config import Settings
from tests.server import ROOT, Server, pss

SAMPLE_SECONDS = 0.5


def main():
    settings = Settings.from_env()
    a_further_worker()
    print(f"{settings.workers} workers; PSS in MB: master + workers = total\n")
    for preload in (True, False):
        print(f"preload_app = {preload}")
        with tempfile.TemporaryDirectory() as directory:
            config = Path(directory) / "gunicorn.conf.py"
            config.write_text(f"{(ROOT / 'gunicorn.conf.py').read_text()}\npreload_app = {preload}\n")
            environment = {"WEB_CONCURRENCY": str(settings.workers)}
            with Server(environment, directory, ["gunicorn", "-c", str(config), "wsgi:app"]) as server:
                measure(server, settings)
        print()


def a_further_worker():
    """What each worker beyond the second adds, before and after it has worked."""
    totals = []
    for workers in (2, 4):
        with (
            tempfile.TemporaryDirectory() as directory,
            Server({"WEB_CONCURRENCY": str(workers)}, directory, ["gunicorn", "wsgi:app"]) as server,
        ):
            time.sleep(2)
            idle = sum(memory(server))
            on_all_workers(server, workers, different_texts(60, 512))
            totals.append((idle, sum(memory(server))))
    (idle_2, after_2), (idle_4, after_4) = totals
    print(f"A further worker: {(idle_4 - idle_2) / 2:.0f} MB idle, {(after_4 - after_2) / 2:.0f} MB after work\n")


def measure(server, settings):
    # Without preloading a worker that has not answered may not have loaded the model yet.
    on_all_workers(server, settings.workers, different_texts(30, 512))
    show("idle", memory(server))
    for name, texts in largest_requests(settings).items():
        with highest_total(server) as samples:
            seconds = on_all_workers(server, settings.workers, texts)
        show(f"peak, {name}, {seconds:.0f} s", max(samples, key=lambda sample: sum(sample)))
    show("after", memory(server))


def largest_requests(settings):
    many, few = settings.max_texts, settings.max_tokens // 512
    each = settings.max_tokens // many
    return {
        f"{few} texts of 512 tokens": different_texts(few, 512),
        f"{many} texts of {each} tokens": different_texts(many, each),
        "one text of the largest body": "." * (settings.max_body_bytes - 20),
    }


def different_texts(count, tokens):
    """Equal ones would be computed once. A number below 100 is one token to BERT, and [CLS] and [SEP] are two."""
    return [f"{number // 100} {number % 100} " + "word " * (tokens - 4) for number in range(count)]


def on_all_workers(server, workers, texts):
    """Send a request for each worker at the same moment: each of them is busy with one. Returns seconds."""
    start = time.monotonic()
    with ThreadPoolExecutor(workers) as clients:
        for reply in clients.map(server.embed, [texts] * workers):
            if reply.status != 200:
                raise SystemExit(f"The service answered {reply.status}: {reply.body[:300]!r}")
    return time.monotonic() - start


class highest_total:
    """Collects samples of `memory` while the `with` block runs."""

    def __init__(self, server):
        self._server = server
        self._samples = []
        self._done = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self._samples

    def _sample(self):
        while True:
            self._samples.append(memory(self._server))
            if self._done.wait(SAMPLE_SECONDS):
                return

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()


def memory(server):
    """PSS of the master and of each worker, in MB."""
    return [pss(pid) for pid in (server.pid, *server.workers())]


def show(name, sample):
    print(f"  {name:45} {' + '.join(f'{value:.0f}' for value in sample):20} = {sum(sample):5.0f}", flush=True)


if __name__ == "__main__":
    main()

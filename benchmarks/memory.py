"""What the service needs of memory: `python -m benchmarks.memory`, half an hour on two cores.

Says what a further worker costs. Then it starts the default number of workers, sends as many of the largest requests
that the limits allow at the same time, and prints the proportional set size (PSS: shared pages count for their share)
of each process and in total: before, at the highest moment (sampled twice a second) and after. Linux only.
"""

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from embedding_api.config import Settings
from tests.support.server import Server, pss, wait_until

SAMPLE_SECONDS = 0.5
FEW_AND_MANY = 4, 12


def main():
    a_further_worker()
    with tempfile.TemporaryDirectory() as directory, Server({}, directory) as server:
        wait_for_workers(server)
        measure(server, Settings.from_env())


def a_further_worker():
    """What each further worker adds, before and after all have worked."""
    totals = []
    for workers in FEW_AND_MANY:
        with (
            tempfile.TemporaryDirectory() as directory,
            Server({"WEB_CONCURRENCY": str(workers)}, directory, ["gunicorn", "wsgi:app"]) as server,
        ):
            wait_for_workers(server)
            time.sleep(2)
            idle = sum(memory(server))
            for _ in range(2):
                on_all_workers(server, workers, different_texts(16, 512))
                on_all_workers(server, workers, different_texts(1024, 8))
            totals.append((idle, sum(memory(server))))
    (idle_few, after_few), (idle_many, after_many) = totals
    more = FEW_AND_MANY[1] - FEW_AND_MANY[0]
    print(
        f"A further worker: {(idle_many - idle_few) / more:.0f} MB idle, {(after_many - after_few) / more:.0f} MB after"
        " work\n",
        flush=True,
    )


def wait_for_workers(server):
    """Until all of them have started; the first one serves alone for a moment."""
    workers = server.get("/info").json["workers"]
    wait_until(lambda: server.started() >= workers)


def measure(server, settings):
    print(f"{settings.workers} workers; PSS in MB: master + workers = total\n")
    show("idle", memory(server))
    for name, texts in largest_requests(settings).items():
        with highest_total(lambda: memory(server)) as samples:
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
        list(clients.map(lambda texts: patiently(server, texts), [texts] * workers))
    return time.monotonic() - start


def patiently(server, texts):
    """Send a request until it is accepted: one worker remains without a large one."""
    while (reply := server.embed(texts)).status == 503:
        time.sleep(float(reply.headers["Retry-After"]))
    if reply.status != 200:
        raise SystemExit(f"The service answered {reply.status}: {reply.body[:300]!r}")


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


def show(name, sample):
    print(f"  {name:45} {' + '.join(f'{value:.0f}' for value in sample):20} = {sum(sample):5.0f}", flush=True)


if __name__ == "__main__":
    main()

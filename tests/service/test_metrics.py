import os
import signal
from concurrent.futures import ThreadPoolExecutor

from tests.support.server import Server, wait_until
from tests.support.tiny import BLOCKING_TEXT, text_taking


def test_one_scrape_has_what_the_clients_counted_while_workers_died(tmp_path):
    environment = {"WEB_CONCURRENCY": "2", "EMBEDDING_MAX_WAITING": "8"}
    with Server(environment, tmp_path, ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        wait_until(lambda: server.started() == 2)
        seen = {200: 0, 422: 0, 503: 0}
        texts = lost = deaths = 0
        for round_ in range(4):
            with ThreadPoolExecutor(32) as pool:
                replies = list(pool.map(server.embed, [["a", "b"], "", *[BLOCKING_TEXT] * 30]))
            for reply in replies:
                seen[reply.status] += 1
                texts += int(reply.headers.get("X-Texts", 0))
            # Both workers compute when they die.
            before = set(server.workers())
            with ThreadPoolExecutor(4) as pool:
                busy = [pool.submit(server.embed, text_taking(seconds=10)) for _ in range(4)]
                wait_until(lambda: server.busy() == 4)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                lost += sum(reply.exception() is not None for reply in busy)
            deaths += len(before)
            wait_until(lambda so_far=2 + deaths: server.started() == so_far)
            if round_ == 1:
                files = sorted(path.name for path in server.metrics_directory().iterdir())
        counts = server.metrics()
        embedded = {
            status: counts.get(f'embedding_requests_total{{route="/embed",status="{status}"}}', 0) for status in seen
        }
        assert embedded == seen
        assert seen[503] > 0
        assert counts["embedding_texts_total"] == texts
        # Only of requests that have waited for a forward pass.
        assert counts["embedding_queue_seconds_count"] == seen[200]
        assert counts["embedding_batch_requests_sum"] == seen[200]
        assert server.busy() == 0
        assert (lost, deaths) == (16, 8)
        directory = server.metrics_directory()
        assert sorted(path.name for path in directory.iterdir()) == files
    assert not directory.exists()

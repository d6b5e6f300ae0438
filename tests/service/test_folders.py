"""Where the service puts its files. Those of a service that was killed are removed."""

import os
import signal

from tests.support.server import Server, is_alive, wait_until


def test_the_start_after_a_killed_master_removes_its_metrics(tmp_path):
    environment = {"WEB_CONCURRENCY": "1"}
    command = ["gunicorn", "tests.support.slow_wsgi:app"]
    with Server(environment, tmp_path, command) as server:
        left = server.metrics_directory()
        workers = server.workers()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)))
    assert left.exists()
    with Server(environment, tmp_path, command) as server:
        assert not left.exists()
        own = server.metrics_directory()
        assert own.exists()
    assert not own.exists()

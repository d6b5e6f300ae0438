"""No option of Gunicorn's is silently ignored."""

import pytest

from tests.support.server import Server


@pytest.mark.parametrize(("arguments", "reason"), [(["--threads", "4"], "--threads"), (["--reload"], "--reload")])
def test_the_service_does_not_start_with_them(tmp_path, arguments, reason):
    command = ["gunicorn", *arguments, "tests.support.slow_wsgi:app"]
    with (
        pytest.raises(RuntimeError, match=f"Error: {reason} makes no sense"),
        Server({}, tmp_path, command),
    ):
        pass


def test_another_worker_has_its_own_options(tmp_path):
    command = ["gunicorn", "-k", "gthread", "--threads", "2", "tests.support.slow_wsgi:app"]
    with Server({"WEB_CONCURRENCY": "1"}, tmp_path, command) as server:
        assert server.embed("a").status == 200

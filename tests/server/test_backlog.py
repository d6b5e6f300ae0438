import os
import socket
from types import SimpleNamespace

import pytest

from embedding_api.server.backlog import backlog


@pytest.fixture(params=["TCP over IPv4", "TCP over IPv6", "unix", "unix, without a path"])
def listener(request, tmp_path):
    kind = request.param
    if kind.startswith("unix"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket") if kind == "unix" else f"\0embedding-{os.getpid()}")
        listener.listen(50)
    else:
        family, host = (socket.AF_INET6, "::1") if kind.endswith("6") else (socket.AF_INET, "127.0.0.1")
        try:
            listener = socket.create_server((host, 0), family=family, backlog=50)
        except OSError:
            pytest.skip("the machine has no IPv6")
    with listener:
        yield listener


def test_it_grows_with_each_connection_and_shrinks_with_each_that_is_accepted(listener):
    clients = []
    for count in range(20):
        assert backlog(listener) == count
        clients.append(socket.socket(listener.family))
        clients[-1].connect(listener.getsockname())
    for count in range(20, 0, -1):
        assert backlog(listener) == count
        listener.accept()[0].close()
    assert backlog(listener) == 0
    for client in clients:
        client.close()


def test_a_forked_process_sees_the_same(listener):
    with socket.socket(listener.family) as client:
        client.connect(listener.getsockname())
        if not (child := os.fork()):
            os._exit(backlog(listener))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_no_descriptor_is_left_behind(listener):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        backlog(listener)
    # Others, of earlier tests, may be closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before


def test_where_the_system_does_not_tell_it_counts_as_empty(monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    assert backlog(SimpleNamespace(family=socket.AF_INET, getsockopt=refuse)) == 0
    monkeypatch.setattr("socket.socket", refuse)
    assert backlog(SimpleNamespace(family=socket.AF_UNIX, fileno=lambda: 0)) == 0

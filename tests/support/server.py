"""Start the real Gunicorn for a test, talk to it, and stop it again."""

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """The service on a free port of 127.0.0.1, or where BIND says, for a `with` statement.

    Args:
        environment: variables on top of this process's own.
        directory: where its log goes.
        command: what serves, "gunicorn" or "python" or the path of another program, and its arguments.
        cwd: where it is called.
    """

    port = path = None

    def __init__(self, environment, directory, command=("gunicorn", "wsgi:app"), cwd=ROOT):
        self._log = Path(directory) / "log"
        self._cwd = cwd
        program, *arguments = command
        self._command = [Path(sys.executable).parent / program, *arguments]
        self._environment = os.environ | {"BIND": "127.0.0.1:0", "PYTHONUNBUFFERED": "1"} | environment

    def __enter__(self):
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        deadline = time.monotonic() + START_SECONDS
        while not (listening := re.search(r"Listening at: (?:http://127.0.0.1:(\d+)|unix:(\S+))", self.log())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"The server did not start:\n{self.log()}")
            time.sleep(0.05)
        if listening[1]:
            self.port = int(listening[1])
            self.url = f"http://127.0.0.1:{self.port}"
        else:
            self.path = listening[2]
        self.get("/health")
        return self

    def __exit__(self, *error):
        if is_alive(self.pid):
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.wait(30)
        except AssertionError:
            for pid in [*self.workers(), self.pid]:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def adopt(self, master):
        """Use another process as the master: the one that the first master has started."""
        self.pid = master

    def wait(self, seconds):
        """Wait for the master's end."""
        wait_until(lambda: self._process.poll() is not None and not is_alive(self.pid), seconds)

    def log(self):
        return self._log.read_text()

    def workers(self):
        """The process ids of the workers."""
        return sorted(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    def metrics_directory(self):
        """The directory of the workers' metrics."""
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        return Path(re.search(r"\S+/embedding-metrics-\S+?(?=/)", maps)[0])

    def memory(self):
        """The proportional set size of the master and all workers together, in MB."""
        return sum(map(pss, (self.pid, *self.workers())))

    def request(self, method, path, body=None, timeout=300, **headers):
        """The reply to a request on a connection of its own; an underscore in a header's name is a hyphen."""
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = self.connect(timeout=timeout)
        headers = {"Connection": "close"} | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def metrics(self):
        """The values of /metrics, as `figures` returns them."""
        return figures(self.get("/metrics").body.decode())

    def started(self):
        """How many workers have started since the start of the service; a worker that is booting does not count."""
        return self.metrics()["embedding_workers_started_total"]

    def busy(self):
        """How many requests are in progress, without the one that asks for this number."""
        return self.metrics()["embedding_requests_in_progress"] - 1

    def connect(self, data=b"", timeout=60):
        """A connection to the server, on which `data` has been sent."""
        connection = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        connection.settimeout(timeout)
        try:
            connection.connect(self.path or ("127.0.0.1", self.port))
            connection.sendall(data)
        except OSError:
            connection.close()
            raise
        return connection

    def client(self, data=b""):
        """A `Client` that has sent `data`."""
        return Client(self.connect(data))

    def embed(self, texts, timeout=300, **fields):
        """POST /embed, and its reply."""
        return self.post("/embed", {"texts": texts, **fields}, timeout)

    def post(self, path, fields, timeout=300):
        """POST fields as JSON, and the reply; `timeout` is in seconds."""
        return self.request("POST", path, json.dumps(fields).encode(), timeout, Content_Type="application/json")

    def raw(self, data, half_close=False):
        """Send bytes as they are; the first reply that comes back."""
        with self.client(data) as client:
            if half_close:
                client.socket.shutdown(socket.SHUT_WR)
            reply = client.reply(is_head=data.startswith(b"HEAD"))
        if reply is None:
            raise ConnectionResetError("The connection was closed before a reply.")
        return reply


class Client:
    """A connection that is kept open, for a `with` statement: sends on it, and reads the replies in turn."""

    def __init__(self, connection):
        self.socket = connection
        self._file = connection.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self, is_head=False):
        """The next reply; None if the connection closes before it."""
        lines = []
        while line := self._file.readline().rstrip(b"\r\n"):
            lines.append(line)
        if not lines:
            return None
        reply = parse(b"\r\n".join(lines) + b"\r\n\r\n")
        if not is_head:
            reply.body = self._file.read(int(reply.headers.get("Content-Length", 0)))
        return reply

    def ask(self, data):
        """Send a request; its reply."""
        self.send(data)
        return self.reply(is_head=data.startswith(b"HEAD"))

    def has_reply(self):
        """Whether a part of a reply has come, or the end of the connection."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def is_closed(self):
        """Whether the server has closed the connection."""
        if not self.has_reply():
            return False
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            return True

    def rest(self):
        """The bytes that come until the connection closes."""
        return self._file.read()


def is_alive(pid):
    """Whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    """Wait until a condition holds. Fails if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def pss(pid):
    """The proportional set size of a process in MB: its pages, shared ones for their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def figures(text):
    """The values in a text of /metrics, by name with labels, such as 'embedding_errors_total{code="x"}'."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def post(body, *headers, path="/embed", content_type="application/json"):
    """The bytes of a POST request. The caller gives its length in a header."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path, *headers):
    """The bytes of a GET request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "\r\n"]).encode()


def embed_request(texts, *headers):
    """The bytes of a whole POST /embed."""
    body = json.dumps({"texts": texts}).encode()
    return post(body, f"Content-Length: {len(body)}", *headers)


def read(connection):
    """All bytes that come until the connection closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def parse(answer):
    """A reply from all bytes of an HTTP response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Reply(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)

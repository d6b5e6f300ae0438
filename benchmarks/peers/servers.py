"""The servers that are compared: how each is started, and what API it speaks.

Each is started as its own documentation says, with its defaults, for all cores that this process may use.
"""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.load import LoadError, embed_fields
from embedding_api.encoder.compute_threads import usable_cores
from embedding_api.encoder.model_files import DEFAULT_MODEL
from tests.support.nginx import free_port
from tests.support.server import ROOT, Reply, pss

BENCH, APPS = ROOT / ".bench", ROOT / "benchmarks/peers"
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
OWN = "this service"  # what the names of its rows begin with
OURS = f"{OWN}, float32"
NAIVE, NAIVE_TUNED = "naive: Flask and sentence-transformers", "naive, a thread a worker"
START_SECONDS = 180
STOP_SECONDS = 30


@dataclass(frozen=True)
class Api:
    """How texts are sent, and where the vectors are in the answer."""

    path: str
    fields: Callable
    vectors: Callable


EMBED = Api("/embed", embed_fields, lambda answer: answer["embeddings"])


def openai(model, path="/v1/embeddings"):
    """OpenAI's API, which most servers have."""
    return Api(
        path,
        lambda texts: {"input": texts, "model": model},
        lambda answer: [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])],
    )


@dataclass(frozen=True)
class Peer:
    """A server that can be compared.

    Attributes:
        name: as the tables have it.
        api: its `Api`.
        command: what starts it, where "{port}" is its port; empty if it runs already.
        environment, directory: in which it is started.
        packages: what of its environment decides about its speed, with versions.
        url: where it runs already.
        bulk_clients: the most clients with large requests beside which a short query is measured. Other servers than
            this service let the query wait for all of them.
    """

    name: str
    api: Api
    command: tuple = ()
    environment: dict = field(default_factory=dict)
    directory: Path = BENCH
    packages: str = ""
    url: str | None = None
    bulk_clients: int = 2


def peers(model, onnx):
    """Those that `make bench` has installed.

    Args:
        model: the model's directory.
        onnx: a directory with the same model, exported to ONNX, in one of its own for each server that wants it.
    """
    cores = str(usable_cores())
    plain = "-w", cores, "-b", "127.0.0.1:{port}", "--timeout", "600", "--chdir", APPS
    infinity = BENCH / "infinity/bin/python", APPS / "infinity.py", "v2", "--host", "127.0.0.1", "--port", "{port}"
    infinity += "--url-prefix", "/v1", "--device", "cpu", "--served-model-name", "model"
    torch = "torch sentence-transformers"
    web = "flask gunicorn"
    return [
        ours(OURS, model, ROOT, packages=_versions(f"{torch} {web}")),
        ours(f"{OWN}, bfloat16", model, ROOT, "bfloat16"),
        Peer(
            NAIVE,
            EMBED,
            (BENCH / "naive/bin/gunicorn", "--preload", *plain, "naive:app"),
            OFFLINE | {"MODEL": str(model)},
            packages=_versions(f"{torch} {web}", "naive"),
        ),
        Peer(
            NAIVE_TUNED,
            EMBED,
            (BENCH / "naive/bin/gunicorn", "--preload", *plain, "naive:app"),
            OFFLINE | {"MODEL": str(model), "OMP_NUM_THREADS": "1"},
        ),
        Peer(
            "fastembed, a worker of all cores",
            EMBED,
            (BENCH / "fastembed/bin/gunicorn", *plain, "-w", "1", "fastembed_app:app"),
            OFFLINE | {"MODEL": str(onnx / "fastembed"), "THREADS": cores},
            packages=_versions("fastembed onnxruntime", "fastembed"),
        ),
        Peer(
            "fastembed, a worker a core",
            EMBED,
            (BENCH / "fastembed/bin/gunicorn", *plain, "fastembed_app:app"),
            OFFLINE | {"MODEL": str(onnx / "fastembed"), "THREADS": "1"},
        ),
        Peer(
            "Infinity, torch",
            openai("model"),
            (*infinity, "--engine", "torch", "--model-id", model),
            OFFLINE,
            packages=_versions(f"infinity-emb {torch}", "infinity"),
        ),
        Peer(
            "Infinity, onnxruntime",
            openai("model"),
            # Of a directory it takes only the one that it is started in. Its optimized model goes to its cache.
            (*infinity, "--engine", "optimum", "--model-id", "."),
            OFFLINE | {"HF_HOME": str(onnx / "infinity-cache")},
            onnx / "infinity",
            packages=_versions("optimum onnxruntime", "infinity"),
        ),
    ]


def ours(name, model, directory, dtype="float32", packages=""):
    """This service, or another version of it, in the directory of its checkout."""
    command = Path(sys.executable).with_name("gunicorn"), "-b", "127.0.0.1:{port}", "wsgi:app"
    settings = {"EMBEDDING_MODEL": str(model), "EMBEDDING_MODEL_NAME": DEFAULT_MODEL, "EMBEDDING_DTYPE": dtype}
    return Peer(name, EMBED, command, settings, Path(directory), packages, bulk_clients=12)


def checkout(directory, model):
    """This service as it was, in the directory of a checkout; it runs in this one's environment."""
    git = "git", "-C", directory, "rev-parse", "--short", "HEAD"
    revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return ours(f"{OWN}, {revision}", model, directory)


def command(given):
    """Any server with this service's API, from NAME=COMMAND."""
    name, _, parts = given.partition("=")
    return Peer(name, EMBED, tuple(shlex.split(parts)), bulk_clients=12)


def tei(binary, model):
    """text-embeddings-inference, from the path of its program."""
    command = (binary, "--model-id", str(model), "--hostname", "127.0.0.1", "--port", "{port}", "--auto-truncate")
    return Peer("TEI", openai("model"), command, OFFLINE)


def _versions(names, environment=None):
    """Versions of packages in an environment under .bench/, or in this one."""
    python = BENCH / environment / "bin/python" if environment else sys.executable
    script = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    return subprocess.run(
        [python, "-c", script, *names.split()], capture_output=True, text=True, check=True
    ).stdout.strip()


class Running:
    """A peer that runs, for a `with` statement.

    Args:
        log: a file for what it prints.

    Attributes:
        seconds: from its start to its first vector; None if it has been running before.
    """

    def __init__(self, peer, log):
        self.peer, self.url, self.seconds = peer, peer.url, None
        self._log, self._process = Path(log), None

    def __enter__(self):
        if not self.peer.command:
            return self
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [str(part).replace("{port}", str(port)) for part in self.peer.command]
        # Variables that are set for this process, or by it, are not meant for the servers, except for paths.
        ours = "EMBEDDING_|GUNICORN_|INFINITY_|WEB_CONCURRENCY|(OMP|GOMP|KMP|MKL|MALLOC|RAYON|TOKENIZERS|OPENBLAS)_"
        environment = {name: value for name, value in os.environ.items() if not re.match(ours, name)}
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.peer.directory,
                env=environment | self.peer.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() - began > START_SECONDS:
                    raise LoadError(f"It did not start: {self._log.read_text()[-300:]}")
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        self.seconds = time.monotonic() - began
        return self

    def __exit__(self, *error):
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # A server without a master process leaves processes behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _answers(self):
        try:
            return self.embed(["hello"]).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def embed(self, texts, timeout=300):
        """The `Reply` to a request for the vectors of these texts."""
        body = json.dumps(self.peer.api.fields(texts)).encode()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        with contextlib.closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)) as connection:
            connection.request("POST", self.peer.api.path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())

    def vectors(self, texts):
        """The vectors of these texts, as lists."""
        reply = self.embed(texts)
        if reply.status != 200:
            raise LoadError(f"It answered {reply.status}: {reply.body[:300]!r}")
        return self.peer.api.vectors(reply.json)

    def memory(self):
        """The proportional set size of all its processes together, in MB; None if it has been running before."""
        return sum(map(pss, self._tree())) if self._process else None

    def _tree(self):
        found = [self._process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task").glob("*/children")
            found.extend(int(child) for path in children for child in path.read_text().split())
        return found

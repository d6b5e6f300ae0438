"""Encode on a Ray cluster: Ray Data streams texts to a pool of actors that hold the model, and brings back vectors."""

import logging
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import WindowStats, finished

# Set before ray is imported: otherwise it sends usage statistics to its makers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Otherwise this process prints lines for Ray's developers.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

try:
    import ray
    import ray.data
    import ray.exceptions
    from ray.data.block import BlockMetadata
except ImportError as error:
    raise BulkError("Ray is not installed: 'pip install -r requirements-ray.txt', here and on the cluster.") from error

import embedding_api
from embedding_api.encoder.compute_threads import ComputeThreads
from embedding_api.encoder.loading import load_encoder

_CONNECT_SECONDS = 10
# The texts of a window that an actor gets at once: seconds of work.
_PIECE_TEXTS = 128


def encode(windows, progress, *, inputs, output, dimension, address, settings, workers, is_query, normalize):
    """Encode windows on a cluster. Arguments and results are as those of `pool.encode`, but windows come in any order.

    A task on this machine reads the windows a second time and sends their texts to the actors, so that other machines
    need no access to the input. If a machine dies, another one computes what it has not delivered.

    Args:
        inputs: the `Inputs` of the windows.
        output: the `Path` of the run's output; windows that have their part are not sent.
        dimension: the length of a vector.
        address: of a cluster; None for the one that RAY_ADDRESS names or that runs on this machine, else for a new one.
        workers: actors, each on one core; None for as many as there are cores.

    Raises:
        BulkError: there is no such cluster, it fails, or the input changes meanwhile.
    """
    if settings.model and Path(settings.model).is_dir():
        # Actors have another working directory.
        settings = replace(settings, model=str(Path(settings.model).absolute()))
    with _connected(address):
        texts = ray.data.read_datasource(
            _Texts(inputs, finished(output)),
            num_cpus=0,  # otherwise it waits for a core, and the actors have all of them
            override_num_blocks=1,
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        )
        vectors = texts.map_batches(
            _Actor,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(settings, is_query, normalize),
            num_cpus=1,
            concurrency=workers or int(ray.cluster_resources()["CPU"]),
        )
        try:
            yield from _windows(windows, vectors.iter_rows(), progress, dimension)
        except ray.exceptions.RayError as error:
            # The last line names the error that was raised on the cluster.
            reason = str(error).strip().splitlines()[-1]
            raise BulkError(f"The Ray cluster has failed ({reason}).") from error


@contextmanager
def _connected(address):
    package = os.path.dirname(embedding_api.__file__)
    try:
        if host_and_port := re.fullmatch(r"(.+):(\d+)", address or ""):
            # Ray itself would retry for minutes.
            socket.create_connection(host_and_port.groups(), timeout=_CONNECT_SECONDS).close()
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [package]},
        )
    except (OSError, ValueError) as error:
        raise BulkError(f"There is no Ray cluster at {address}: start it, or name another one.") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # In bytes: each piece is a block, which goes to the next free actor and does not wait for others.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


class _Texts(ray.data.Datasource):
    """The texts of windows, in pieces of texts of similar length. For Ray Data each piece is a row, and a block."""

    def __init__(self, inputs, done):
        super().__init__()
        self._inputs, self._done = inputs, done

    def estimate_inmemory_data_size(self):
        return None

    def get_read_tasks(self, parallelism, *args, **kwargs):
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(self._pieces, unknown)]

    def _pieces(self):
        try:
            for window in self._inputs.windows():
                if window.index not in self._done:
                    yield from _pieces(window)
        except BulkError:
            # The process that writes the vectors reads the same input, and reports the error.
            return


def _pieces(window):
    rows = sorted(window.with_text, key=lambda row: len(window.texts[row]), reverse=True)
    for start in range(0, len(rows), _PIECE_TEXTS):
        piece = rows[start : start + _PIECE_TEXTS]
        texts = [window.texts[row] for row in piece]
        of_window = {"window": [window.index], "digest": [window.digest]}
        yield pa.table(of_window | {"rows": [piece], "texts": [texts]})


class _Actor:
    """The model in a process of its own."""

    def __init__(self, settings, is_query, normalize):
        self._encoder = load_encoder(settings)
        # One thread: the other cores of the machine have their own actors.
        self._encoder.run_in_worker(threads=ComputeThreads(1))
        self._is_query, self._normalize = is_query, normalize

    def __call__(self, piece):
        [texts] = piece.column("texts").to_pylist()
        tokenized = self._encoder.tokenize(texts, is_query=self._is_query)
        vectors = self._encoder.encode(tokenized.ids, normalize=self._normalize)
        same = {name: piece.column(name) for name in ("window", "digest", "rows")}
        done = {"tokens": [tokenized.count], "truncated": [len(tokenized.truncated)], "vectors": [vectors.tobytes()]}
        return pa.table(same | done)


def _windows(windows, pieces, progress, dimension):
    """Put windows together from pieces, which come in any order."""
    jobs = {}
    to_come = (_Job(window, dimension) for window in windows)
    for piece in pieces:
        while piece["window"] not in jobs:
            job = next(to_come, None)
            if job is None:
                raise _changed()
            jobs[job.window.index] = job
        jobs[piece["window"]].add(piece, progress)
        for index in [index for index, job in jobs.items() if not job.missing]:
            yield jobs.pop(index).done(progress)
    # What is left are windows without any text, which have no pieces.
    for job in to_come:
        if job.missing:
            raise _changed()
        yield job.done(progress)
    if jobs:
        raise _changed()


def _changed():
    return BulkError("The input has changed while it was read: start again to go on.")


class _Job:
    """A window, and those of its vectors that have come back."""

    def __init__(self, window, dimension):
        self.window = window
        self._totals = WindowStats(rows=len(window.texts), without_text=len(window.texts) - len(window.with_text))
        self._vectors = np.full((len(window.texts), dimension), np.nan, dtype=np.float32)
        self.missing = len(window.with_text)

    def add(self, piece, progress):
        if piece["digest"] != self.window.digest:
            raise _changed()
        rows = piece["rows"]
        self._vectors[rows] = np.frombuffer(piece["vectors"], dtype=np.float32).reshape(len(rows), -1)
        self._totals += WindowStats(tokens=piece["tokens"], truncated=piece["truncated"])
        self.missing -= len(rows)
        progress.advance(len(rows), piece["tokens"])

    def done(self, progress):
        progress.read(self.window, self._totals.tokens)
        return self.window, self._vectors, self._totals

"""The bulk command on a Ray cluster: a real one of two nodes, on this machine."""

import json
import logging

import numpy as np
import pyarrow.parquet
import pytest

from embedding_api.bulk import BulkError, ray_cluster, run
from embedding_api.bulk.inputs import Inputs
from embedding_api.config import Settings

# Ray leaves files and sockets open, and uses what Python deprecates.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HOW = {"is_query": False, "normalize": True}


@pytest.fixture
def nodes():
    from ray.cluster_utils import Cluster

    # A node that is gone is found out within seconds.
    often = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": often})
    yield nodes
    nodes.shutdown()
    logging.getLogger("ray").handlers.clear()


def test_no_row_is_lost_or_doubled_when_a_node_dies(nodes, encoder, model, documents, tmp_path):
    other = nodes.add_node(num_cpus=1)
    output = tmp_path / "out.parquet"
    documents = [document[:300] for document in documents[:72]]
    texts = [*documents, *[""] * 24, *documents]  # one window is without any text
    for start in range(0, len(texts), 16):  # files, and so windows, of a few rows
        rows = [{"id": id, "text": texts[id]} for id in range(start, min(start + 16, len(texts)))]
        (tmp_path / f"{start:03}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = Inputs([f"{tmp_path}/*.jsonl"])
    settings = Settings(model=str(model.directory), model_name=model.name)
    seen = []

    def encode(windows, progress):
        options = {"address": nodes.address, "settings": settings, "workers": None, **HOW}
        options |= {"dimension": encoder.dimension}
        for result in ray_cluster.encode(windows, progress, inputs=inputs, output=output, **options):
            seen.append(result[0].index)
            if len(seen) == 2:
                nodes.remove_node(other, allow_graceful=False)
            yield result

    description = run.description(encoder, model.directory, column="text", dtype="float32", **HOW)
    run.embed(inputs, output, description, encode, strict=False, echo=print)

    assert sorted(seen) == list(range(11))
    table = pyarrow.parquet.read_table(output)
    assert table.column("id").to_pylist() == list(range(len(texts)))
    vectors = table.column("embedding").to_pylist()
    assert vectors[72:96] == [None] * 24
    del vectors[72:96]
    expected = encoder.encode(encoder.tokenize(documents).ids)
    assert np.abs(np.array(vectors) - np.concatenate([expected, expected])).max() <= 2e-6


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_a_missing_cluster_is_reported(tmp_path, address):
    options = {"settings": Settings(), "workers": None, "inputs": None, "output": tmp_path / "out.npy", **HOW}
    with pytest.raises(BulkError, match=f"There is no Ray cluster at {address}"):
        next(ray_cluster.encode([], None, address=address, dimension=1, **options))


@pytest.mark.parametrize("change", ["other", "more", "fewer"])
def test_an_input_that_changes_between_the_two_readings_is_reported(window, progress, change):
    first, second = window(["a"]), window(["b"], index=1)
    read_here = {"other": [window(["x"])], "more": [first, second], "fewer": []}[change]
    [piece] = [table.to_pylist()[0] for table in ray_cluster._pieces(first)]
    piece |= {"tokens": 3, "truncated": 0, "vectors": np.ones(2, dtype=np.float32).tobytes()}
    with pytest.raises(BulkError, match="has changed while it was read"):
        list(ray_cluster._windows(read_here, [piece], progress, 2))


def test_an_error_on_the_cluster_is_reported(tmp_path, progress):
    (tmp_path / "a.txt").write_text("text")
    inputs = Inputs([f"{tmp_path}/a.txt"])
    options = {"settings": Settings(model="/missing"), "workers": 1, "output": tmp_path / "out.npy", **HOW}
    with pytest.raises(BulkError, match=r"The Ray cluster has failed .*EMBEDDING_MODEL='/missing'"):
        list(ray_cluster.encode(inputs.windows(), progress, inputs=inputs, address="local", dimension=1, **options))

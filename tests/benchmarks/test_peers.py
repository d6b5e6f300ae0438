"""The report of the benchmark against other servers: which servers get no figures, and why."""

from itertools import chain

import numpy as np
import pytest

from benchmarks.load import LoadError
from benchmarks.peers import report
from benchmarks.peers.__main__ import running_already
from benchmarks.peers.cases import CASES, TABLES, Results, _lowest_cosine, rounds
from benchmarks.peers.servers import NAIVE, NAIVE_TUNED, OURS, Api, command, openai

CASE, *OTHERS = chain.from_iterable(TABLES)


@pytest.fixture
def results():
    results = Results([OURS, NAIVE, NAIVE_TUNED, "other"])
    for name, rate in ((OURS, 30.0), (NAIVE, 10.0), (NAIVE_TUNED, 5.0), ("other", 20.0)):
        for case in CASES:
            for factor in (0.5, 1, 3):
                results.measure(name, case, lambda: rate * factor)  # noqa: B023
    return results


def cells(results, name):
    lines = [line for cases in TABLES for line in report.rates(results, cases).splitlines()]
    own = [line for line in lines if line.startswith(f"| {name} ")]
    return [cell.strip() for line in own for cell in line.split("|")[2:-1]]


def test_medians_and_how_many_times_the_naive_app(results):
    assert cells(results, OURS) == ["30 (15 to 90), 3.00x"] * len(CASES)
    assert cells(results, "**float32 beside the best of the others**") == ["1.50x (other)"] * len(CASES)


def test_of_the_naive_apps_the_better_one_counts_in_each_case(results):
    for rate in (15.0, 20.0, 25.0):
        results[NAIVE_TUNED][CASE] = [*results[NAIVE_TUNED][CASE], rate]
    assert cells(results, OURS) == ["30 (15 to 90), 2.00x"] + ["30 (15 to 90), 3.00x"] * len(OTHERS)


def test_an_error_makes_a_server_void(results):
    results.measure("other", CASE, lambda: float("nan"))
    assert cells(results, "other") == ["errors"] * len(CASES)
    assert cells(results, "**float32 beside the best of the others**")[0] == f"3.00x ({NAIVE.partition(':')[0]})"


@pytest.mark.parametrize(("what", "told"), [("cosine", "wrong vectors"), ("seconds", "did not start")])
def test_wrong_vectors_and_a_failed_start_make_a_server_void(results, what, told):
    def fail():
        raise LoadError("no")

    results.measure("other", what, fail)
    assert cells(results, "other") == [told] * len(CASES)


def test_a_server_that_runs_is_asked_at_its_own_path():
    peer = running_already("http://127.0.0.1:8080/v1/", "model")
    assert (peer.url, peer.api.path) == ("http://127.0.0.1:8080", "/v1/embeddings")


def test_a_command_has_a_name():
    peer = command("mine=env CLOSE=1 serve 'a b' {port}")
    assert (peer.name, peer.command) == ("mine", ("env", "CLOSE=1", "serve", "a b", "{port}"))


def test_a_query_beside_large_requests():
    results = Results([OURS, "other"])
    for p50 in (0.004, 0.005, 0.2):
        results.measure(OURS, "alone", lambda: (p50, 2 * p50))  # noqa: B023
        beside = {"short": (p50, 2 * p50), "rate": 10 * p50, "sent": 7, "refused": 1}
        results.measure(OURS, "beside 2", lambda: beside)  # noqa: B023
    [own, other] = report.beside(results).splitlines()[-2:]
    assert own == f"| {OURS} | 5.0 | 10.0 | 5.0 | 10.0 | 21 | 0.05 | 3 |  |  |  |  |  |"
    assert other == "| other |" + "  |" * 12


def test_each_vector_is_held_against_its_own():
    expected = np.eye(3)[[0, 1, 2, 0]]
    assert _lowest_cosine(5 * expected, expected) == 1
    with pytest.raises(LoadError, match="Wrong vectors"):
        _lowest_cosine(expected[::-1], expected)


def test_each_server_is_first_in_turn():
    assert list(rounds(["a", "b", "c"], 2)) == ["a", "b", "c", "b", "c", "a"]


def test_vectors_of_openais_api_are_put_in_order():
    api: Api = openai("model")
    assert api.fields(["a", "b"]) == {"input": ["a", "b"], "model": "model"}
    assert api.vectors({"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]}) == [[1], [2]]

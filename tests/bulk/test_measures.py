import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from embedding_api.bulk.collection import Collection
from embedding_api.bulk.measures import DEPTH, measure, p_value, rank


def test_measures():
    documents = {str(number): f"text {number}" for number in range(150)}
    judgements = {"a": {"0": 1}, "b": {"2": 1, "149": 1}, "c": {"20": 1}}
    collection = Collection(documents, dict.fromkeys("abc", "text"), judgements)
    # The documents in their order, for every query.
    vectors = np.linspace(1, 0, 150, dtype=np.float32)[:, None]
    rankings = rank(collection, vectors, np.ones((3, 1), dtype=np.float32))
    ndcg, mrr, recall = measure(collection, rankings).mean(axis=0)
    of_b = (1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert ndcg == pytest.approx((1 + of_b + 0) / 3)
    assert mrr == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert recall == pytest.approx((1 + 1 / 2 + 1) / 3)


ids = st.sampled_from([*map(str, range(150)), *"abcABÄß", "01", "1 0", "d\N{MATHEMATICAL SCRIPT CAPITAL X}"])


@given(
    st.dictionaries(ids, st.integers(0, 30), min_size=1, max_size=160),
    st.dictionaries(ids, st.dictionaries(ids, st.integers(-2, 4), min_size=1, max_size=12), min_size=1, max_size=3),
)
def test_figures_are_those_of_pytrec_eval_for_the_same_run(scores, judgements):
    """Scores of few values, so that many are equal."""
    queries = sorted(judgements)
    collection = Collection({id: id for id in scores}, dict.fromkeys(queries, "text"), judgements)
    vectors = np.array([[score / 7, 1] for score in scores.values()], dtype=np.float32)
    of_queries = np.array([[1, 0] if place % 2 else [-1, 3] for place in range(len(queries))], dtype=np.float32)
    products = of_queries @ vectors.T
    run = {query: dict(zip(scores, map(float, row), strict=True)) for query, row in zip(queries, products, strict=True)}
    # It crashes on some grades below 0, which trec_eval counts as 0.
    graded = {query: {id: max(grade, 0) for id, grade in judged.items()} for query, judged in judgements.items()}
    theirs = pytrec_eval.RelevanceEvaluator(graded, {"ndcg_cut_10", "recip_rank", "recall_100"}).evaluate(run)
    rankings = list(rank(collection, vectors, of_queries))
    ours = measure(collection, rankings)
    for query, figures, ranking in zip(queries, ours, rankings, strict=True):
        # Theirs looks at the whole ranking.
        reciprocal = theirs[query]["recip_rank"] if theirs[query]["recip_rank"] >= 1 / 10 else 0
        assert figures == pytest.approx([theirs[query]["ndcg_cut_10"], reciprocal, theirs[query]["recall_100"]])
        assert len(ranking) == min(DEPTH, len(scores))


def test_equal_texts_have_equal_scores_and_one_order():
    texts = {str(number): "equal" for number in range(10)}
    judgements = {"q": {"7": 1}}
    collection = Collection(texts, {"q": "text"}, judgements)
    # As if rounding had made them differ.
    vectors = np.linspace(0.9, 1, 10, dtype=np.float32)[:, None]
    [ranking] = rankings = list(rank(collection, vectors, np.ones((1, 1), dtype=np.float32)))
    assert ranking == list("9876543210")
    [[ndcg, mrr, _]] = measure(collection, rankings)
    assert (ndcg, mrr) == pytest.approx((1 / np.log2(4), 1 / 3))


@pytest.mark.parametrize(("ignore", "expected"), [(False, ["a", "b"]), (True, ["b"])])
def test_a_document_with_the_querys_own_id(ignore, expected):
    collection = Collection({"a": "one", "b": "two"}, {"a": "one", "c": "two"}, {"a": {"b": 1}, "c": {"b": 1}})
    vectors = np.array([[1], [0.5]], dtype=np.float32)
    rankings = list(rank(collection, vectors, np.ones((2, 1), dtype=np.float32), ignore_identical_ids=ignore))
    assert rankings == [expected, ["a", "b"]]


def test_chance_explains_differences_that_go_both_ways():
    chance = np.random.default_rng(0)
    noise = chance.normal(0, 1, 200)
    assert p_value(noise - noise.mean()) == 1
    assert p_value(np.zeros(20)) == 1
    assert p_value(noise + 1) == pytest.approx(1 / 10_001)
    assert p_value(np.array([1.0])) == 1
    # All 8 patterns of signs of three figures are equally probable, and two are as far from 0 as all of one sign.
    assert p_value(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8, abs=0.02)
    assert p_value(noise) == p_value(-noise)

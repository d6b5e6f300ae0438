"""How good a ranking is: nDCG, reciprocal rank and recall, as trec_eval computes them (https://trec.nist.gov/trec_eval)."""

import numpy as np

# The number of documents that are ranked for each query, and that nDCG and the reciprocal rank look at.
DEPTH, TOP = 100, 10
MEASURES = f"nDCG@{TOP}", f"MRR@{TOP}", f"recall@{DEPTH}"

# Scores that are computed at once, of 4 bytes.
_BLOCK = 16 * 1024 * 1024
# Sign patterns of the randomization test; those at once.
_PATTERNS, _PATTERNS_AT_ONCE = 10_000, 500


def rank(collection, documents, queries, ignore_identical_ids=False):
    """The ids of the documents with the highest dot products, for each query, the best first.

    Documents of one text have one score, and equal scores are ordered as trec_eval orders them: by id, downwards.

    Args:
        collection: a `Collection`.
        documents: the documents' vectors, of shape (documents, dimension).
        queries: the queries', of shape (queries, dimension).
        ignore_identical_ids: whether a document with the query's own id is left out.

    Yields:
        a list of at most DEPTH ids.
    """
    ids, first = list(collection.documents), {}
    # A product of matrices may round the same vector's product differently in another place.
    same = [first.setdefault(text, index) for index, text in enumerate(collection.documents.values())]
    place = np.empty(len(ids), dtype=int)
    place[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = range(len(ids))
    index_of = {id: index for index, id in enumerate(ids)} if ignore_identical_ids else {}
    names, at_once = list(collection.queries), max(1, _BLOCK // len(ids))
    most = min(DEPTH, len(ids))
    for start in range(0, len(names), at_once):
        block = (queries[start : start + at_once] @ documents.T)[:, same]
        for name, scores in zip(names[start : start + at_once], block, strict=True):
            if name in index_of:
                scores[index_of[name]] = -np.inf
            # All that are as good as the last one, of which the order then says which are left out.
            best = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
            best = best[np.lexsort((place[best], -scores[best]))][:most]
            yield [ids[index] for index in best if scores[index] > -np.inf]


def measure(collection, rankings):
    """The measures of each query's ranking: an array of shape (queries, measures), each from 0 to 1.

    Args:
        rankings: ids of documents for each query, the best first, such as `rank` yields.
    """
    judgements = (collection.judgements[query] for query in collection.queries)
    return np.array([_of_query(*each) for each in zip(judgements, rankings, strict=True)])


def _of_query(judged, ranking):
    gains = [max(judged.get(document, 0), 0) for document in ranking]
    ideal = sorted((max(grade, 0) for grade in judged.values()), reverse=True)
    relevant = sum(gain > 0 for gain in ideal)
    if not relevant:
        return 0.0, 0.0, 0.0
    reciprocal = next((1 / place for place, gain in enumerate(gains[:TOP], 1) if gain > 0), 0.0)
    return _dcg(gains) / _dcg(ideal), reciprocal, sum(gain > 0 for gain in gains) / relevant


def _dcg(gains):
    return sum(gain / np.log2(place + 1) for place, gain in enumerate(gains[:TOP], 1))


def p_value(differences):
    """How probable a mean difference at least as large is if it were chance which of two systems gets which figure.

    A two-sided paired randomization test with random signs (Smucker, Allan and Carterette, CIKM 2007), of which the
    seed is fixed, so that the same figures get the same value.

    Args:
        differences: of the systems' figures, of shape (queries,).
    """
    chance, observed, as_large = np.random.default_rng(1), abs(differences.mean()), 0
    for _ in range(_PATTERNS // _PATTERNS_AT_ONCE):
        signs = chance.integers(0, 2, (_PATTERNS_AT_ONCE, len(differences))) * 2 - 1
        # The allowance is for rounding: the pattern of the figures themselves must count.
        as_large += int((np.abs(signs @ differences) / len(differences) >= observed - 1e-12).sum())
    return (as_large + 1) / (_PATTERNS + 1)

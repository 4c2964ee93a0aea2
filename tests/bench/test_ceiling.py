"""The ceiling's numbers against a case whose ranks are counted by hand."""

import numpy as np
import pytest

from bench.ceiling import measure, ndcg


def test_ndcg_of_one_relevant_document():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.9, 0.8, 0.7]])  # ranks 1, 2, 3
    assert ndcg(scores) == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3)
    assert ndcg(-np.eye(12)) == 0  # rank 12 is beyond the tenth


def test_the_best_and_the_worst_rationale_of_each_document():
    queries = np.eye(3)
    good, bad = np.eye(3) + 0.1, np.roll(np.eye(3), 1, 0) + 0.1  # nearest to its own query, and to another
    documents = np.stack([good, bad])
    documents[:, 1] = documents[::-1, 1]  # the second document's good one is its second rationale
    found = measure(queries, documents)
    assert found["best"] == 1 and found["worst"] < found["any"] < 1
    own = (
        (good / np.linalg.norm(good, axis=1, keepdims=True))[0, 0],
        (bad / np.linalg.norm(bad, axis=1, keepdims=True))[0, 0],
    )
    assert found["within"] == pytest.approx(np.std(own, ddof=1))
    assert found["between"] == pytest.approx(0)
    assert found["alike"] == pytest.approx(float(good[0] @ bad[0] / (good[0] @ good[0])))

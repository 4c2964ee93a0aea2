"""The index finds what exact search finds."""

from __future__ import annotations

import numpy as np
import pytest

from grace.cli import index
from grace.cli.index import LISTS, VECTORS, Index, build


def vectors(count, width=32, seed=0, clusters=0):
    """Unit vectors, of no structure or around `clusters` centres."""
    draw = np.random.default_rng(seed)
    made = draw.normal(size=(count, width))
    if clusters:
        made = (
            np.random.default_rng(99).normal(size=(clusters, width))[draw.integers(clusters, size=count)] + 0.5 * made
        )
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def nearest(corpus, queries, k):
    """By float64 and a full sort."""
    cosines = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    rows = np.argsort(-cosines, axis=1)[:, :k]
    return np.take_along_axis(cosines, rows, 1), rows


def recall(found, expected):
    return np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


def test_few_vectors_are_searched_exactly(tmp_path):
    np.save(tmp_path / VECTORS, vectors(500))
    assert build(tmp_path) is None
    queries = vectors(20, seed=1)
    scores, rows = Index(tmp_path).search(queries, 10)
    expected, order = nearest(vectors(500), queries, 10)
    assert np.array_equal(rows, order) and np.allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("clusters", [0, 100])
def test_many_vectors_are_found_as_exact_search_finds_them(tmp_path, clusters):
    corpus, queries = vectors(6000, clusters=clusters), vectors(100, seed=1, clusters=clusters)
    np.save(tmp_path / VECTORS, corpus)
    told = build(tmp_path, exact=5999)
    assert not (tmp_path / VECTORS).exists()  # the index stands in for it
    there = Index(tmp_path)
    scores, rows = there.search(queries, 10)
    expected, order = nearest(corpus, queries, 10)
    assert told >= 0.99 and recall(rows, order) >= 0.97
    assert np.allclose(scores[:, 0], expected[:, 0], atol=2e-3)  # kept in 16 bits
    # Vectors of no structure need most lists, clustered ones few.
    assert (there.lists.nprobe < there.lists.nlist / 2) == bool(clusters)


def test_no_more_lists_are_looked_through_than_the_recall_needs(monkeypatch):
    corpus = vectors(4000)
    made = index.make(corpus)
    found = {}
    for wanted in (0.0, 0.5, 1.1):
        monkeypatch.setattr(index, "RECALL", wanted)
        told = index.tune(made, corpus)
        found[made.nprobe] = told
        sample = index.sample(corpus, index.SAMPLE)
        rows = made.search(sample, 11)[1]
        # What it says of itself is so; itself, which each vector finds, is left out.
        assert told == pytest.approx((11 * recall(rows, nearest(corpus, sample, 11)[1]) - 1) / 10, abs=0.01)
    assert [*found] == sorted(found) and min(found) == index.MIN_PROBES and max(found) == made.nlist
    assert found[made.nlist] > 0.995


def test_the_same_vectors_give_the_same_index(tmp_path):
    import faiss

    first, second = (faiss.serialize_index(index.make(vectors(3000))) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_smaller_index_takes_the_place_of_a_larger_one(tmp_path):
    np.save(tmp_path / VECTORS, vectors(3000))
    build(tmp_path, exact=10)
    np.save(tmp_path / VECTORS, vectors(5))
    build(tmp_path)
    assert not (tmp_path / LISTS).exists()
    there = Index(tmp_path)
    assert len(there) == 5 and there.search(vectors(1), 10)[1].shape == (1, 5)


def test_no_index_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Index(tmp_path)

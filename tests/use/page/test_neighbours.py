import numpy as np

from grace.use.page import corpus, neighbours


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_hits_are_the_best_documents_by_a_plain_loop():
    rng = np.random.default_rng(0)
    made = corpus.of({"query": f"q{i}", "positive": f"d{i}"} for i in range(40))
    known = rng.random(80) < 0.8
    every = unit(rng.normal(size=(80, 5)))
    found = neighbours.search(made, known, every[known].astype(np.float32))
    documents = [j for j in range(40, 80) if known[j]]
    for i in range(80):
        if not known[i]:
            assert found.numbers[i] == [] and found.rank[i] == 0
            continue
        order = sorted((j for j in documents if j != i), key=lambda j: -float(every[i] @ every[j]))
        assert found.numbers[i][:10] == order[:10]
        assert np.allclose(found.scores[i], [every[i] @ every[j] for j in found.numbers[i]], atol=1e-6)
        if i < 40 and known[i + 40]:
            rank = order.index(i + 40) + 1
            assert found.rank[i] == rank
            assert found.numbers[i][10:] == ([i + 40] if rank > 10 else [])
        else:
            assert found.rank[i] == 0 and len(found.numbers[i]) == 10
    ranks = [rank for rank in found.rank if rank]
    assert neighbours.shares(found) == (
        len(ranks), sum(rank == 1 for rank in ranks) / len(ranks), sum(rank <= 10 for rank in ranks) / len(ranks)
    )  # fmt: skip


def test_of_several_true_documents_the_best_counts():
    made = corpus.of([{"query": "q", "positive": "d1"}, {"query": "q", "positive": "d2"}, {"text": "d3"}])
    vectors = unit(np.array([[1, 0], [0, 1], [1, 1], [1, 0.1]], dtype=np.float32))
    found = neighbours.search(made, np.ones(4, dtype=bool), vectors)
    assert found.numbers[0] == [3, 2, 1] and found.rank[0] == 2


def test_without_queries_nothing_is_shared():
    made = corpus.of([{"text": "a"}, {"text": "b"}])
    found = neighbours.search(made, np.ones(2, dtype=bool), np.eye(2, dtype=np.float32))
    assert found.numbers == [[1], [0]] and neighbours.shares(found) == (0, 0.0, 0.0)

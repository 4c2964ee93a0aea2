"""Geometry of pairs against loops over all pairs, cases by hand, and scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import entropy

from grace.evaluation import geometry
from grace.section import UserError

RNG = np.random.default_rng(0)
VECTORS = {f"t{i}": RNG.normal(size=6) + 0.5 for i in range(23)}
QUERIES = ["t0", "t1", "t2", "t3", "t0", *(f"t{i}" for i in range(4, 13))]
POSITIVES = ["t13", "t14", "t15", "t16", "t17", "t4", *(f"t{i}" for i in range(15, 23))]


def embed(texts):
    return np.array([VECTORS[text] for text in texts], dtype=np.float32)


def unit(text):
    vector = [float(value) for value in VECTORS[text].astype(np.float32)]
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_figures_equal_loops_over_distinct_texts_and_pairs(monkeypatch, block):
    monkeypatch.setattr(geometry, "BLOCK", block)
    made = geometry.measure(QUERIES, POSITIVES, embed)
    texts = sorted({*QUERIES, *POSITIVES})
    pairs = [(unit(a), unit(b)) for a in texts for b in texts if a < b]
    assert (made["pairs"], made["texts"], made["width"]) == (len(QUERIES), len(texts), 6)
    assert len(texts) < 2 * len(QUERIES)  # some are in several pairs
    cosines = [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in pairs]
    assert made["random_pair_cosine"] == pytest.approx(sum(cosines) / len(pairs), abs=1e-12)
    near = [math.exp(-2 * squared(x, y)) for x, y in pairs]
    assert made["uniformity"] == pytest.approx(math.log(sum(near) / len(pairs)), abs=1e-12)
    each = [squared(unit(a), unit(b)) for a, b in zip(QUERIES, POSITIVES, strict=True)]
    assert made["items"]["alignment"] == pytest.approx(each, abs=1e-12)
    assert made["alignment"] == pytest.approx(sum(each) / len(each), abs=1e-12)
    matrix = np.array([unit(text) for text in texts])
    values = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix))
    assert made["effective_rank"] == pytest.approx(math.exp(entropy(values)), abs=1e-9)


def test_orthogonal_texts_by_hand():
    rows = {"a": [3, 0, 0, 0], "b": [0, 5, 0, 0], "c": [0, 0, 1, 0]}
    made = geometry.measure(["a", "c"], ["b", "c"], lambda texts: np.array([rows[t] for t in texts], dtype=np.float32))
    assert made == {
        "pairs": 2,
        "texts": 3,
        "random_pair_cosine": 0.0,
        "uniformity": pytest.approx(-4.0),  # every squared distance is 2
        "alignment": 1.0,
        "effective_rank": pytest.approx(3.0),
        "width": 4,
        "items": {"alignment": [2.0, 0.0]},
    }


def test_texts_that_all_point_one_way():
    made = geometry.measure(["a", "b"], ["c", "d"], lambda texts: np.ones((len(texts), 8), dtype=np.float16))
    expected = {"random_pair_cosine": 1.0, "uniformity": 0.0, "alignment": 0.0, "effective_rank": 1.0}
    assert {name: made[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_matrix_is_not_centred():
    """A common direction counts: without it the rank of these rows is 2, with it less, for all their third one."""
    rows = np.array([[10, 1, 0], [10, -1, 0], [10, 0, 1], [10, 0, -1]], dtype=np.float32)
    by_hand = math.exp(entropy([20, math.sqrt(2), math.sqrt(2)]))  # lengths of the columns, which are orthogonal
    assert geometry.effective_rank(rows) == pytest.approx(by_hand)
    assert geometry.effective_rank(rows - rows.mean(0)) == pytest.approx(2.0)


def test_one_text_has_no_pairs():
    made = geometry.measure(["a"], ["a"], lambda texts: np.ones((len(texts), 2), dtype=np.float32))
    assert made["random_pair_cosine"] is None and made["uniformity"] is None
    assert made["alignment"] == 0 and made["texts"] == 1


def test_pairs_are_drawn_from_the_whole_file(tmp_path):
    path = tmp_path / "rows"
    rows = [{"id": str(i), "query": f"q{i}", "positive": f"p{i}", "negatives": ["n"]} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries, positives = geometry.read_pairs([path], 20)
    assert [query[1:] for query in queries] == [positive[1:] for positive in positives]
    numbers = [int(query[1:]) for query in queries]
    assert len(set(numbers)) == 20 and max(numbers) > 50 and min(numbers) < 50
    assert geometry.read_pairs([path], 20) == (queries, positives)
    assert len(geometry.read_pairs([path], 1000)[0]) == 100


def test_rows_that_are_no_pairs_are_named(tmp_path):
    (tmp_path / "rows").write_text('{"id": "a", "query": "q", "positive": "p"}\n{"id": "b", "query": "q"}\n')
    with pytest.raises(UserError, match="rows, row 2: the field 'positive' is missing"):
        geometry.read_pairs([tmp_path / "rows"], 5)
    with pytest.raises(UserError, match="5 held-out pairs are wanted but no file is given"):
        geometry.read_pairs([], 5)

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.data import similarity
from grace.data.similarity import Index, Tfidf, distinct, nearest

WORDS = [
    "matrix",
    "vector",
    "graph",
    "edge",
    "node",
    "sparse",
    "dense",
    "solve",
    "root",
    "mean",
    "of",
    "the",
    "a",
    "and",
]


def random_texts(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(3, 12))) for _ in range(count)]
    # Rare words, as in real text.
    return [f"{text} rare{draw.integers(40)} rare{draw.integers(40)}" for text in texts]


def dense_cosines(texts: list[str]) -> np.ndarray:
    vectors = TfidfVectorizer(dtype=np.float64).fit_transform(texts).toarray()
    return vectors @ vectors.T


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_distinct_agrees_with_dense_float64(monkeypatch, threshold, chunk):
    monkeypatch.setattr(similarity, "CHUNK", chunk)
    texts = random_texts(150, 0)
    texts += [f"{text} the" for text in texts[:40]]
    cosines = dense_cosines(texts)
    kept: list[int] = []
    for at in range(len(texts)):
        if not any(cosines[at, earlier] > threshold for earlier in kept):
            kept.append(at)
    assert np.flatnonzero(distinct(texts, threshold)).tolist() == kept
    assert 0 < len(kept) < len(texts)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7])
def test_index_and_nearest_agree_with_dense_float64(monkeypatch, threshold):
    monkeypatch.setattr(similarity, "CHUNK", 16)
    texts = random_texts(120, 1)
    cosines = dense_cosines(texts)[:50, 50:]
    tfidf = Tfidf(texts)
    assert np.allclose(nearest(tfidf(texts[:50]), tfidf(texts[50:])), cosines.max(axis=1), atol=1e-5)
    left, right = Index(tfidf(texts[50:]), threshold).pairs(tfidf(texts[:50]))
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == set(
        zip(*(at.tolist() for at in np.nonzero(cosines > threshold)), strict=True)
    )


def test_known_and_new_texts_have_the_vectors_of_sklearn():
    texts = [*random_texts(30, 3), "...", "the"]
    tfidf, theirs = Tfidf(texts), TfidfVectorizer(dtype=np.float64).fit(texts)
    for some in (texts[5:], texts[:3] + ["a new one the matrix"], ["unknown"], []):
        expected = theirs.transform(some).toarray() if some else np.zeros((0, len(theirs.vocabulary_)))
        np.testing.assert_allclose(tfidf(some).toarray(), expected, atol=1e-6)


def test_texts_without_a_word_are_kept():
    assert distinct(["...", "!!!", "?"], 0.5).all()
    assert distinct(["...", "a word here", "a word here"], 0.5).tolist() == [True, True, False]


def test_threshold_one_keeps_everything_but_nothing_is_lost():
    texts = random_texts(40, 2)
    assert distinct(texts, 1.0).sum() >= 39  # float32 may put a copy a hair over 1

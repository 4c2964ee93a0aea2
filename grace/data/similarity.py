"""Exact and near duplicates of texts: normalised equality and tf-idf cosine.

Words are tf-idf's default tokens, so text written without spaces is compared as whole phrases.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from scipy import sparse
from tqdm import tqdm

CHUNK = 1024  # rows compared at a time: bounds the memory
REST = 0.75  # at 1 the look-up is cheapest, but leaves 40 times as many pairs of docstrings to compute
Flags = np.ndarray  # bool, one per text


def normal(text: str) -> str:
    """A text without differences of case, white space and Unicode composition."""
    return " ".join(composed(text).casefold().split())


def composed(text: str) -> str:
    """Text in which a letter and its accent are one character, as in most of what is read (NFC)."""
    return unicodedata.normalize("NFC", text)


class Tfidf:
    """Unit tf-idf vectors (float32) with the document frequencies of `texts`; texts without a word are zero.

    The vectors of `texts` are kept: what is compared later is mostly among them.
    """

    def __init__(self, texts: list[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        self.counter = CountVectorizer(dtype=np.float32, preprocessor=lambda text: composed(text).lower())
        self.weigher = TfidfTransformer()
        try:
            counts = self.counter.fit_transform(texts)
        except ValueError:  # not one word in all texts
            texts = ["nothing"]
            counts = self.counter.fit_transform(texts)
        counts.sort_indices()
        self.known = sparse.csr_matrix(self.weigher.fit_transform(counts))
        self.number = {text: at for at, text in enumerate(texts)}

    def __call__(self, texts: list[str]) -> sparse.csr_matrix:
        """Rows of length 1 (or 0), shape (len(texts), vocabulary)."""
        numbers = [self.number.get(text, -1) for text in texts]
        if -1 not in numbers:
            return self.known[numbers]
        return sparse.csr_matrix(self.weigher.transform(self.counter.transform(texts)))


def nearest(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Largest cosine of each row of `a` with any row of `b`: every pair is computed. Shape (rows of a,)."""
    best = np.zeros(a.shape[0], dtype=np.float32)
    if b.shape[0]:
        transposed = b.T.tocsc()
        for start in range(0, a.shape[0], CHUNK):
            # As an array: the largest of a sparse row would sort its columns first.
            best[start : start + CHUNK] = (a[start : start + CHUNK] @ transposed).toarray().max(axis=1)
    return best


class Index:
    """Finds the rows of a matrix over a cosine without computing every pair, and without missing one.

    Of each row only its rarest terms are looked up, as many as leave a rest no longer than `REST` of the threshold:
    the rest alone cannot reach it (Cauchy-Schwarz), so a pair over the threshold shares a looked-up term, and its
    cosine is at most the looked-up part's product plus the length of the rest.
    """

    def __init__(self, matrix: sparse.csr_matrix, threshold: float) -> None:
        self.full, self.threshold = matrix, threshold
        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        self.order = np.argsort(-frequency, kind="stable")  # common terms first

    def rare(self, rows: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
        """(the looked-up part of each row, the length of its rest)."""
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[self.order] = np.arange(len(self.order))
        owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        sorting = np.lexsort((rank[rows.indices], owner))
        squares = rows.data[sorting].astype(np.float64) ** 2
        total = np.concatenate([[0.0], np.cumsum(squares)])
        so_far = total[1:] - total[rows.indptr[:-1]][owner]
        in_rest = so_far <= max((REST * self.threshold) ** 2 - 1e-6, 0.0)
        kept = sorting[~in_rest]
        part = sparse.csr_matrix((rows.data[kept], (owner[~in_rest], rows.indices[kept])), shape=rows.shape)
        rest = np.sqrt(np.bincount(owner[in_rest], weights=squares[in_rest], minlength=rows.shape[0]))
        return part, rest

    def pairs(self, rows: sparse.csr_matrix, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(row of `rows`, row of the matrix) of each pair whose cosine is over the threshold."""
        part, rest = self.rare(rows)
        other = self.full if among is None else self.full[among]
        products = (part @ other.T).tocoo()
        likely = products.data > self.threshold - rest[products.row] - 1e-5
        left, right = products.row[likely], products.col[likely]
        cosine = np.asarray(rows[left].multiply(other[right]).sum(axis=1)).ravel()
        over = cosine > self.threshold
        return left[over], (right if among is None else among[right])[over]


def distinct(texts: list[str], threshold: float) -> Flags:
    """Whether each text is kept when, from the first on, those near to a kept one are left out.

    Args:
        threshold: tf-idf cosine over which two texts are one.
    """
    vectors = Tfidf(texts)(texts)
    index = Index(vectors, threshold)
    keep = np.ones(len(texts), dtype=bool)
    for start in tqdm(range(0, len(texts), CHUNK), "near duplicates", mininterval=1):
        chunk = vectors[start : start + CHUNK]
        rows, _ = index.pairs(chunk, np.flatnonzero(keep[:start]))
        keep[start + rows] = False
        inside = np.flatnonzero(keep[start : start + CHUNK])
        similar = (chunk[inside] @ chunk[inside].T).toarray() > threshold
        for at in range(len(inside)):
            if (similar[at, :at] & keep[start + inside[:at]]).any():
                keep[start + inside[at]] = False
    return keep

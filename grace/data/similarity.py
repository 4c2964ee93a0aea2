"""Copies and near duplicates of texts: equality after `normal`, and tf-idf cosine.

Words are scikit-learn's default tokens, so text written without spaces is compared as whole phrases.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from scipy import sparse
from tqdm import tqdm

CHUNK = 1024  # rows compared at a time: bounds the memory
REST = 0.75  # of the threshold; 1 makes the look-up cheapest, but leaves 40 times as many pairs to compute


def composed(text: str) -> str:
    """Text in which a letter and its accent are one character (NFC)."""
    return unicodedata.normalize("NFC", text)


def normal(text: str) -> str:
    """Text without differences of case, white space and Unicode composition."""
    return " ".join(composed(text).casefold().split())


class Tfidf:
    """Unit tf-idf vectors (float32) with the document frequencies of `texts`; texts without a word are zero.

    The vectors of `texts` are stored: most later queries are among them.
    """

    def __init__(self, texts: list[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        self.counter = CountVectorizer(dtype=np.float32, preprocessor=lambda text: composed(text).lower())
        self.transformer = TfidfTransformer()
        try:
            counts = self.counter.fit_transform(texts)
        except ValueError:  # not one word in all texts
            texts = ["nothing"]
            counts = self.counter.fit_transform(texts)
        counts.sort_indices()
        self.vectors = sparse.csr_matrix(self.transformer.fit_transform(counts))
        self.row = {text: at for at, text in enumerate(texts)}

    def __call__(self, texts: list[str]) -> sparse.csr_matrix:
        """Vectors of length 1 (or 0), shape (len(texts), vocabulary)."""
        rows = [self.row.get(text, -1) for text in texts]
        if -1 not in rows:
            return self.vectors[rows]
        return sparse.csr_matrix(self.transformer.transform(self.counter.transform(texts)))


def largest_cosines(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Largest cosine of each row of `a` with any row of `b`, over all pairs. Shape (rows of a,)."""
    largest = np.zeros(a.shape[0], dtype=np.float32)
    if b.shape[0]:
        transposed = b.T.tocsc()
        for start in range(0, a.shape[0], CHUNK):
            # Dense, since the maximum of a sparse row would sort its columns first.
            largest[start : start + CHUNK] = (a[start : start + CHUNK] @ transposed).toarray().max(axis=1)
    return largest


class CosineIndex:
    """Finds all rows of a matrix over a cosine without computing every pair.

    Only the rarest terms of a row are looked up, as many as leave a rest no longer than `REST` of the threshold. The
    rest alone cannot reach the threshold (Cauchy-Schwarz), so a pair over it shares a looked-up term, and its cosine is
    at most the product of the looked-up part plus the length of the rest.
    """

    def __init__(self, matrix: sparse.csr_matrix, threshold: float) -> None:
        self.matrix, self.threshold = matrix, threshold
        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        self.rank = np.argsort(np.argsort(-frequency, kind="stable"))  # of each term; the most common one has 0

    def pairs(self, rows: sparse.csr_matrix, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(row of `rows`, row of the matrix) of each pair whose cosine is over the threshold.

        Args:
            among: numbers of the only rows of the matrix to compare with.
        """
        rare, rest = self._rare_terms(rows)
        other = self.matrix if among is None else self.matrix[among]
        products = (rare @ other.T).tocoo()
        likely = products.data > self.threshold - rest[products.row] - 1e-5
        left, right = products.row[likely], products.col[likely]
        cosines = np.asarray(rows[left].multiply(other[right]).sum(axis=1)).ravel()
        over = cosines > self.threshold
        return left[over], (right if among is None else among[right])[over]

    def _rare_terms(self, rows: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
        """(each row's terms to look up, length of its rest)."""
        row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        order = np.lexsort((self.rank[rows.indices], row))
        squares = rows.data[order].astype(np.float64) ** 2
        total = np.concatenate([[0.0], np.cumsum(squares)])
        total_in_row = total[1:] - total[rows.indptr[:-1]][row]
        common = total_in_row <= max((REST * self.threshold) ** 2 - 1e-6, 0.0)
        chosen = order[~common]
        rare = sparse.csr_matrix((rows.data[chosen], (row[~common], rows.indices[chosen])), shape=rows.shape)
        return rare, np.sqrt(np.bincount(row[common], weights=squares[common], minlength=rows.shape[0]))


def distinct(texts: list[str], threshold: float) -> np.ndarray:
    """Which texts stay when each one is dropped that is near an earlier text that stays; bool, shape (texts,).

    Args:
        threshold: tf-idf cosine above which two texts are near duplicates.
    """
    vectors = Tfidf(texts)(texts)
    index = CosineIndex(vectors, threshold)
    keep = np.ones(len(texts), dtype=bool)
    for start in tqdm(range(0, len(texts), CHUNK), "near duplicates", mininterval=1):
        chunk = vectors[start : start + CHUNK]
        near, _ = index.pairs(chunk, np.flatnonzero(keep[:start]))
        keep[start + near] = False
        inside = np.flatnonzero(keep[start : start + CHUNK])
        similar = (chunk[inside] @ chunk[inside].T).toarray() > threshold
        for at in range(len(inside)):
            if (similar[at, :at] & keep[start + inside[:at]]).any():
                keep[start + inside[at]] = False
    return keep

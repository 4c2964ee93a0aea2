"""Nearest neighbours: exact for up to 50,000 vectors, above that by faiss in the lists nearest to the query.

Of faiss's kinds this was chosen by measurement (bench/index.py): a graph (HNSW) answers sooner than anyone needs and
takes over ten times as long to make. Vectors are kept in 16 bits: half the memory, twice as fast, the same recall.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from grace.files import writing

EXACT = 50_000
VECTORS, LISTS = "vectors.npy", "vectors.faiss"
RECALL = 0.99  # so many lists are looked through that this share of the nearest TOP is found
TOP = 10
SAMPLE = 256  # vectors whose neighbours that is measured on
PROBES = 16  # lists that are looked through at least
TRAINING = 128  # vectors per list from which the lists' centres are learnt
BLOCK = 16_384
HALF = 2e-4  # what 16 bits change of a cosine, with room


def build(folder: Path, exact: int | None = None) -> float | None:
    """Make the index of the vectors in `folder`.

    Up to `exact` (EXACT) vectors their file is the index. Above, an index of faiss takes its place.

    Args:
        folder: holds VECTORS, [N, d] float32 of unit length.

    Returns:
        Its recall: the share of a vector's TOP neighbours that it finds, measured on some of the vectors. None: exact.
    """
    vectors = np.load(folder / VECTORS, mmap_mode="r")
    if len(vectors) <= (EXACT if exact is None else exact):
        (folder / LISTS).unlink(missing_ok=True)
        return None
    import faiss

    index = make(vectors)
    found = tune(index, vectors)
    with writing(folder / LISTS) as temporary:
        faiss.write_index(index, str(temporary))
    (folder / VECTORS).unlink()
    return found


def make(vectors: np.ndarray) -> Any:
    """A faiss index of `vectors` [N, d] in sqrt(N) lists; deterministic."""
    import faiss

    count = round(math.sqrt(len(vectors)))
    index = faiss.index_factory(vectors.shape[1], f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(_some(vectors, TRAINING * count))
    for start in range(0, len(vectors), BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    return index


def tune(index: Any, vectors: np.ndarray) -> float:
    """Let `index` look through twice as many lists until its recall is RECALL; vectors without structure need all.

    Returns:
        The recall that was reached.
    """
    import faiss

    queries = _some(vectors, SAMPLE)
    best, _ = faiss.knn(queries, vectors, TOP + 1, metric=faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(PROBES, index.nlist)
    while True:
        scores, _ = index.search(queries, TOP + 1)
        # By the cosine and not by the row: equal texts stand in for one another. The first one is the vector itself.
        recall = float((scores[:, 1:] >= best[:, -1:] - HALF).mean())
        if recall >= RECALL or index.nprobe == index.nlist:
            return recall
        index.nprobe = min(2 * index.nprobe, index.nlist)


def _some(vectors: np.ndarray, count: int) -> np.ndarray:
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[np.sort(rows)])


class Index:
    """What `build` left in `folder`. Raises: FileNotFoundError when there is none."""

    def __init__(self, folder: Path) -> None:
        self.vectors: np.ndarray | None = None
        self.lists: Any = None
        if (folder / VECTORS).exists():
            self.vectors = np.load(folder / VECTORS, mmap_mode="r")
        else:
            import faiss

            if not (folder / LISTS).exists():
                raise FileNotFoundError(folder / LISTS)
            # Mapped: a command reads the lists that its queries are near to, and no others.
            self.lists = faiss.read_index(str(folder / LISTS), faiss.IO_FLAG_MMAP_IFC)

    def __len__(self) -> int:
        return self.lists.ntotal if self.vectors is None else len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors of each query.

        Args:
            queries: [m, d] float32 of unit length.
            k: no more than so many.

        Returns:
            Cosines [m, k] float32, falling, and rows [m, k] int64. Where fewer than k were found, the row is -1.
        """
        import faiss

        k = min(k, len(self))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self.vectors is None:
            return self.lists.search(queries, k)
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)

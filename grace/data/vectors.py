"""Cosines between queries and documents for mining: exact tf-idf, or an embedding model with its vectors on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from grace.data.similarity import CHUNK, Tfidf
from grace.section import UserError

BATCH = 8192  # texts given to the model at a time, which sorts them by length


class Cosines(Protocol):
    def queries(self, start: int, end: int) -> Any:
        """Vectors of the queries start..end, in whatever form the other two take."""

    def scores(self, queries: Any, start: int, end: int) -> torch.Tensor:
        """Cosines with the documents start..end, float32, shape (queries, documents); valid until the next call."""

    def pairs(self, queries: Any, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Cosine of each (row of `queries`, document), float32, shape (pairs,)."""


class TfidfCosines:
    """Exact sparse tf-idf cosines: nothing is projected to a dense space."""

    def __init__(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        asked, held = list(queries), list(documents)
        tfidf = Tfidf(list(dict.fromkeys([*asked, *held])))
        self.of_queries, self.of_documents = tfidf(asked), tfidf(held)
        self.products = np.empty(0, dtype=np.float32)

    def queries(self, start: int, end: int) -> Any:
        return self.of_queries[start:end]

    def scores(self, queries: Any, start: int, end: int) -> torch.Tensor:
        shape = queries.shape[0], end - start
        if self.products.size < shape[0] * shape[1]:  # the same memory each time
            self.products = np.empty(shape[0] * shape[1], dtype=np.float32)
        found = self.products[: shape[0] * shape[1]].reshape(shape)
        documents = self.of_documents[start:end].T.tocsr()
        for at in range(0, len(found), CHUNK):  # three quarters of a sparse product of texts are not zero
            (queries[at : at + CHUNK] @ documents).toarray(out=found[at : at + CHUNK])
        return torch.from_numpy(found)

    def pairs(self, queries: Any, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return np.asarray(queries[rows].multiply(self.of_documents[documents]).sum(axis=1)).ravel()


class ModelCosines:
    """Cosines of a SentenceTransformer's embeddings.

    The documents' unit vectors lie in a file without a name, float32, that is read in slices: memory does not grow
    with their number, and nothing is left behind by a job that is killed. Queries are embedded when they are asked for.

    Args:
        folder: on the disk that takes the file.

    Raises:
        UserError: when there is too little disk.
    """

    def __init__(self, model: Any, queries: Sequence[str], documents: Sequence[str], folder: Path) -> None:
        self.model, self.texts = model, queries
        self.device = torch.device(model.device)
        self.width = int(model.get_embedding_dimension())
        need, free = 4 * self.width * len(documents), shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"{folder}: the embeddings of {len(documents)} texts take {need / 1e9:.2f} GB and "
                f"{free / 1e9:.2f} GB are free; free space, or mine fewer rows with data.max_rows."
            )
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it lives as long as the object
        for start in tqdm(range(0, len(documents), BATCH), "embed documents"):
            texts = [documents[at] for at in range(start, min(start + BATCH, len(documents)))]
            self._embed(model.encode_document, texts).tofile(self.file)
        self.file.flush()
        self.slice = np.empty((0, self.width), dtype=np.float32)
        self.products = torch.empty(0, device=self.device)

    def _embed(self, encode: Any, texts: list[str]) -> np.ndarray:
        vectors = encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def queries(self, start: int, end: int) -> torch.Tensor:
        found = self._embed(self.model.encode_query, [self.texts[at] for at in range(start, end)])
        return torch.from_numpy(found).to(self.device)

    def scores(self, queries: torch.Tensor, start: int, end: int) -> torch.Tensor:
        count, size = end - start, len(queries) * (end - start)
        # The same memory each time: slices of this size, freed and taken again, leave ever more gaps between them.
        if len(self.slice) < count:
            self.slice = np.empty((count, self.width), dtype=np.float32)
        if len(self.products) < size:
            self.products = torch.empty(size, device=self.device)
        self.file.seek(4 * self.width * start)
        read = self.file.readinto(self.slice[:count].data.cast("B"))
        assert read == 4 * self.width * count
        found = torch.from_numpy(self.slice[:count]).to(self.device)
        return torch.mm(queries, found.T, out=self.products[:size].view(len(queries), count))

    def pairs(self, queries: torch.Tensor, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        size, file = 4 * self.width, self.file.fileno()
        whole = b"".join(os.pread(file, size, size * int(at)) for at in documents)
        found = torch.from_numpy(np.frombuffer(bytearray(whole), np.float32).reshape(-1, self.width)).to(self.device)
        return (queries[torch.from_numpy(rows).to(self.device)] * found).sum(dim=1).cpu().numpy()


def load(name: str, queries: Sequence[str], documents: Sequence[str], folder: Path) -> Cosines:
    """`tfidf`, or a SentenceTransformer by name or path. Raises: UserError when it cannot be had."""
    if name == "tfidf":
        return TfidfCosines(queries, documents)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name)
    except Exception as error:  # network, missing folder, broken weights: many classes, one advice
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
        raise UserError(
            f"config: data.mining.encoder: {name!r} cannot be loaded ({reason}); give the folder of a "
            "SentenceTransformer, or 'tfidf', which needs no download."
        ) from None
    return ModelCosines(model, queries, documents, folder)

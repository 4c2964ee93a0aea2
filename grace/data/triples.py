"""Give every training row hard negatives: its own, or mined from the other rows' positives.

Mines as `sentence_transformers.util.mine_hard_negatives` does, which holds all texts, all embeddings and all query
vectors in memory and compares each batch of queries with the whole corpus at once. Here memory hardly grows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from grace.config.schema import Mining
from grace.config.section import UserError
from grace.config.specs import TriplesSpec
from grace.data.lengths import quantiles
from grace.data.similarity import CHUNK, Tfidf, normal
from grace.jobs import manifest, stage
from grace.jobs.files import JsonLines, write_json, write_jsonl
from grace.jobs.reader import read_jsonl

Row = dict[str, Any]
DOCUMENTS = 1 << 16  # compared with a block of queries at a time
SCORES = 1 << 26  # cosines held at a time (256 MB in float32)
BATCH = 8192  # texts given to the model at a time, which sorts them by length
FIELDS = ("query", "positive")


class OnDisk(Sequence[Any]):
    """Item i is `read(numbers[i])`, read each time it is asked for."""

    def __init__(self, numbers: Sequence[int] | np.ndarray, read: Callable[[int], Any]) -> None:
        self.numbers, self.read = numbers, read

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: Any) -> Any:
        return self.read(int(self.numbers[at]))


class TfidfCosines:
    """Exact sparse tf-idf cosines between queries and documents."""

    def __init__(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        of_queries, of_documents = list(queries), list(documents)
        tfidf = Tfidf(list(dict.fromkeys([*of_queries, *of_documents])))
        self.query_vectors, self.document_vectors = tfidf(of_queries), tfidf(of_documents)
        self.products = np.empty(0, dtype=np.float32)

    def queries(self, start: int, end: int) -> Any:
        """Vectors of the queries start..end, as the other two methods take them."""
        return self.query_vectors[start:end]

    def scores(self, queries: Any, start: int, end: int) -> torch.Tensor:
        """Cosines with the documents start..end, float32, shape (queries, documents); valid until the next call."""
        shape = queries.shape[0], end - start
        if self.products.size < shape[0] * shape[1]:  # the same memory each time
            self.products = np.empty(shape[0] * shape[1], dtype=np.float32)
        found = self.products[: shape[0] * shape[1]].reshape(shape)
        documents = self.document_vectors[start:end].T.tocsr()
        for at in range(0, len(found), CHUNK):  # three quarters of a sparse product of texts are not zero
            (queries[at : at + CHUNK] @ documents).toarray(out=found[at : at + CHUNK])
        return torch.from_numpy(found)

    def pairs(self, queries: Any, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Cosine of each (row of `queries`, document), float32, shape (pairs,)."""
        return np.asarray(queries[rows].multiply(self.document_vectors[documents]).sum(axis=1)).ravel()


class ModelCosines:
    """The same of a SentenceTransformer's embeddings.

    The documents' unit vectors are in an unnamed temporary file in `folder`, float32, that is read in slices: memory
    does not grow with their number, and a killed job leaves nothing behind. Queries are embedded when asked for.

    Raises:
        UserError: when there is too little disk.
    """

    def __init__(self, model: Any, queries: Sequence[str], documents: Sequence[str], folder: Path) -> None:
        self.model, self.query_texts = model, queries
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
        vectors = self._embed(self.model.encode_query, [self.query_texts[at] for at in range(start, end)])
        return torch.from_numpy(vectors).to(self.device)

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
        documents = torch.from_numpy(self.slice[:count]).to(self.device)
        return torch.mm(queries, documents.T, out=self.products[:size].view(len(queries), count))

    def pairs(self, queries: torch.Tensor, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        size, file = 4 * self.width, self.file.fileno()
        read = bytearray().join(os.pread(file, size, size * int(at)) for at in documents)
        found = torch.from_numpy(np.frombuffer(read, np.float32).reshape(-1, self.width)).to(self.device)
        return (queries[torch.from_numpy(rows).to(self.device)] * found).sum(dim=1).cpu().numpy()


Cosines = TfidfCosines | ModelCosines


def load_cosines(name: str, queries: Sequence[str], documents: Sequence[str], folder: Path) -> Cosines:
    """`tfidf`, or a SentenceTransformer by name or path. Raises: UserError when it cannot be loaded."""
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


class Miner:
    """Finds M = `mining.negatives` hard negatives for each row.

    The `rank_max` texts most similar to the query (and as many more as a query has positives) are candidates. The
    query's positives and what `margin` and `max_score` forbid are removed. Of the rest, ranked anew, the negatives are
    the first M from `rank_min` on that differ from the query. Texts that differ only in case and white space are one
    text, and positives of equal queries are never each other's negatives.

    Args:
        rows: with query and positive; they may be on disk.
        folder: on the disk that takes the embeddings.

    Attributes:
        report: after the first of `negatives`, how many rows were dropped, and the cosines of positives and negatives.
    """

    def __init__(self, rows: Sequence[Row], mining: Mining, folder: Path) -> None:
        self.mining = mining
        self.report: dict[str, Any] = {}
        text = _text_numbers(rows)  # factorize numbers values in the order of their first appearance
        first = np.unique(text, return_index=True)[1]  # where each text is: 2 x row + field
        self.query, query_texts = pd.factorize(text[0::2])
        positive, positive_texts = pd.factorize(text[1::2])

        def read(place: int) -> str:
            return rows[place // 2][FIELDS[place % 2]]

        self.queries, self.documents = OnDisk(first[query_texts], read), OnDisk(first[positive_texts], read)
        number = np.full(len(first), -1, dtype=np.int64)
        number[positive_texts] = np.arange(len(positive_texts))
        self.itself = number[query_texts]  # the document that a query also is, or -1
        self.most = int(np.bincount(self.query).max())
        # Each query's positives, once each and in their order: `owned[starts[q]:starts[q + 1]]`.
        pair, unique = pd.factorize(self.query * len(self.documents) + positive)
        owner = unique // len(self.documents)
        order = np.argsort(owner, kind="stable")
        self.pair = np.argsort(order)[pair]
        self.owner, self.owned = owner[order], (unique % len(self.documents))[order]
        self.starts = np.searchsorted(self.owner, np.arange(len(self.queries) + 1))
        self.cosines = load_cosines(mining.encoder, self.queries, self.documents, folder)

    def negatives(self) -> Iterator[list[str] | None]:
        """The M negatives of each row, or None for a row with fewer, in the order of the rows."""
        m, count = self.mining.negatives, len(self.queries)
        documents = np.full((count, m), -1, dtype=np.int32)
        scores = np.full((count, m), np.nan, dtype=np.float32)
        of_positive = np.empty(len(self.owned), dtype=np.float32)
        width = max(min(DOCUMENTS, len(self.documents)), self.mining.rank_max + self.most)
        step = max(1, SCORES // width)
        for start in tqdm(range(0, count, step), "mine negatives", mininterval=1):
            block = slice(start, min(start + step, count))
            own = slice(self.starts[block.start], self.starts[block.stop])
            documents[block], scores[block], of_positive[own] = self._block(block, own)
        enough = np.asarray((documents >= 0).all(axis=1))[self.query]
        self.report = {
            "dropped": {"fewer than M negatives in the window": int((~enough).sum())} if not enough.all() else {},
            "similarity_of_positives": quantiles(of_positive[self.pair[enough]]),
            "similarity_of_negatives": quantiles(scores[self.query[enough]].ravel()),
        }
        for query, complete in zip(self.query, enough, strict=True):
            yield [self.documents[at] for at in documents[query]] if complete else None

    def _block(self, block: slice, own: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(documents, shape (queries, M), -1 where there is none; their cosines; cosines of the positives `own`)."""
        mining, count = self.mining, block.stop - block.start
        vectors = self.cosines.queries(block.start, block.stop)
        scores, indices = self._nearest(vectors, mining.rank_max + self.most)
        rows = self.owner[own] - block.start
        positives = self.cosines.pairs(vectors, rows, self.owned[own])

        key = np.arange(count)[:, None] * len(self.documents)
        forbidden = np.isin(key + indices, rows * len(self.documents) + self.owned[own])
        if mining.margin is not None:
            # Of several positives the least similar one counts.
            least = np.minimum.reduceat(positives, self.starts[block] - self.starts[block.start])
            forbidden |= scores + np.float32(mining.margin) > least[:, None]
        if mining.max_score is not None:
            forbidden |= scores > np.float32(mining.max_score)
        scores[forbidden] = -np.inf

        ranked, at = torch.topk(torch.from_numpy(scores), mining.rank_max, dim=1)
        window = slice(mining.rank_min, mining.rank_min + mining.negatives + 1)  # one more: it may be the query
        found, cosines = np.take_along_axis(indices, at.numpy(), axis=1)[:, window], ranked.numpy()[:, window]
        valid = np.isfinite(cosines) & (found != self.itself[block, None])
        best = np.argsort(~valid, axis=1, kind="stable")[:, : mining.negatives]
        found, cosines, valid = (np.take_along_axis(array, best, axis=1) for array in (found, cosines, valid))
        missing = ((0, 0), (0, mining.negatives - valid.shape[1]))
        documents = np.pad(np.where(valid, found, -1), missing, constant_values=-1)
        return documents, np.pad(np.where(valid, cosines, np.nan), missing, constant_values=np.nan), positives

    def _nearest(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest cosines of each query and their documents, falling; shape (queries, k), padded with -inf, -1.

        The documents are read in slices, and only the best so far are in memory.
        """
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for start in range(0, len(self.documents), DOCUMENTS):
            scores = self.cosines.scores(queries, start, min(start + DOCUMENTS, len(self.documents)))
            values, indices = torch.topk(scores, min(k, scores.shape[1]), dim=1)
            indices += start
            if best is not None:
                values, indices = torch.cat([best[0], values], dim=1), torch.cat([best[1], indices], dim=1)
                values, at = torch.topk(values, min(k, values.shape[1]), dim=1)
                indices = indices.gather(1, at)
            best = values, indices
        assert best is not None
        missing = (0, k - best[0].shape[1])
        pad = torch.nn.functional.pad
        return pad(best[0], missing, value=-np.inf).cpu().numpy(), pad(best[1], missing, value=-1).cpu().numpy()


def _text_numbers(rows: Sequence[Row]) -> np.ndarray:
    """The number of each row's query and positive, shape (2 x rows,); texts that are equal after `normal` have one.

    Texts are told apart by 64 bits: among 3 million the chance that two are taken for one is 2.4e-7.
    """
    digests = np.empty(len(FIELDS) * len(rows), dtype=np.uint64)
    for number, row in enumerate(tqdm(rows, "texts", mininterval=1)):
        for field, name in enumerate(FIELDS):
            digest = hashlib.blake2b(normal(row[name]).encode(), digest_size=8).digest()
            digests[len(FIELDS) * number + field] = int.from_bytes(digest, "little")
    return pd.factorize(digests)[0]


def with_negatives(
    rows: Iterator[Row], mined: Iterator[list[str] | None], count: int, dropped: Counter[str]
) -> Iterator[Row]:
    """Rows with the first `count` of their negatives; a row without any takes the next of `mined`.

    Rows with fewer are dropped; `dropped` counts those that brought or got some, the miner the others.
    """
    for row in rows:
        negatives = row.get("negatives") or next(mined)
        if negatives is None:
            continue
        if len(negatives) < count:
            dropped[f"fewer than {count} negatives"] += 1
        else:
            yield {**row, "negatives": negatives[:count]}


@stage.entry(TriplesSpec, inputs=("train",), outputs=("out", "report"))
def main(spec: TriplesSpec, paths: SimpleNamespace) -> None:
    read, bare, own = 0, array("q"), Counter[int]()
    for read, row in enumerate(read_jsonl(paths.train, FIELDS), 1):
        if negatives := row.get("negatives"):
            own[len(negatives)] += 1
        else:
            bare.append(read - 1)
    if not read:
        raise UserError(f"{paths.train}: holds no row; hold out fewer rows with data.test and data.validation.")
    numbers = own + Counter({spec.mining.negatives: len(bare)})
    count = max(numbers, key=lambda number: (numbers[number], -number))  # that of most rows; a batch needs one
    miner = Miner(OnDisk(bare, JsonLines(paths.train).__getitem__), spec.mining, paths.out.parent) if bare else None
    short = Counter[str]()
    rows = with_negatives(read_jsonl(paths.train), miner.negatives() if miner else iter(()), count, short)
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"{paths.train}: no row of {read} has {spec.mining.negatives} negatives in the window; relax "
            "data.mining.margin, max_score, rank_min or rank_max."
        )
    kept = write_jsonl(paths.out, chain([first], rows))
    report = miner.report if miner else {"dropped": {}}
    report["dropped"] = report["dropped"] | short
    if short:
        some = (paths.train, short.total(), read, count)
        logging.warning("%s: %d of %d rows have fewer than the %d negatives that most have, and are dropped", *some)
    counts = {"read": read, "with_own_negatives": read - len(bare), "kept": kept}
    made = manifest.make("triples", spec, [paths.train], paths.started)
    write_json(paths.report, {**counts, **report, "manifest": made})


if __name__ == "__main__":
    main()

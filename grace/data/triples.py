"""Give every training row hard negatives: its own, or mined from the other rows' positives."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, stage
from grace.config import Mining
from grace.data.similarity import Tfidf, normal
from grace.files import read_jsonl, write_json, write_jsonl
from grace.section import UserError
from grace.specs import TriplesSpec

Row = dict[str, Any]
SCORES = 1 << 26  # similarities held at a time by the miner (256 MB in float32)


class TfidfEncoder:
    """The part of a SentenceTransformer that `mine_hard_negatives` uses, with exact sparse tf-idf cosines.

    An "embedding" is the row number of a text in a sparse matrix, shape (texts, 1); only the similarities look
    the vectors up. So nothing is projected to a dense space and the ranking is tf-idf's own.
    """

    device = "cpu"

    def __init__(self, texts: list[str]) -> None:
        self.row = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        self.vectors = Tfidf(list(self.row))(list(self.row))

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.array([[self.row[text]] for text in texts], dtype=np.int64)

    encode_document = encode_query

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosines, shape (a, b)."""
        import torch

        return torch.from_numpy((self._vectors(a) @ self._vectors(b).T).toarray())

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        """Cosines of the pairs, shape (a,)."""
        import torch

        return torch.from_numpy(np.asarray(self._vectors(a).multiply(self._vectors(b)).sum(axis=1)).ravel())

    def _vectors(self, rows: Any) -> Any:
        return self.vectors[np.asarray(rows).ravel()]


def load_encoder(name: str, texts: list[str]) -> Any:
    """`tfidf`, or a SentenceTransformer by name or path. Raises: UserError when it cannot be had."""
    if name == "tfidf":
        return TfidfEncoder(texts)
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(name)
    except Exception as error:  # network, missing folder, broken weights: many classes, one advice
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
        raise UserError(
            f"config: data.mining.encoder: {name!r} cannot be loaded ({reason}); give the folder of a "
            "SentenceTransformer, or 'tfidf', which needs no download."
        ) from None


def mine(rows: list[Row], mining: Mining) -> tuple[list[Row], dict[str, Any]]:
    """Add M = `mining.negatives` hard negatives to each row, taken from the positives of all rows.

    As the library counts: the `rank_max` texts most similar to the query (and as many more as a query has
    positives) are candidates; the query's positives and what `margin` and `max_score` forbid are taken out; of the
    rest, ranked anew, the negatives are the first M from `rank_min` on that differ from the query. Texts that
    differ only in case and white space are one text, and positives of equal queries are never each other's
    negatives.

    Returns:
        (rows with "negatives", report); a row with fewer than M is left out and counted.
    """
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    first: dict[str, str] = {}  # one text for each normalised text
    for row in rows:
        for name in ("query", "positive"):
            first.setdefault(normal(row[name]), row[name])
    asked = [(first[normal(row["query"])], first[normal(row["positive"])]) for row in rows]
    queries, positives = [query for query, _ in asked], [positive for _, positive in asked]
    encoder = load_encoder(mining.encoder, queries + positives)
    window = mining.rank_max - mining.rank_min
    mined = mine_hard_negatives(
        Dataset.from_dict({"query": queries, "positive": positives}),
        encoder,
        anchor_column_name="query",
        positive_column_name="positive",
        range_min=mining.rank_min,
        range_max=mining.rank_max,
        absolute_margin=mining.margin,
        max_score=mining.max_score,
        num_negatives=min(window, mining.negatives + 1),  # one more, as one may be the query itself
        output_format="labeled-list",
        output_scores=True,
        faiss_batch_size=max(1, SCORES // len(set(positives))),
        verbose=False,
    )
    found: dict[tuple[str, str], tuple[list[str], list[float]]] = {}
    for item in mined:
        (positive, *negatives), (score, *scores) = item["positive"], item["scores"]
        both = [pair for pair in zip(negatives, scores, strict=True) if pair[0] != item["query"]]
        best = both[: mining.negatives]
        found[item["query"], positive] = [text for text, _ in best], [score, *(value for _, value in best)]

    out: list[Row] = []
    dropped: Counter[str] = Counter()
    of_positives: list[float] = []
    of_negatives: list[float] = []
    for row, key in zip(rows, asked, strict=True):
        negatives, scores = found.get(key, ([], []))
        if len(negatives) < mining.negatives:
            dropped["fewer than M negatives in the window"] += 1
            continue
        of_positives.append(scores[0])
        of_negatives.extend(scores[1:])
        out.append({**row, "negatives": negatives})
    return out, {
        "dropped": dict(dropped),
        "similarity_of_positives": quantiles(of_positives),
        "similarity_of_negatives": quantiles(of_negatives),
    }


def quantiles(values: list[float] | list[int]) -> dict[str, float]:
    """Mean and quantiles; empty for no values."""
    if not values:
        return {}
    points = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    found = np.quantile(values, list(points.values()))
    return {
        "mean": round(float(np.mean(values)), 4),
        **{name: round(float(value), 4) for name, value in zip(points, found, strict=True)},
    }


@stage.entry(TriplesSpec, inputs=("train",), outputs=("out", "report"))
def main(spec: TriplesSpec, paths: SimpleNamespace) -> None:
    rows = list(read_jsonl(paths.train, ("query", "positive")))
    if not rows:
        raise UserError(f"{paths.train}: holds no row; hold out fewer rows with data.test and data.validation.")
    bare = [at for at, row in enumerate(rows) if not row.get("negatives")]
    report: dict[str, Any] = {"dropped": {}}
    result: dict[int, Row] = {at: row for at, row in enumerate(rows) if row.get("negatives")}
    if bare:
        mined, report = mine([{**rows[at], "_at": at} for at in bare], spec.mining)
        result |= {row.pop("_at"): row for row in mined}
    if not result:
        raise UserError(
            f"{paths.train}: no row of {len(rows)} has {spec.mining.negatives} negatives in the window; relax "
            "data.mining.margin, max_score, rank_min or rank_max."
        )
    write_jsonl(paths.out, (result[at] for at in sorted(result)))
    counts = {"read": len(rows), "with_own_negatives": len(rows) - len(bare), "kept": len(result)}
    made = manifest.make("triples", spec, [paths.train], paths.started)
    write_json(paths.report, {**counts, **report, "manifest": made})


if __name__ == "__main__":
    main()

"""How much the choice of a rationale can bring: K rationales of each document, and what the best of them scores.

    python -m bench.ceiling --study laptop --pairs results/laptop/data/split/allnli/validation.jsonl \
        --model results/laptop/models/smollm2-135m/backbone/seed0 --runs reasoning one-word ...

Of N held-out pairs (the first by hash) each query has to find its own document among all N. By the prompt and pooling
of each run that reasons:

- any, best, worst: nDCG@10 where each document is embedded with any of K sampled rationales (the mean of K), with the
  one whose embedding is nearest to its own query, and with the farthest. Best is out of reach: it knows the query.
- alike: mean cosine of the embeddings of one document with two of its rationales.
- within, between: standard deviation of cos(query, its document) over the rationales of a document, and over the pairs
  of their means. GRACE's advantages see the first alone.

Queries are embedded with one sampled rationale. A run that embeds directly has one score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench import common
from grace.config.plan import Plan
from grace.config.section import build
from grace.config.specs import EncodeSpec
from grace.config.studies import read_config
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.explain import cosines
from grace.evaluation.tasks import by_hash


def ndcg(scores: np.ndarray) -> float:
    """Mean nDCG@10 of N queries, of which document i alone is relevant to query i, by `scores` [N, N]."""
    return float(np.mean(ndcg_of_each(scores, np.eye(len(scores)))))


def ndcg_of_each(scores: np.ndarray, relevant: np.ndarray, depth: int = 10) -> list[float]:
    """nDCG@10 of each query, [Q, D] scores and relevance 0 or 1; ties in the order of the documents."""
    gain = 1 / np.log2(np.arange(depth) + 2)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    got = np.take_along_axis(relevant, order, axis=1) @ gain[: order.shape[1]]
    return [float(g / gain[: int(n)].sum()) for g, n in zip(got, relevant.sum(1), strict=True)]


def measure(queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
    """What the choice among K rationales does.

    Args:
        queries: [N, d]. documents: [K, N, d]; row n of each belongs to query n.
    """
    every = np.stack([cosines(queries, one) for one in documents])  # [K, N, N]
    own = every.diagonal(axis1=1, axis2=2)  # [K, N]
    count = len(documents)
    pairs = [np.diag(cosines(documents[i], documents[j])).mean() for i in range(count) for j in range(i)]
    columns = np.arange(own.shape[1])
    return {
        "any": float(np.mean([ndcg(one) for one in every])),
        "best": ndcg(every[own.argmax(0), :, columns].T),
        "worst": ndcg(every[own.argmin(0), :, columns].T),
        "alike": float(np.mean(pairs)),
        "within": float(own.std(0, ddof=1).mean()),
        "between": float(own.mean(0).std(ddof=1)),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--pairs", type=Path, required=True, help="rows {id, query, positive}")
    parser.add_argument("--runs", nargs="+", default=["reasoning"], help="of the study: whose prompts and poolings")
    parser.add_argument("--count", type=int, default=120, help="N")
    parser.add_argument("--samples", type=int, default=4, help="K")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    plan = Plan({**read_config(arguments.config), "study": arguments.study})
    rows = by_hash(arguments.pairs)[: arguments.count]
    queries, documents = [row["query"] for row in rows], [row["positive"] for row in rows]
    first: RationaleEncoder | None = None
    written: dict[str, Any] = {}  # by all that decides them but the pooling: token ids of queries and documents
    made = []
    for run in arguments.runs:
        spec = build(EncodeSpec, plan.encode(run, 0).model_dump(), "spec")
        spec = spec.model_copy(update={"engine": "transformers", "sampling_temperature": arguments.temperature})
        first = first or RationaleEncoder.from_spec(arguments.model, spec)
        encoder = RationaleEncoder(first.model, first.tokenizer, spec)
        found: dict[str, Any]
        if not spec.rationales:
            one, other = (encoder.encode(texts).embeddings for texts in (queries, documents))
            found = {"any": ndcg(cosines(one, other))}
        else:
            key = spec.model_dump_json(exclude={"pooling"})
            if key not in written:
                seeds = [(0, queries), *((seed, documents) for seed in range(arguments.samples))]
                written[key] = [_write(encoder, texts, seed) for seed, texts in seeds]
            asked, *said = (
                _embed(encoder, texts, ids)
                for texts, ids in zip([queries, *[documents] * arguments.samples], written[key], strict=True)
            )
            cut = [one.truncated for ids in written[key][1:] for one in encoder.rationales(ids)]
            found = measure(asked, np.stack(said)) | {"truncated": float(np.mean(cut))}
        made.append({"run": run, **found})
        print(f"{run:24}", "  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
    if arguments.json:
        about = {"command": common.command(), "count": len(rows), "samples": arguments.samples}
        common.write(arguments.json, [{"name": "ceiling", **about, "runs": made}])


def _write(encoder: RationaleEncoder, texts: list[str], seed: int) -> list[list[int]]:
    """Token ids of sampled rationales."""
    seeded = RationaleEncoder(encoder.model, encoder.tokenizer, encoder.spec.model_copy(update={"seed": seed}))
    return [one.token_ids for one in seeded.encode(texts).rationales or []]


def _embed(encoder: RationaleEncoder, texts: list[str], token_ids: list[list[int]]) -> np.ndarray:
    out = np.zeros((len(texts), encoder.width), dtype=np.float32)
    for rows, made in encoder.encode_written(texts, token_ids):
        out[rows] = made.embeddings
    return out


if __name__ == "__main__":
    main()

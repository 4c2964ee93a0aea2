"""SummEval, a small local one through mteb itself, against scipy and numpy by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from grace.encoder.store import Store
from grace.evaluation import evaluate, items
from grace.evaluation.embedder import Embedder
from tests.evaluation.fakes import FakeEncoder

# Six documents, two human and five machine summaries each. The third's scores are all one: no rank, no correlation.
WORDS = ["array", "matrix", "graph", "tensor", "frame", "column", "sort", "merge"]
SCORES = [
    [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 1.0, 3.0, 2.0, 4.0], [3.0, 3.0, 3.0, 3.0, 3.0],
    [2.0, 2.0, 4.0, 4.0, 1.0], [4.0, 5.0, 1.0, 3.0, 2.0], [1.5, 4.5, 2.5, 4.5, 3.5],
]  # fmt: skip


def summaries(document, kind, count):
    rng = np.random.default_rng([document, len(kind)])
    return [" ".join([f"document{document}", kind, *rng.choice(WORDS, 4), f"number {i}."]) for i in range(count)]


ROWS = [
    {
        "text": f"document {i}",
        "human_summaries": summaries(i, "human", 2),
        "machine_summaries": summaries(i, "by a machine", 5),
        "relevance": scores,
    }
    for i, scores in enumerate(SCORES)
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summeval")
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    encoder = FakeEncoder()
    embedder = Embedder(encoder, Store(folder / "store", {"precision": "float32"}, encoder.width))
    return evaluate.run(embedder, ["SummEval"], None, "grace/test", "r", {"SummEval": str(folder)})["SummEval"]


def similarities():
    """Of each document's machine summaries with the nearest human one, and their human scores; those with a rank."""
    found = []
    for row in ROWS:
        human, machine = (FakeEncoder().encode(row[f"{kind}_summaries"]).embeddings for kind in ("human", "machine"))
        human, machine = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (human, machine))
        if len(set(row["relevance"])) > 1:
            found.append((row["relevance"], (machine @ human.T).max(1)))
    return found


def test_a_document_counts_with_its_correlation_and_its_p_value(ran):
    by_hand = []
    for human, score in similarities():
        found = spearmanr(human, score)
        by_hand.append((found.statistic + found.pvalue) / 2)
    assert len(by_hand) == 5 and ran["metric"] == "cosine_spearman"
    assert ran["items"]["statistic"] == "mean"
    assert ran["items"]["parts"][0]["values"] == pytest.approx(by_hand, abs=1e-6)
    assert ran["main_score"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    correlations = [spearmanr(*pair).statistic for pair in similarities()]
    assert ran["main_score"] != pytest.approx(np.mean(correlations), abs=0.01)


def test_the_corrected_task_counts_correlations_alone():
    import mteb

    human, score = map(list, zip(*((h, s.tolist()) for h, s in similarities()), strict=True))
    saved = {"human_scores": human, "cosine_scores": score}
    by_hand = [spearmanr(*pair).statistic for pair in zip(human, score, strict=True)]
    assert items._summaries(mteb.get_task("SummEvalSummarization.v2"), saved) == pytest.approx(by_hand)

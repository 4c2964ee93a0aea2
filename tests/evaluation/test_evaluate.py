"""The demo's and mteb's task classes, run by mteb itself, against scikit-learn and scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from grace import tasks as names
from grace.evaluation import evaluate, items
from tests.evaluation.fakes import Broken, Encoding, FakeEncoder, embedder

DEMO = list(names.DEMO.values())


@pytest.fixture
def fresh(tmp_path):
    """Makes an embedder with an empty store."""
    return lambda encoder: embedder(encoder, tmp_path / f"store{len(list(tmp_path.iterdir()))}")


def embed(data):
    """Query and positive embeddings of the test rows, [N, d] each, in float64."""
    encoder = FakeEncoder()
    return [
        encoder.encode([row[key] for row in data["test"]]).embeddings.astype(float) for key in ("query", "positive")
    ]


def test_retrieval_is_ndcg_at_10(ran, data):
    queries, documents = embed(data)
    expected = ndcg_score(np.eye(len(queries)), queries @ documents.T, k=10)
    assert ran[0]["DocstringRetrieval"]["main_score"] == pytest.approx(expected, abs=1e-5)


def test_reranking_is_mean_average_precision(ran, data):
    queries, documents = embed(data)
    expected = []
    for key, negatives in data["reranking"].items():
        ids = [int(key), *negatives]
        expected.append(average_precision_score([1] + [0] * len(negatives), documents[ids] @ queries[int(key)]))
    assert ran[0]["DocstringReranking"]["main_score"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_pair_classification_is_average_precision(ran, data):
    queries, documents = embed(data)
    left, right = (np.array([pair[side] for pair in data["pairs"]]) for side in (0, 1))
    labels = [pair[2] for pair in data["pairs"]]
    cosine = (queries[left] * documents[right]).sum(1)
    manhattan = -np.abs(queries[left] - documents[right]).sum(1)
    expected = max(average_precision_score(labels, score) for score in (cosine, manhattan))
    assert ran[0]["DocstringPairs"]["main_score"] == pytest.approx(expected, abs=1e-4)


def test_sts_is_spearmans_correlation(ran, data):
    _, documents = embed(data)
    left, right = (np.array([pair[side] for pair in data["sts"]]) for side in (0, 1))
    gold = [pair[2] for pair in data["sts"]]
    expected = spearmanr(gold, (documents[left] * documents[right]).sum(1)).statistic
    assert ran[0]["DocstringSTS"]["main_score"] == pytest.approx(expected, abs=1e-4)


def test_items_add_up_to_the_main_score(ran):
    for entry in ran[0].values():
        assert items.aggregate(entry["items"]) == pytest.approx(entry["main_score"], abs=1e-5)
    assert len(ran[0]["DocstringClustering"]["items"]["parts"][0]["values"]) == 5
    assert {entry["category"] for entry in ran[0].values()} == set(names.DEMO)


class Oracle(FakeEncoder):
    """Knows each text's package: what clustering and classification ask for."""

    def __init__(self, rows):
        self.package = {row["positive"]: row["label"] for row in rows}
        super().__init__(size=len(set(self.package.values())))

    def encode(self, texts, rationales=None, progress=False):
        labels = sorted(set(self.package.values()))
        out = np.array([[self.package[text] == label for label in labels] for text in texts], dtype=np.float32)
        return Encoding(20 * out, None)  # long vectors: the classifier's regularisation should not matter


def test_an_encoder_that_knows_the_packages_is_near_perfect(data, fresh):
    made = fresh(Oracle(data["test"] + data["validation"]))
    ran = evaluate.run(made, ["DocstringClustering", "DocstringClassification"], data, "grace/oracle", "r")
    assert ran["DocstringClassification"]["main_score"] == 1.0
    assert ran["DocstringClustering"]["main_score"] > 0.9  # k-means may start with two centres in one package


def test_a_text_is_encoded_once_however_often_it_recurs(ran, data):
    encoded = ran[1].encoder.encoded
    assert len(encoded) == len(set(encoded)) == ran[1].rationale()["texts"]
    before = len(encoded)
    again = ran[1].encode([data["test"][0]["query"], "new", "", "new"])
    assert ran[1].encoder.encoded[before:] == ["new", ""]
    assert np.array_equal(again[1], again[3])


def test_failing_generation_stops_the_job(data, fresh):
    with pytest.raises(RuntimeError, match="generation failed"):
        evaluate.run(fresh(Broken("raise")), DEMO[:1], data, "grace/x", "r")


def test_an_undefined_metric_is_missing_and_not_zero(data, fresh):
    ran = evaluate.run(fresh(Broken("constant")), ["DocstringSTS"], data, "grace/x", "r")
    assert ran["DocstringSTS"]["main_score"] is None
    json.dumps(ran, allow_nan=False)


def test_queries_that_equal_scores_decide_are_counted(ran, data, fresh):
    assert [ran[0][name].get("tied") for name in DEMO] == [0.0, 0.0, None, None, None, None]
    made = evaluate.run(fresh(Broken("constant")), DEMO[:2], data, "grace/x", "r")
    assert [made[name]["tied"] for name in DEMO[:2]] == [1.0, 1.0]
    assert set(made[DEMO[0]]["items"]["parts"][0]) == {"values"}


@pytest.mark.parametrize(("measure", "depth"), [("ndcg_cut", 10), ("map_cut", 1000)])
def test_a_query_is_tied_where_other_ids_give_another_score(measure, depth):
    """By trec_eval itself: the same ranking with the documents named otherwise."""
    dice = np.random.default_rng(0)
    found = []
    for _ in range(300):
        scores = dice.integers(0, 9, 14) / 10
        gains = dice.integers(0, 2, 14) * (dice.random(14) < 0.4)
        given = set()
        for _ in range(20):
            names = [f"d{i:02}" for i in dice.permutation(14)]
            judged = {"q": dict(zip(names, gains.tolist(), strict=True))}
            made = pytrec_eval.RelevanceEvaluator(judged, {f"{measure}.{depth}"}).evaluate(
                {"q": dict(zip(names, scores.tolist(), strict=True))}
            )
            given.add(round(made["q"][f"{measure}_{depth}"], 9))
        cut = (scores > scores.min()).sum() < depth < 14  # what comes after the last document is not known
        assert items._tied(dict(enumerate(scores)), dict(enumerate(gains)), depth) == (len(given) > 1 or cut)
        found.append(len(given) > 1)
    assert 50 < sum(found) < 290


def test_scores_are_equal_where_trec_eval_holds_them_equal():
    close = {"a": 0.5, "b": 0.5 + 1e-9}
    assert items._tied(close, {"b": 1}, 10) and not items._tied({"a": 0.5, "b": 0.5 + 1e-6}, {"b": 1}, 10)


def test_subqueries_of_one_query_are_merged():
    saved = {"7_1": {"a": 0.2, "b": 0.5}, "7_2": {"a": 0.9}, "8_1": {"c": 0.1}}
    relevant = {"7_1": {"a": 1}, "7_2": {"a": 1}, "8_1": {"c": 1}}
    merged, judged = items._merged(saved, relevant)
    assert merged == {"7": {"a": 0.9, "b": 0.5}, "8": {"c": 0.1}}
    assert judged == {"7": {"a": 1}, "8": {"c": 1}}

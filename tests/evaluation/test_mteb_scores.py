"""Scores and items of mteb's classes, run by mteb itself, against scikit-learn, scipy and trec_eval."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from grace.config import tasks as names
from grace.config.schema import Prompt
from grace.config.section import UserError
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.store import Store
from grace.evaluation import mteb_scores, mteb_tasks
from grace.evaluation.evaluate import Embedder
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import Broken, Encoding, FakeEncoder, embedder, evaluated, make_rows

DEMO = list(names.DEMO.values())
SHARED = Path(__file__).parents[3] / "shared/data"


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
        assert mteb_scores.aggregate(entry["items"]) == pytest.approx(entry["main_score"], abs=1e-5)
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
    ran = evaluated(made, ["DocstringClustering", "DocstringClassification"], data)
    assert ran["DocstringClassification"]["main_score"] == 1.0
    assert ran["DocstringClustering"]["main_score"] > 0.9  # k-means may start with two centres in one package


def test_a_text_is_encoded_once_however_often_it_recurs(ran, data):
    encoded = ran[1].encoder.encoded
    assert len(encoded) == len(set(encoded)) == ran[1].rationale()["texts"]
    before = len(encoded)
    again = ran[1].encode([data["test"][0]["query"], "new", "", "new"])
    assert ran[1].encoder.encoded[before:] == ["new", ""]
    assert np.array_equal(again[1], again[3])


def test_an_undefined_metric_is_missing_and_not_zero(data, fresh):
    ran = evaluated(fresh(Broken("constant")), ["DocstringSTS"], data)
    assert ran["DocstringSTS"]["main_score"] is None
    json.dumps(ran, allow_nan=False)


def test_queries_that_equal_scores_decide_are_counted(ran, data, fresh):
    assert [ran[0][name].get("tied") for name in DEMO] == [0.0, 0.0, None, None, None, None]
    made = evaluated(fresh(Broken("constant")), DEMO[:2], data)
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
        assert mteb_scores._tied(dict(enumerate(scores)), dict(enumerate(gains)), depth) == (len(given) > 1 or cut)
        found.append(len(given) > 1)
    assert 50 < sum(found) < 290


def test_scores_are_equal_where_trec_eval_holds_them_equal():
    close = {"a": 0.5, "b": 0.5 + 1e-9}
    assert mteb_scores._tied(close, {"b": 1}, 10) and not mteb_scores._tied({"a": 0.5, "b": 0.5 + 1e-6}, {"b": 1}, 10)


# ---- summaries -----------------------------------------------------------------------------

# Six documents, two human and five machine summaries each. The third's scores are all one: no rank, no correlation.
WORDS = ["array", "matrix", "graph", "tensor", "frame", "column", "sort", "merge"]
SCORES = [
    [1, 2, 3, 4, 5],
    [5, 1, 3, 2, 4],
    [3, 3, 3, 3, 3],
    [2, 2, 4, 4, 1],
    [4, 5, 1, 3, 2],
    [1.5, 4.5, 2.5, 4.5, 3.5],
]


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


def test_summeval_counts_a_document_with_its_correlation_and_its_p_value(run_one, tmp_path):
    write_jsonl(tmp_path / "data/test.jsonl", ROWS)
    ran = run_one("SummEval", FakeEncoder(), {"SummEval": str(tmp_path / "data")})
    found = []
    for row in ROWS:
        human, machine = (FakeEncoder().encode(row[f"{kind}_summaries"]).embeddings for kind in ("human", "machine"))
        human, machine = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (human, machine))
        if len(set(row["relevance"])) > 1:
            found.append(spearmanr(row["relevance"], (machine @ human.T).max(1)))
    by_hand = [(one.statistic + one.pvalue) / 2 for one in found]
    assert len(by_hand) == 5 and ran["metric"] == "cosine_spearman" and ran["items"]["statistic"] == "mean"
    assert ran["items"]["parts"][0]["values"] == pytest.approx(by_hand, abs=1e-6)
    assert ran["main_score"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert ran["main_score"] != pytest.approx(np.mean([one.statistic for one in found]), abs=0.01)


# ---- large data ----------------------------------------------------------------------------


def subqueries(tmp_path, queries=7, documents=30):
    """A MindSmallReranking in small: sub-queries <query>_<n>, each with the candidates of its query."""
    rng = np.random.default_rng(0)
    rows = make_rows(documents)
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": f"d{i}", "text": r["positive"]} for i, r in enumerate(rows)))
    asked, judged, ranked = [], [], []
    for query in range(queries):
        candidates = rng.choice(documents, size=8, replace=False).tolist()
        for number in range(int(rng.integers(1, 5))):
            name = f"u{query}_{number}"
            asked.append({"_id": name, "text": rows[int(rng.integers(documents))]["query"]})
            judged += [{"query-id": name, "corpus-id": f"d{d}", "score": int(n < 2)} for n, d in enumerate(candidates)]
            ranked.append({"query-id": name, "corpus-ids": [f"d{d}" for d in candidates]})
    order = rng.permutation(len(asked))  # sub-queries of one query need not lie together
    write_jsonl(tmp_path / "queries.jsonl", (asked[i] for i in order))
    write_jsonl(tmp_path / "qrels.jsonl", judged)
    write_jsonl(tmp_path / "top_ranked.jsonl", ranked)
    return {"MindSmallReranking": str(tmp_path)}


def test_mindsmall_in_pieces_is_mindsmall(tmp_path, run_one, monkeypatch):
    local = subqueries(tmp_path)
    whole = run_one("MindSmallReranking", FakeEncoder(), local)
    calls = []
    once = mteb_scores._evaluate
    monkeypatch.setattr(mteb_scores, "_evaluate", lambda *arguments: calls.append(once(*arguments)) or calls[-1])
    for limit, pieces in ((5, range(3, 6)), (1, [7])):
        calls.clear()
        monkeypatch.setattr(mteb_scores, "SUBQUERIES_AT_ONCE", limit)
        parted = run_one("MindSmallReranking", FakeEncoder(), local)
        assert len(calls) in pieces
        assert parted["main_score"] == pytest.approx(whole["main_score"], abs=1e-5)
        values = [entry["items"]["parts"][0]["values"] for entry in (whole, parted)]
        assert sorted(values[0]) == sorted(values[1]) and len(values[0]) == 7
    assert 0 < whole["main_score"] < 1


def test_the_depth_of_search_does_not_change_the_score(tmp_path, run_one, monkeypatch):
    rows = make_rows(400)
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": f"d{i}", "text": r["positive"]} for i, r in enumerate(rows)))
    write_jsonl(tmp_path / "queries.jsonl", ({"_id": f"q{i}", "text": rows[i]["query"]} for i in range(60)))
    judged = ({"query-id": f"q{i}", "corpus-id": f"d{j}", "score": 1} for i in range(60) for j in (i, i + 60))
    write_jsonl(tmp_path / "qrels.jsonl", judged)
    shallow = run_one("SciFact", FakeEncoder(), {"SciFact": str(tmp_path)})
    monkeypatch.setattr(mteb_tasks, "DEPTH", 1000)
    assert run_one("SciFact", FakeEncoder(), {"SciFact": str(tmp_path)}) == shallow
    assert 0 < shallow["main_score"] < 1


def test_a_corpus_that_does_not_fit_on_the_disk_is_refused_before_it_is_embedded(tmp_path, monkeypatch):
    local = subqueries(tmp_path)
    encoder = FakeEncoder()
    store = Store(tmp_path / "store", {"precision": "float32"}, encoder.width)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4000))  # 30 documents need 4,800
    with pytest.raises(UserError, match=r"store.*: 30 embeddings need .* free"):
        evaluated(Embedder(encoder, store), ["MindSmallReranking"], None, local)
    assert encoder.encoded == []
    (task,) = mteb_tasks.get_tasks(["MindSmallReranking"], local=local)
    task.load_data()
    known = [text for texts in mteb_scores.documents(task) for text in texts][:20]
    embedder = Embedder(encoder, store)
    embedder.encode(known)
    embedder.check_room(mteb_scores.documents(task), mteb_scores.corpus_size(task))  # only ten are missing now


# ---- real data, a real model ---------------------------------------------------------------


def rows_of(name: str, part: str) -> list[dict]:
    if not (SHARED / name).exists():
        pytest.skip(f"no {SHARED / name}: real data is not part of a clone")
    return [json.loads(line) for line in (SHARED / name / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model(tiny_folder):
    """Random weights that read the first words of a text: low scores, and quick."""
    spec = RationaleEncoder.from_pretrained(tiny_folder, rationales=False, batch_size=256).spec
    prompt = Prompt(instruction="Read.", max_prompt_tokens=48)
    return RationaleEncoder.from_spec(tiny_folder, spec.model_copy(update={"prompt": prompt}))


def test_banking77_is_the_accuracy_of_logistic_regressions(model, run_one, tmp_path):
    from sklearn.linear_model import LogisticRegression

    train, test = rows_of("banking77", "train")[::5], rows_of("banking77", "test")[::10]
    for name, rows in (("train", train), ("test", test)):
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    entry = run_one("Banking77Classification", model, {"Banking77Classification": str(tmp_path / "data")})
    x, x_test = (model.encode([row["text"] for row in rows]).embeddings for rows in (train, test))
    y, y_test = (np.array([row["label"] for row in rows]) for rows in (train, test))
    order, accuracy = list(range(len(train))), []
    for _ in range(10):  # the first eight rows of each label, from rows that are shuffled on and on
        np.random.RandomState(42).shuffle(order)
        taken = [0] * 77
        chosen = []
        for i in order:
            taken[y[i]] += 1
            if taken[y[i]] <= 8:
                chosen.append(i)
        classifier = LogisticRegression(max_iter=100, random_state=42).fit(x[chosen], y[chosen])
        accuracy.append((classifier.predict(x_test) == y_test).mean())
    assert entry["main_score"] == pytest.approx(np.mean(accuracy), abs=2e-3)
    assert np.mean(accuracy) > 3 / 77 and len(entry["items"]["parts"][0]["values"]) == len(test) == 308


def test_cacm_is_ndcg_by_hand(model, run_one, tmp_path):
    documents, queries = rows_of("cacm", "corpus")[1000:2000], rows_of("cacm", "queries")
    known = {row["_id"] for row in documents}
    qrels = [row for row in rows_of("cacm", "qrels") if row["corpus-id"] in known]
    for name, rows in (("corpus", documents), ("queries", queries), ("qrels", qrels)):
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    assert any(not row["text"] for row in documents)  # documents that are a title alone
    entry = run_one("SciFact", model, {"SciFact": str(tmp_path / "data")})

    relevant: dict[str, set[str]] = {}
    for row in qrels:
        relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
    text = [f"{row['title'] or ''} {row['text'] or ''}".strip() for row in documents]
    judged = [row for row in queries if row["_id"] in relevant]
    cosine = model.similarity(model.encode([row["text"] for row in judged]), model.encode(text))
    found = []
    for row, scores in zip(judged, cosine.round(6).tolist(), strict=True):
        ids = [document["_id"] for document in documents]
        ranked = sorted(zip(scores, ids, strict=True), reverse=True)[:10]  # of equal scores the last id, as trec_eval
        gains = [(ident in relevant[row["_id"]]) / np.log2(rank + 2) for rank, (_, ident) in enumerate(ranked)]
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(10, len(relevant[row["_id"]]))))
        found.append(sum(gains) / ideal)
    assert entry["main_score"] == pytest.approx(np.mean(found), abs=2e-3) and np.mean(found) > 0
    assert len(entry["items"]["parts"][0]["values"]) == len(judged) > 20

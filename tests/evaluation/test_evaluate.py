"""The demo's and mteb's task classes, run by mteb itself, against scikit-learn and scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from grace import tasks as names
from grace.evaluation import evaluate, items, mteb_tasks, tasks
from grace.section import UserError
from tests.evaluation.fakes import Encoding, FakeEncoder, make_rows

SHARED = Path(__file__).parents[3] / "shared/data"
DEMO = list(names.DEMO.values())


@pytest.fixture(scope="module")
def data():
    return tasks.build(make_rows(150), make_rows(90, 1), seed=0)


@pytest.fixture(scope="module")
def ran(data):
    memo = evaluate.Memo(FakeEncoder(rationales=True))
    return evaluate.run(memo, DEMO, data, "grace/test", "r1"), memo


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
        super().__init__()
        self.package = {row["positive"]: row["label"] for row in rows}

    def encode(self, texts, rationales=None, progress=False):
        labels = sorted(set(self.package.values()))
        out = np.array([[self.package[text] == label for label in labels] for text in texts], dtype=np.float32)
        return Encoding(20 * out, None)  # long vectors: the classifier's regularisation should not matter


def test_an_encoder_that_knows_the_packages_is_near_perfect(data):
    memo = evaluate.Memo(Oracle(data["test"] + data["validation"]))
    ran = evaluate.run(memo, ["DocstringClustering", "DocstringClassification"], data, "grace/oracle", "r")
    assert ran["DocstringClassification"]["main_score"] == 1.0
    assert ran["DocstringClustering"]["main_score"] > 0.9  # k-means may start with two centres in one package


def test_a_text_is_encoded_once_however_often_it_recurs(ran, data):
    encoded = ran[1].encoder.encoded
    assert len(encoded) == len(set(encoded)) == ran[1].geometry()["texts"]
    before = len(encoded)
    again = ran[1].encode([data["test"][0]["query"], "new", "", "new"])
    assert ran[1].encoder.encoded[before:] == ["new", ""]
    assert np.array_equal(again[1], again[3])


def test_figures_of_the_texts(ran):
    memo = evaluate.Memo(FakeEncoder(rationales=True))
    memo.encode([f"text {i}" for i in range(60)])
    rows = np.stack(list(memo.rows.values())).astype(float)
    mean = (rows @ rows.T)[~np.eye(60, dtype=bool)].mean()
    assert memo.geometry()["random_pair_cosine"] == pytest.approx(mean, abs=0.02)
    # The fake's rationales have 5, 6, 7 tokens in turn, and every fourth is cut off.
    expected = {"mean_tokens": 6.0, "truncated_share": 0.25, "well_formed_share": 0.75, "texts": 60}
    assert memo.rationale() == expected
    assert evaluate.Memo(FakeEncoder()).rationale() is None


class Broken(FakeEncoder):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def encode(self, texts, rationales=None, progress=False):
        if self.error == "nan":
            return Encoding(np.full((len(texts), 4), np.nan, dtype=np.float32), None)
        if self.error == "constant":
            return Encoding(np.ones((len(texts), 4), dtype=np.float32) / 2, None)
        raise RuntimeError("generation failed")


def test_failing_generation_stops_the_job(data):
    with pytest.raises(RuntimeError, match="generation failed"):
        evaluate.run(evaluate.Memo(Broken("raise")), DEMO[:1], data, "grace/x", "r")
    with pytest.raises(UserError, match="not finite"):
        evaluate.run(evaluate.Memo(Broken("nan")), DEMO[:1], data, "grace/x", "r")


def test_an_undefined_metric_is_missing_and_not_zero(data):
    ran = evaluate.run(evaluate.Memo(Broken("constant")), ["DocstringSTS"], data, "grace/x", "r")
    assert ran["DocstringSTS"]["main_score"] is None
    json.dumps(ran, allow_nan=False)


def test_the_papers_tasks_are_the_benchmarks():
    hub = [name for table in names.MTEB.values() for name in table.split()]
    found = {task.metadata.name: task for task in mteb_tasks.get_tasks(hub)}
    assert len(found) == 56
    assert {name: list(task.eval_splits) for name, task in found.items() if list(task.eval_splits) != ["test"]} == {
        "MSMARCO": ["dev"]
    }
    assert found["STS17"].hf_subsets == ["en-en"]
    assert len(items.leaves(found["CQADupstackRetrieval"])) == 12


def test_unknown_task_and_missing_data_are_named():
    with pytest.raises(UserError, match="NoSuchTask"):
        mteb_tasks.get_tasks(["NoSuchTask"])
    with pytest.raises(UserError, match="--data"):
        mteb_tasks.get_tasks(["DocstringSTS"])


@pytest.fixture
def job(tmp_path, data, monkeypatch):
    """Arguments of the command, with a stand-in for the model."""
    from grace import study
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: FakeEncoder(rationales=True))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "tasks.json").write_text(json.dumps({"manifest": {}, **data}))
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    spec = json.loads(study.Plan(config).spec_evaluate("reasoning", 0, "docstrings")) | {"tasks": ["DocstringSTS"]}
    out = tmp_path / "out/docstrings.json"
    names = {"--model": "model", "--data": "tasks.json", "--out": "out/docstrings.json"}
    return ["--spec", json.dumps(spec)] + [str(part) for k, v in names.items() for part in (k, tmp_path / v)], out


def test_the_stage_writes_one_whole_file(job, ran):
    arguments, out = job
    evaluate.main(arguments)
    written = json.loads(out.read_text())
    assert set(written) == {"manifest", "tasks", "geometry", "rationale"}
    assert written["tasks"]["DocstringSTS"] == ran[0]["DocstringSTS"]
    assert written["manifest"]["revision"] and written["rationale"]["mean_tokens"] > 0
    evaluate.main(arguments)  # a second run computes anew and gives the same
    assert json.loads(out.read_text())["tasks"] == written["tasks"]


def test_the_stage_writes_nothing_when_generation_fails(job, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    arguments, out = job
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: Broken("raise"))
    with pytest.raises(RuntimeError):
        evaluate.main(arguments)
    assert list(out.parent.iterdir()) == []


def test_task_data_that_is_none_is_named(job, tmp_path):
    (tmp_path / "tasks.json").write_text('{"manifest": {}, "test": []}')
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(job[0])
    assert "tasks.json: no task data" in str(stopped.value)


def rows_of(name: str, split: str) -> list[dict]:
    path = SHARED / name / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}: real data is not part of a clone")
    return [json.loads(line) for line in path.read_text().splitlines()]


def on_real_data(monkeypatch, name, dataset):
    """Run a task of the benchmark with local data in place of the hub's."""
    import mteb

    task = next(t for t in mteb.get_benchmark("MTEB(eng, v1)").tasks if t.metadata.name == name)
    task.dataset, task.data_loaded = dataset, True
    monkeypatch.setattr(mteb_tasks, "get_tasks", lambda *_: [task])
    return evaluate.run(evaluate.Memo(FakeEncoder()), [name], None, "grace/test", "r1")[name]


def test_stsbenchmark(monkeypatch):
    from datasets import Dataset, DatasetDict

    rows = [{k: row[k] for k in ("sentence1", "sentence2", "score")} for row in rows_of("stsbenchmark", "validation")]
    entry = on_real_data(monkeypatch, "STSBenchmark", DatasetDict({"test": Dataset.from_list(rows)}))
    a, b = (FakeEncoder().encode([row[key] for row in rows]).embeddings for key in ("sentence1", "sentence2"))
    expected = spearmanr([row["score"] for row in rows], (a.astype(float) * b).sum(1)).statistic
    assert entry["main_score"] == pytest.approx(expected, abs=1e-4) and expected > 0.3
    assert len(entry["items"]["parts"][0]["values"]) == len(rows) == 1500


def test_banking77(monkeypatch):
    from datasets import Dataset, DatasetDict

    parts = {split: Dataset.from_list(rows_of("banking77", split)[::step]) for split, step in PARTS.items()}
    entry = on_real_data(monkeypatch, "Banking77Classification", DatasetDict(parts))
    assert 0.1 < entry["main_score"] < 0.9  # 77 labels; a bag of hashed words is far above chance
    assert len(entry["items"]["parts"][0]["values"]) == len(parts["test"])


PARTS = {"train": 4, "test": 8}


def test_a_real_retrieval_collection_with_empty_documents(monkeypatch):
    from datasets import Dataset

    corpus = [
        {"id": row["_id"], "title": row["title"] or "", "text": row["text"] or ""} for row in rows_of("cacm", "corpus")
    ][:800]
    queries = [{"id": row["_id"], "text": row["text"]} for row in rows_of("cacm", "queries")]
    known = {row["id"] for row in corpus}
    relevant: dict[str, dict[str, int]] = {}
    for row in rows_of("cacm", "qrels"):
        if row["corpus-id"] in known:
            relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    split = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list([row for row in queries if row["id"] in relevant]),
        "relevant_docs": relevant,
        "top_ranked": None,
    }
    entry = on_real_data(monkeypatch, "SciFact", {"default": {"test": split}})
    assert len(entry["items"]["parts"][0]["values"]) == len(relevant)
    assert 0 < entry["main_score"] < 1


def test_subqueries_of_one_query_are_merged():
    saved = {"7_1": {"a": 0.2, "b": 0.5}, "7_2": {"a": 0.9}, "8_1": {"c": 0.1}}
    relevant = {"7_1": {"a": 1}, "7_2": {"a": 1}, "8_1": {"c": 1}}
    merged, judged = items._merged(saved, relevant)
    assert merged == {"7": {"a": 0.9, "b": 0.5}, "8": {"c": 0.1}}
    assert judged == {"7": {"a": 1}, "8": {"c": 1}}

"""The benchmark's own classes: all there, and real data, a real model and the real classes give what is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import HTTPError
from scipy.stats import spearmanr

from grace import tasks as names
from grace.encoder.encoder import RationaleEncoder
from grace.evaluation import evaluate, items, local_data, mteb_tasks
from grace.files import write_jsonl
from grace.section import UserError
from grace.settings import Prompt

SHARED = Path(__file__).parents[3] / "shared/data"


def folder_of(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"no {SHARED / name}: real data is not part of a clone")
    return SHARED / name


def rows_of(name: str, part: str) -> list[dict]:
    return [json.loads(line) for line in (folder_of(name) / f"{part}.jsonl").read_text().splitlines()]


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


def test_what_is_set_on_a_task_stays_with_it(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": score} for score in (1, 2)])
    (one,) = mteb_tasks.get_tasks(["STSBenchmark"], local={"STSBenchmark": str(tmp_path)})
    one.load_data()
    (other,) = mteb_tasks.get_tasks(["STSBenchmark"])
    assert one.data_loaded and not other.data_loaded and "load_data" not in vars(other)
    first, second = (items.leaves(mteb_tasks.get_tasks(["CQADupstackRetrieval"])[0])[0] for _ in range(2))
    assert first is not second and first._top_k == second._top_k == 100


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    (task,) = mteb_tasks.get_tasks(["STSBenchmark"])
    for error in (
        ConnectionError("Couldn't reach 'mteb/stsbenchmark-sts' on the Hub\nmore"),
        OSError("offline"),
        HTTPError("Connection reset by peer"),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(task, "load_data", fail)
        with pytest.raises(
            UserError,
            match=r"^task STSBenchmark: its data cannot be loaded from the hub \(.*\); .*evaluation\.local\.STS",
        ):
            evaluate._load(task)


@pytest.fixture(scope="module")
def model(tiny_folder):
    """Random weights that read the first words of a text: low scores, and quick."""
    spec = RationaleEncoder.from_pretrained(tiny_folder, rationales=False, batch_size=256).spec
    prompt = Prompt(instruction="Read.", max_prompt_tokens=48)
    return RationaleEncoder.from_spec(tiny_folder, spec.model_copy(update={"prompt": prompt}))


def test_stsbenchmark_is_spearmans_correlation(model, evaluated, tmp_path, monkeypatch):
    """With rationales, on the development split: the test split is not among the data."""
    rows = rows_of("stsbenchmark", "validation")[::5]
    write_jsonl(tmp_path / "data/validation.jsonl", rows)
    monkeypatch.setattr(model, "spec", model.spec.model_copy(update={"rationales": True, "max_new_tokens": 4}))
    hub = mteb_tasks.get_tasks

    def dev(names, data, local, sample):
        (task,) = hub(names)
        task.filter_eval_splits(["validation"])
        local_data.use(task, local[names[0]])
        return [task]

    monkeypatch.setattr(mteb_tasks, "get_tasks", dev)
    entry = evaluated("STSBenchmark", model, {"STSBenchmark": str(tmp_path / "data")})
    a, b = (model.encode([row[key] for row in rows]).embeddings.astype(float) for key in ("sentence1", "sentence2"))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = spearmanr([row["score"] for row in rows], cosine).statistic
    assert entry["main_score"] == pytest.approx(expected, abs=1e-4) and expected > 0.05
    assert len(entry["items"]["parts"][0]["values"]) == len(rows) == 300


def test_banking77_is_the_accuracy_of_logistic_regressions(model, evaluated, tmp_path):
    from sklearn.linear_model import LogisticRegression

    train, test = rows_of("banking77", "train")[::5], rows_of("banking77", "test")[::10]
    for name, rows in (("train", train), ("test", test)):
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    entry = evaluated("Banking77Classification", model, {"Banking77Classification": str(tmp_path / "data")})
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


def test_cacm_is_ndcg_by_hand(model, evaluated, tmp_path):
    documents, queries = rows_of("cacm", "corpus")[1000:2000], rows_of("cacm", "queries")
    known = {row["_id"] for row in documents}
    qrels = [row for row in rows_of("cacm", "qrels") if row["corpus-id"] in known]
    for name, rows in (("corpus", documents), ("queries", queries), ("qrels", qrels)):
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    assert any(not row["text"] for row in documents)  # documents that are a title alone
    entry = evaluated("SciFact", model, {"SciFact": str(tmp_path / "data")})

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

"""What large data need: samples, labels and search in pieces give mteb's own scores; room on the disk."""

from __future__ import annotations

import time

import numpy as np
import pytest
from datasets import Dataset

from grace.encoder.store import Store
from grace.evaluation import evaluate, mteb_tasks, scale
from grace.evaluation.embedder import Embedder
from grace.files import write_jsonl
from grace.section import UserError
from tests.evaluation.fakes import FakeEncoder, make_rows


def test_training_samples_are_those_of_mteb():
    from mteb.tasks import AmazonPolarityClassification

    labels = np.random.default_rng(0).integers(2, size=3000).tolist()
    data = Dataset.from_dict({"text": [f"text {i}" for i in range(3000)], "label": labels})
    ours, theirs = AmazonPolarityClassification(), AmazonPolarityClassification()
    scale.fit(ours)
    drawn = {}
    for name, task in (("ours", ours), ("theirs", theirs)):
        shuffled = None
        drawn[name] = []
        for experiment in range(10):
            sampled, shuffled, chosen = task._undersample_data(data, experiment, shuffled)
            drawn[name].append((sampled["text"][:], list(shuffled), chosen))
    assert drawn["ours"] == drawn["theirs"]
    assert len({tuple(chosen) for _, _, chosen in drawn["ours"]}) == 10


def test_a_million_labels_are_drawn_from_in_seconds():
    from mteb.tasks import AmazonPolarityClassification

    task = AmazonPolarityClassification()
    scale.fit(task)
    data = Dataset.from_dict({"label": np.random.default_rng(0).integers(2, size=300_000)})
    begin = time.process_time()
    task._undersample_data(data, 0)
    assert time.process_time() - begin < 5  # mteb's way looks up each label in 0.1 ms or more


def test_scores_of_a_classification_are_those_of_mteb():
    from mteb.tasks import AmazonPolarityClassification

    rng = np.random.default_rng(0)
    for kinds in (2, 5):
        labels = Dataset.from_dict({"label": rng.integers(kinds, size=200)})["label"]
        predicted = rng.integers(kinds, size=200)
        ours, theirs = AmazonPolarityClassification(), AmazonPolarityClassification()
        scale.fit(ours)
        assert ours._calculate_scores(labels, predicted) == theirs._calculate_scores(labels, predicted)


def test_labels_are_read_once_for_all_scores_of_an_experiment():
    from mteb.tasks import AmazonPolarityClassification

    task = AmazonPolarityClassification()
    scale.fit(task)
    labels = Dataset.from_dict({"label": np.random.default_rng(0).integers(2, size=100_000)})["label"]
    begin = time.process_time()
    task._calculate_scores(labels, np.zeros(100_000, dtype=int))
    assert time.process_time() - begin < 5  # mteb's way reads each label some fifty times, in 5 us or more


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


def test_mindsmall_in_pieces_is_mindsmall(tmp_path, evaluated, monkeypatch):
    local = subqueries(tmp_path)
    whole = evaluated("MindSmallReranking", FakeEncoder(), local)
    calls = []
    once = evaluate._once
    monkeypatch.setattr(evaluate, "_once", lambda *arguments: calls.append(once(*arguments)) or calls[-1])
    for limit, pieces in ((5, range(3, 6)), (1, [7])):
        calls.clear()
        monkeypatch.setattr(scale, "SUBQUERIES_AT_ONCE", limit)
        parted = evaluated("MindSmallReranking", FakeEncoder(), local)
        assert len(calls) in pieces
        assert parted["main_score"] == pytest.approx(whole["main_score"], abs=1e-5)
        values = [entry["items"]["parts"][0]["values"] for entry in (whole, parted)]
        assert sorted(values[0]) == sorted(values[1]) and len(values[0]) == 7
    assert 0 < whole["main_score"] < 1


def test_the_depth_of_search_does_not_change_the_score(tmp_path, evaluated, monkeypatch):
    rows = make_rows(400)
    write_jsonl(tmp_path / "corpus.jsonl", ({"_id": f"d{i}", "text": r["positive"]} for i, r in enumerate(rows)))
    write_jsonl(tmp_path / "queries.jsonl", ({"_id": f"q{i}", "text": rows[i]["query"]} for i in range(60)))
    judged = ({"query-id": f"q{i}", "corpus-id": f"d{j}", "score": 1} for i in range(60) for j in (i, i + 60))
    write_jsonl(tmp_path / "qrels.jsonl", judged)
    shallow = evaluated("SciFact", FakeEncoder(), {"SciFact": str(tmp_path)})
    monkeypatch.setattr(scale, "DEPTH", 1000)
    assert evaluated("SciFact", FakeEncoder(), {"SciFact": str(tmp_path)}) == shallow
    assert 0 < shallow["main_score"] < 1


def test_a_corpus_that_does_not_fit_on_the_disk_is_refused_before_it_is_embedded(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace

    local = subqueries(tmp_path)
    encoder = FakeEncoder()
    store = Store(tmp_path / "store", {"precision": "float32"}, encoder.width)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4000))  # 30 documents need 4,800
    with pytest.raises(UserError, match=r"store.*: 30 embeddings need .* free"):
        evaluate.run(Embedder(encoder, store), ["MindSmallReranking"], None, "grace/test", "r1", local)
    assert encoder.encoded == []
    (task,) = mteb_tasks.get_tasks(["MindSmallReranking"], local=local)
    task.load_data()
    known = [text for texts in scale.documents(task) for text in texts][:20]
    embedder = Embedder(encoder, store)
    embedder.encode(known)
    embedder.check_room(scale.documents(task), scale.corpus_size(task))  # only ten are missing now

"""The benchmark's own classes: all there, large data made bearable without another score, real data read right."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from huggingface_hub.errors import HTTPError
from scipy.stats import spearmanr

from grace import tasks as names
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.store import Store
from grace.evaluation import evaluate, items, local_data, mteb_tasks, scale
from grace.evaluation.embedder import Embedder
from grace.files import write_jsonl
from grace.section import UserError
from grace.settings import Prompt
from tests.evaluation.fakes import FakeEncoder, make_rows

SHARED = Path(__file__).parents[3] / "shared/data"


def folder_of(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"no {SHARED / name}: real data is not part of a clone")
    return SHARED / name


def rows_of(name: str, part: str) -> list[dict]:
    return [json.loads(line) for line in (folder_of(name) / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture
def evaluated(tmp_path):
    """Runs one task with an empty store; returns its entry of the result."""

    def run(name: str, encoder, local=None):
        store = Store(tmp_path / "store", {"precision": "float32", "name": name}, encoder.width)
        return evaluate.run(Embedder(encoder, store), [name], None, "grace/test", "r1", local)[name]

    return run


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
    write_jsonl(tmp_path / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1.0}])
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


# ---- large data ---------------------------------------------------------------------


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


# ---- data from a folder ---------------------------------------------------------------


def test_named_subsets_members_and_a_copy_of_the_repository(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 1.0}]
    write_jsonl(tmp_path / "sts17/en-en/test.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STS17"], local={"STS17": str(tmp_path / "sts17")})
    task.load_data()
    assert task.dataset["en-en"]["test"][:] == {key: [rows[0][key]] for key in rows[0]}

    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: test, path: x.jsonl}]\n---\n"
    )
    write_jsonl(tmp_path / "copy/x.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STSBenchmark"], local={"STSBenchmark": str(tmp_path / "copy")})
    task.load_data()
    assert task.dataset["test"]["sentence2"][:] == ["b"]

    (task,) = mteb_tasks.get_tasks(["CQADupstackRetrieval"])
    for leaf in items.leaves(task):
        for name in ("corpus", "queries"):
            row = {"_id": "1", "title": None, "text": leaf.metadata.name}
            write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/{name}.jsonl", [row])
        write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/qrels.jsonl", [{"query-id": "1", "corpus-id": "1"}])
    local_data.use(task, tmp_path / "cqa")
    for leaf in items.leaves(task):
        leaf.load_data()
        data = leaf.dataset["default"]["test"]
        assert data["corpus"][0] == {"id": "1", "title": "", "text": leaf.metadata.name}
        assert data["relevant_docs"] == {"1": {"1": 1}}


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("STSBenchmark", None, r"evaluation\.local\.STSBenchmark: .*: no such folder"),
        ("STSBenchmark", {}, r"has no test\.jsonl"),
        ("Banking77Classification", {"test": "{}"}, r"has no train\.jsonl; this task needs train\.jsonl and test"),
        ("STS17", {"test": "{}"}, r"has no en-en/test\.jsonl"),
        ("SciFact", {"corpus": "{}", "queries": "{}"}, r"has no qrels\.jsonl"),
    ],
)  # fmt: skip
def test_a_folder_without_the_tasks_files_is_named_at_once(tmp_path, name, files, says):
    folder = tmp_path / "data"
    if files is not None:
        folder.mkdir()
        for stem, content in files.items():
            (folder / f"{stem}.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        mteb_tasks.get_tasks([name], local={name: str(folder)})


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("corpus", '{"_id": "1", "body": "x"}', r"corpus\.jsonl: its rows have no field 'text'"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"text": "y"}', r"corpus\.jsonl, row 2: the field '_id' is missing"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"_id": ', r"corpus\.jsonl, row 2: not JSON"),
        ("qrels", '{"query-id": "1"}', r"qrels\.jsonl, row 1: the field 'corpus-id'"),
    ],
)
def test_a_broken_data_file_is_named_with_its_row(tmp_path, file, content, says):
    whole = {
        "corpus": '{"_id": "1", "text": "x"}',
        "queries": '{"_id": "1", "text": "x"}',
        "qrels": '{"query-id": "1", "corpus-id": "1", "score": 1}',
    }
    for stem, text in (whole | {file: content}).items():
        (tmp_path / f"{stem}.jsonl").write_text(text + "\n")
    (task,) = mteb_tasks.get_tasks(["SciFact"], local={"SciFact": str(tmp_path)})
    with pytest.raises(UserError, match=says):
        evaluate._load(task)


# ---- real data, a real model, the real classes, against independent computations --------


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

    def dev(names, data, local):
        (task,) = hub(names)
        task.filter_eval_splits(["validation"])
        local_data.use(task, local[names[0]])
        return [task]

    monkeypatch.setattr(mteb_tasks, "get_tasks", dev)
    entry = evaluated("STSBenchmark", model, {"STSBenchmark": str(tmp_path / "data")})
    a, b = (model.encode([row[key] for row in rows]).embeddings.astype(float) for key in ("sentence1", "sentence2"))
    expected = spearmanr([row["score"] for row in rows], (a * b).sum(1)).statistic
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
    cosine = model.encode([row["text"] for row in judged]).embeddings @ model.encode(text).embeddings.T
    found = []
    for row, scores in zip(judged, cosine.round(6).tolist(), strict=True):
        ids = [document["_id"] for document in documents]
        ranked = sorted(zip(scores, ids, strict=True), reverse=True)[:10]  # of equal scores the last id, as trec_eval
        gains = [(ident in relevant[row["_id"]]) / np.log2(rank + 2) for rank, (_, ident) in enumerate(ranked)]
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(10, len(relevant[row["_id"]]))))
        found.append(sum(gains) / ideal)
    assert entry["main_score"] == pytest.approx(np.mean(found), abs=2e-3) and np.mean(found) > 0
    assert len(entry["items"]["parts"][0]["values"]) == len(judged) > 20

"""mteb's own classes: all there, fit for large data, and in part."""

from __future__ import annotations

import time

import numpy as np
import pytest
from datasets import Dataset
from huggingface_hub.errors import HTTPError
from mteb.tasks import AmazonPolarityClassification

from grace.config import tasks as names
from grace.config.section import UserError
from grace.evaluation import local_data, mteb_tasks
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import FakeEncoder, embedder, evaluated, make_rows


def test_the_papers_tasks_are_the_benchmarks():
    hub = [name for table in names.MTEB.values() for name in table.split()]
    found = {task.metadata.name: task for task in mteb_tasks.get_tasks(hub)}
    assert len(found) == 56
    assert {name for name, task in found.items() if list(task.eval_splits) != ["test"]} == {"MSMARCO"}
    assert list(found["MSMARCO"].eval_splits) == ["dev"]
    assert found["STS17"].hf_subsets == ["en-en"]
    assert len(local_data.leaves(found["CQADupstackRetrieval"])) == 12
    leaves = [leaf.metadata for task in found.values() for leaf in local_data.leaves(task)]
    assert {(leaf.type, leaf.main_score) for leaf in leaves} == {  # of which there are items
        ("Retrieval", "ndcg_at_10"),
        ("Reranking", "map_at_1000"),
        ("Reranking", "max_over_subqueries_map_at_1000"),
        ("Clustering", "v_measure"),
        ("Classification", "accuracy"),
        ("PairClassification", "max_ap"),
        ("STS", "cosine_spearman"),
        ("Summarization", "cosine_spearman"),
    }


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
    first, second = (local_data.leaves(mteb_tasks.get_tasks(["CQADupstackRetrieval"])[0])[0] for _ in range(2))
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
            mteb_tasks.load_data(task)


# ---- large data ----------------------------------------------------------------------------


def polarity() -> tuple[AmazonPolarityClassification, AmazonPolarityClassification]:
    """A task that is fit for large data, and mteb's."""
    ours, theirs = AmazonPolarityClassification(), AmazonPolarityClassification()
    mteb_tasks._fit(ours)
    return ours, theirs


def test_training_samples_are_those_of_mteb():
    labels = np.random.default_rng(0).integers(2, size=3000).tolist()
    data = Dataset.from_dict({"text": [f"text {i}" for i in range(3000)], "label": labels})
    drawn = []
    for task in polarity():
        shuffled = None
        drawn.append([])
        for experiment in range(10):
            sampled, shuffled, chosen = task._undersample_data(data, experiment, shuffled)
            drawn[-1].append((sampled["text"][:], list(shuffled), chosen))
    assert drawn[0] == drawn[1]
    assert len({tuple(chosen) for _, _, chosen in drawn[0]}) == 10


@pytest.mark.parametrize("kinds", [2, 5])
def test_scores_of_a_classification_are_those_of_mteb(kinds):
    rng = np.random.default_rng(0)
    labels = Dataset.from_dict({"label": rng.integers(kinds, size=200)})["label"]
    predicted = rng.integers(kinds, size=200)
    ours, theirs = (task._calculate_scores(labels, predicted) for task in polarity())
    assert ours == theirs


def test_many_labels_take_seconds():
    task, _ = polarity()
    data = Dataset.from_dict({"label": np.random.default_rng(0).integers(2, size=300_000)})
    begin = time.process_time()
    task._undersample_data(data, 0)
    assert time.process_time() - begin < 5  # mteb's way looks up each label in 0.1 ms or more
    begin = time.process_time()
    task._calculate_scores(data["label"], np.zeros(300_000, dtype=int))
    assert time.process_time() - begin < 5  # mteb's way reads each label some fifty times, in 5 us or more


# ---- a part of a task: the scores of files that hold that part alone, cut by hand ----------

ROWS = make_rows(120)


def drawn(name: str, size: int, count: int) -> list[int]:
    """Rows of a draw, in their order."""
    rng = np.random.default_rng([0, *f"{name}/default/test".encode()])
    return sorted(rng.permutation(size)[:count].tolist())


def both(tmp_path, name: str, whole: dict, cut: dict, count: int):
    """Results of a draw of `count` from the whole files, and of the files that hold the cut alone."""
    for folder, files in (("whole", whole), ("cut", cut)):
        for stem, rows in files.items():
            write_jsonl(tmp_path / folder / f"{stem}.jsonl", rows)
    found = []
    for folder, part in (("whole", {name: count}), ("cut", {})):
        one = embedder(FakeEncoder(), tmp_path / f"store-{folder}")
        found.append(evaluated(one, [name], None, {name: str(tmp_path / folder)}, part)[name])
    return found


def test_pairs(tmp_path):
    rows = [
        {"sentence1": a["query"], "sentence2": b["positive"], "score": float(i % 7)}
        for i, (a, b) in enumerate(zip(ROWS, ROWS[::-1], strict=True))
    ]
    cut = [rows[i] for i in drawn("STSBenchmark", 120, 40)]
    ours, by_hand = both(tmp_path, "STSBenchmark", {"test": rows}, {"test": cut}, 40)
    assert ours.pop("sample") == {"pairs": [40, 120]}
    assert ours == by_hand and len(ours["items"]["parts"][0]["values"]) == 40


def test_pairs_of_one_row_of_lists(tmp_path):
    """As some data sets of the hub hold them."""
    rows = [{"sentence1": r["query"], "sentence2": r["positive"], "labels": i % 3 // 2} for i, r in enumerate(ROWS)]
    cut = [rows[i] for i in drawn("TwitterSemEval2015", 120, 50)]
    together = [{name: [row[name] for row in rows] for name in rows[0]}]
    ours, by_hand = both(tmp_path, "TwitterSemEval2015", {"test": together}, {"test": cut}, 50)
    assert ours.pop("sample") == {"pairs": [50, 120]} and ours == by_hand


def test_test_texts_alone(tmp_path):
    rows = [{"text": r["positive"], "label": i % 3} for i, r in enumerate(ROWS)]
    train = [{"text": r["query"], "label": i % 3} for i, r in enumerate(ROWS)]
    cut = [rows[i] for i in drawn("EmotionClassification", 120, 30)]
    whole = {"train": train, "test": rows}
    ours, by_hand = both(tmp_path, "EmotionClassification", whole, {"train": train, "test": cut}, 30)
    assert ours.pop("sample") == {"texts": [30, 120]} and ours == by_hand


def test_of_each_set_of_a_clustering_its_share(tmp_path):
    sets = [
        {"sentences": [r["positive"] for r in part], "labels": [r["label"] for r in part]}
        for part in (ROWS[:90], ROWS[90:])
    ]
    rng = np.random.default_rng([0, *b"TwentyNewsgroupsClustering/default/test"])
    cut = []
    for one, share in zip(sets, (30, 10), strict=True):
        rows = sorted(rng.permutation(len(one["labels"]))[:share].tolist())
        cut.append({name: [values[i] for i in rows] for name, values in one.items()})
    ours, by_hand = both(tmp_path, "TwentyNewsgroupsClustering", {"test": sets}, {"test": cut}, 40)
    assert ours.pop("sample") == {"texts": [40, 120]} and ours == by_hand


def collection() -> dict[str, list]:
    """60 queries, of which every fifth is not judged, and 120 documents; each judged query has two relevant ones."""
    return {
        "corpus": [{"_id": f"d{i}", "title": "", "text": r["positive"]} for i, r in enumerate(ROWS)],
        "queries": [{"_id": f"q{i}", "text": r["query"]} for i, r in enumerate(ROWS[:60])],
        "qrels": [
            {"query-id": f"q{i}", "corpus-id": f"d{i + n}", "score": 1 + n} for i in range(60) if i % 5 for n in (0, 60)
        ],
    }


def test_queries_their_documents_and_ten_times_as_many_others(tmp_path):
    whole, judged = collection(), [i for i in range(60) if i % 5]
    rng = np.random.default_rng([0, *b"SciFact/default/test"])
    asked = {f"q{judged[i]}" for i in rng.permutation(48)[:4]}
    qrels = [row for row in whole["qrels"] if row["query-id"] in asked]
    need = {row["corpus-id"] for row in qrels}
    others = [row["_id"] for row in whole["corpus"] if row["_id"] not in need]
    kept = need | {others[i] for i in rng.permutation(len(others))[:40]}
    cut = {
        "corpus": [row for row in whole["corpus"] if row["_id"] in kept],
        "queries": [row for row in whole["queries"] if row["_id"] in asked],
        "qrels": qrels,
    }
    assert (len(cut["queries"]), len(cut["corpus"])) == (4, 48)
    ours, by_hand = both(tmp_path, "SciFact", whole, cut, 4)
    assert ours.pop("sample") == {"queries": [4, 48], "documents": [48, 120]} and ours == by_hand


def test_a_rerankings_candidates_and_no_others(tmp_path):
    whole = collection()
    whole["top_ranked"] = [
        {"query-id": f"q{i}", "corpus-ids": [f"d{j % 120}" for j in range(i, i + 5)]} for i in range(60)
    ]
    asked = {f"q{[i for i in range(60) if i % 5][i]}" for i in drawn("AskUbuntuDupQuestions", 48, 6)}
    cut = {
        stem: [row for row in rows if row.get("query-id", row.get("_id")) in asked or stem == "corpus"]
        for stem, rows in whole.items()
    }
    ours, by_hand = both(tmp_path, "AskUbuntuDupQuestions", whole, cut, 6)
    part = ours.pop("sample")
    assert part["queries"] == [6, 48] and part["documents"][0] <= 6 * 6 and ours == by_hand


def test_sub_queries_of_a_query_stay_together(tmp_path):
    name = "MindSmallReranking"
    queries = [f"u{i}_{n}" for i in range(10) for n in range(3)]
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": r["positive"]} for i, r in enumerate(ROWS)])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": q, "text": f"text {q}"} for q in queries])
    write_jsonl(tmp_path / "qrels.jsonl", [{"query-id": q, "corpus-id": "d1"} for q in queries])
    write_jsonl(tmp_path / "top_ranked.jsonl", [{"query-id": q, "corpus-ids": ["d0", "d1"]} for q in queries])
    (task,) = mteb_tasks.get_tasks([name], local={name: str(tmp_path)}, sample={name: 4})
    task.load_data()
    (split,) = task.dataset["default"].values()
    users = [query.rpartition("_")[0] for query in split["queries"]["id"]]
    assert len(users) == 12 and len(set(users)) == 4 and len(split["corpus"]) == 2
    assert mteb_tasks.sampled(task) == {"queries": [12, 30], "documents": [2, 120]}


def test_a_task_that_is_no_larger_is_whole_and_nothing_is_said(tmp_path):
    whole = collection()
    ours, by_hand = both(tmp_path, "SciFact", whole, whole, 1000)
    assert ours == by_hand and "sample" not in ours


def test_a_draw_is_part_of_a_larger_one_and_the_same_when_loaded_again(tmp_path):
    rows = [{"sentence1": f"a{i}", "sentence2": "b", "score": float(i % 5)} for i in range(50)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    found = {}
    for count in (10, 20):
        given = {"STSBenchmark": str(tmp_path)}, {"STSBenchmark": count}
        (task,) = mteb_tasks.get_tasks(["STSBenchmark"], None, *given)
        task.load_data()
        found[count] = task.dataset["test"]["sentence1"][:]
        task.unload_data()
        task.load_data()
        assert task.dataset["test"]["sentence1"][:] == found[count]
    assert set(found[10]) < set(found[20]) and len(found[20]) == 20


@pytest.mark.parametrize(
    ("name", "files", "count", "said"),
    [
        (
            "EmotionClassification",
            {key: [{"text": f"t{i}", "label": i % 6} for i in range(60)] for key in ("train", "test")},
            5,
            "5 drawn items cannot hold the 6 labels of the task",
        ),
        (
            "TwitterSemEval2015",
            {"test": [{"sentence1": "a", "sentence2": f"b{i}", "labels": int(i == 7)} for i in range(90)]},
            3,
            "3 drawn items have the same 'labels', so that no score is defined",
        ),
        (
            "TwentyNewsgroupsClustering",
            {"test": [{"sentences": [f"s{i}" for i in range(40)], "labels": [i % 20 for i in range(40)]}]},
            2,
            "2 drawn items leave a set of 2 whose labels are all the same or all different, so that any clustering",
        ),
    ],
)
def test_a_draw_that_is_too_small_for_a_score(tmp_path, name, files, count, said):
    for stem, rows in files.items():
        write_jsonl(tmp_path / f"{stem}.jsonl", rows)
    (task,) = mteb_tasks.get_tasks([name], local={name: str(tmp_path)}, sample={name: count})
    with pytest.raises(UserError, match=rf"^config: evaluation\.sample\.{name}: {said}.*; raise it\.$"):
        task.load_data()

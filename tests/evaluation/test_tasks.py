"""The demo's task data: what each item must be, at the demo's and at the smoke study's size."""

from __future__ import annotations

import hashlib
import json

import pytest

from grace.config.section import UserError
from grace.evaluation import tasks
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import make_rows


@pytest.fixture(scope="module", params=[(1000, 800), (120, 60)], ids=["demo", "smoke"])
def built(request):
    test, validation = make_rows(request.param[0]), make_rows(request.param[1], seed=1)
    return test, validation, tasks.build(test, validation, seed=0)


def test_reranking_negatives_are_other_rows_of_the_same_package(built):
    test, _, data = built
    sizes = {label: sum(row["label"] == label for row in test) for label in {row["label"] for row in test}}
    for key, negatives in data["reranking"].items():
        label = test[int(key)]["label"]
        assert len(set(negatives)) == len(negatives) == min(20, sizes[label] - 1)
        assert int(key) not in negatives and all(test[i]["label"] == label for i in negatives)


def test_pairs_have_one_true_and_one_false_partner_of_the_same_package(built):
    test, _, data = built
    for (i, own, yes), (j, other, no) in zip(data["pairs"][::2], data["pairs"][1::2], strict=True):
        assert (i, own, yes, no) == (j, i, 1, 0)
        assert other != i and test[other]["label"] == test[i]["label"]


def test_sts_scores_are_the_proximity_in_the_module_tree(built):
    test, _, data = built
    for i, j, score in data["sts"]:
        same = test[i]["label"] == test[j]["label"]
        assert i != j and score == same + (test[i]["sublabel"] == test[j]["sublabel"])
    assert {item[2] for item in data["sts"]} == {0, 1, 2}
    assert len({(i, j) for i, j, _ in data["sts"]}) == len(data["sts"])


def test_clustering_sets_are_disjoint_and_cover_the_split(built):
    test, _, data = built
    assert 5 <= len(data["clustering"]) <= 10
    assert sorted(i for part in data["clustering"] for i in part) == list(range(len(test)))


def test_classification_trains_on_validation_and_knows_every_test_label(built):
    test, validation, data = built
    task = data["classification"]
    assert {test[i]["label"] for i in task["test"]} <= set(task["labels"])
    assert {validation[i]["label"] for i in task["train"]} == set(task["labels"])


def test_choice_has_the_querys_own_description_and_three_of_its_package(built):
    _, validation, data = built
    owner = {tasks._cut(row["positive"]): row for row in validation}
    for item in data["choice"]:
        rows = [owner[text] for text in item["choices"]]
        assert len(rows) == 4 and len({row["label"] for row in rows}) == 1
        assert rows[item["answer"]]["query"] == item["query"]
    assert {item["answer"] for item in data["choice"]} == {0, 1, 2, 3}


def test_same_seed_same_data_other_seed_other_draws(built):
    test, validation, data = built
    assert tasks.build(test, validation, seed=0) == data
    assert tasks.build(test, validation, seed=1)["sts"] != data["sts"]


def test_long_texts_are_cut_at_a_word():
    cut = tasks._cut("word " * 200)
    assert len(cut) <= tasks.CHARACTERS and cut.endswith("word")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda test, val: (test[:6], val), "data.test"),
        (lambda test, val: ([{**row, "label": str(i)} for i, row in enumerate(test)], val), "data.test"),
        (lambda test, val: ([{**row, "label": "one"} for row in test], val), "data.test"),
        (lambda test, val: (test, []), "data.validation"),
    ],
)
def test_a_split_too_small_names_its_key(change, names):
    with pytest.raises(UserError, match=names):
        tasks.build(*change(make_rows(120), make_rows(60, 1)), seed=0)


def test_the_stage_writes_one_file_with_its_manifest(tmp_path):
    for name, size in (("test", 120), ("validation", 60)):
        write_jsonl(tmp_path / f"{name}.jsonl", make_rows(size, seed=len(name)))
    arguments = ["--spec", '{"seed": 0}', "--out", str(tmp_path / "out/tasks.json")]
    for name in ("test", "validation"):
        arguments += [f"--{name}", str(tmp_path / f"{name}.jsonl")]
    tasks.main(arguments)
    written = json.loads((tmp_path / "out/tasks.json").read_text())
    assert written["manifest"]["stage"] == "tasks" and len(written["test"]) == 120

    (tmp_path / "test.jsonl").write_text('{"id": "1", "query": "q", "positive": "p", "label": "numpy"}\n')
    with pytest.raises(SystemExit) as stopped:
        tasks.main(arguments)
    assert "test.jsonl, row 1: the field 'sublabel'" in str(stopped.value)


def test_a_part_of_the_rows_makes_the_same_tasks_smaller(tmp_path):
    test, validation = make_rows(300), make_rows(200, seed=1)
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({"manifest": {"settings": {"seed": 0}}, **tasks.build(test, validation, seed=0)}))
    whole, part = tasks.load([path]), tasks.load([path], 80)
    assert len(whole["test"]) == 300 and len(part["test"]) == len(part["validation"]) == 80
    assert part == tasks.load([path], 80)
    assert all(row in whole["test"] for row in part["test"]) and part["test"] != whole["test"][:80]
    assert part["pairs"] == tasks.build(part["test"], part["validation"], seed=0)["pairs"]
    assert len({row["label"] for row in part["test"]}) > 3  # not the first ones of the file, which are of one package
    assert tasks.load([path], 1000)["test"] == whole["test"]
    with pytest.raises(UserError, match=r"evaluation\.rows: 4 are too few: "):
        tasks.load([path], 4)


def test_rows_come_by_the_digest_of_their_document(tmp_path):
    rows = make_rows(30)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows[::-1])
    expected = sorted(rows, key=lambda row: hashlib.blake2b(row["positive"].encode()).hexdigest())
    assert tasks.by_hash(tmp_path / "a.jsonl") == tasks.by_hash(tmp_path / "b.jsonl") == expected != rows


def test_equal_documents_count_once(tmp_path):
    rows = make_rows(3)
    write_jsonl(tmp_path / "a.jsonl", [*rows, {**rows[0], "id": "again", "query": "another"}])
    assert {row["id"] for row in tasks.by_hash(tmp_path / "a.jsonl")} == {"row0", "row1", "row2"}


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match=r"none\.jsonl: holds no rows; raise data\.test"):
        tasks.by_hash(tmp_path / "none.jsonl")
    write_jsonl(tmp_path / "bare.jsonl", [*make_rows(1), {"id": "1", "positive": "a"}])
    with pytest.raises(UserError, match="row 2: the field 'query' is missing"):
        tasks.by_hash(tmp_path / "bare.jsonl")

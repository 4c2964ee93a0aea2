import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.data.split import assert_no_leakage, leaks, parts, split
from grace.section import UserError
from grace.specs import SplitSpec
from tests.data.commands import one_sentence, read, run, write


def spec(test=2.0, validation=0.0, kind="first", cosine=0.6):
    return SplitSpec(test=test, validation=validation, split=kind, near_duplicate_cosine=cosine, seed=0)


def pair(at, query=None, positive=None, **more):
    words = " ".join(f"w{at}x{i}" for i in range(8))
    return {"id": str(at), "query": query or f"query {words[:12]}", "positive": positive or words, **more}


def test_sizes_and_order():
    rows = [pair(at, source="ab"[at % 2]) for at in range(100)]
    train, validation, test = parts(rows, 10.0, 5.0, "first", 0)
    assert (test, validation, train) == (rows[:10], rows[10:15], rows[15:])
    train, validation, test = parts(rows, 0.1, 0.02, "first", 0)  # of each source
    assert [row["id"] for row in test] == [str(at) for at in range(10)]
    assert [row["id"] for row in validation] == ["10", "11"]
    train, validation, test = parts(rows, 10.0, 0.1, "random", 0)
    assert (len(train), len(validation), len(test)) == (80, 10, 10) and test != rows[:10]
    assert sorted((*train, *validation, *test), key=lambda row: int(row["id"])) == rows
    assert parts(rows, 10.0, 0.1, "random", 0)[2] == test != parts(rows, 10.0, 0.1, "random", 1)[2]


def test_planted_copies_are_removed_from_training_only():
    rows = [pair(at) for at in range(60)]
    document, query = rows[0]["positive"], "how does one sort a linked list in place"
    rows[1]["query"] = query
    rows[10]["positive"] = document.upper() + " "  # a copy of a test document
    rows[11]["positive"] = document + " extra"  # a near-duplicate of it
    rows[12]["query"] = document  # asked as a query
    rows[13]["query"] = "how does one sort a linked list in place now"
    rows[14]["positive"] = rows[2]["positive"] + " end"  # near a validation document
    train, validation, test, report = split(rows, spec(test=2.0, validation=3.0))
    assert [row["id"] for row in test] == ["0", "1"] and len(validation) == 3
    assert {row["id"] for row in rows[5:]} - {row["id"] for row in train} == {"10", "11", "12", "13", "14"}
    assert report["removed"] == {"train": {"rows": 5}, "validation": {"rows": 0}}
    assert report["kept"] == {"train": 50, "validation": 3, "test": 2}
    assert report["checked"]["train against test"]["max_cosine"] <= 0.6


def test_validation_is_checked_against_test_and_copies_without_cosine():
    rows = [pair(at) for at in range(20)]
    rows[2]["positive"] = rows[0]["positive"]
    rows[9]["query"] = rows[1]["query"].upper()
    train, validation, _, report = split(rows, spec(validation=2.0, cosine=None))
    assert [row["id"] for row in validation] == ["3"] and "9" not in {row["id"] for row in train}
    assert report["checked"]["train against test"]["max_cosine"] is None


def test_negatives_that_are_held_out_are_not_trained_on():
    rows = [pair(at, negatives=[f"n{at}a", f"n{at}b"]) for at in range(10)]
    rows[5]["negatives"][0] = rows[0]["positive"]
    rows[6]["negatives"] = [rows[0]["query"]]
    train, _, _, report = split(rows, spec(cosine=None))
    found = {row["id"]: row["negatives"] for row in train}
    assert found["5"] == ["n5b"] and "6" not in found
    assert report["removed"]["train"] == {"rows": 1, "negatives": 2}


def test_texts_only():
    rows = [{"id": str(at), "text": pair(at)["positive"]} for at in range(20)]
    rows[7]["text"] = rows[1]["text"] + " more"
    train, _, test, _ = split(rows, spec())
    assert len(test) == 2 and len(train) == 17 and "7" not in {row["id"] for row in train}


def test_assert_no_leakage_objects_and_agrees_with_dense_float64():
    held = ["the cat sat on the mat", "a graph is made of nodes and edges"]
    assert assert_no_leakage(["quite another text"], held, 0.6)["max_cosine"] < 0.6
    with pytest.raises(AssertionError, match="is trained on"):
        assert_no_leakage(["The cat  sat on the mat"], held, None)
    with pytest.raises(AssertionError, match="cosine of"):
        assert_no_leakage(["a graph is made of nodes and of edges"], held, 0.6)
    train = ["the cat sat on a chair", "a graph of nodes", "the dog"]
    vectors = TfidfVectorizer(dtype=np.float64).fit_transform(train + held).toarray()
    cosines = vectors[:3] @ vectors[3:].T
    assert assert_no_leakage(train, held, 0.9)["max_cosine"] == pytest.approx(cosines.max(), abs=1e-4)
    for cosine in (0.2, 0.5):
        assert leaks(train, held, cosine).tolist() == (cosines > cosine).any(axis=1).tolist()
    assert assert_no_leakage([], held, 0.5)["max_cosine"] == 0


def test_no_training_row_left():
    with pytest.raises(UserError, match=r"data\.test = 10 .*no training row of 5"):
        split([pair(at) for at in range(5)], spec(test=10.0))
    with pytest.raises(UserError, match="no training row"):  # all of them copies
        split([pair(0) for _ in range(5)], spec(test=1.0))


def test_stage(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair(at) for at in range(30)])
    names = ("train", "validation", "test", "report")
    outputs = [item for name in names for item in (f"--{name}", tmp_path / "out" / f"{name}.jsonl")]
    given = ("--spec", spec(kind="random", validation=0.1).model_dump_json(), "--pairs", pairs)
    done = run("split", *given, *outputs)
    assert done.returncode == 0, done.stderr
    assert [len(read(tmp_path / "out" / f"{name}.jsonl")) for name in names[:3]] == [25, 3, 2]
    report = json.loads((tmp_path / "out" / "report.jsonl").read_text())
    assert report["drawn"] == {"train": 25, "validation": 3, "test": 2} and "manifest" in report
    given = ("--spec", spec(test=40.0).model_dump_json(), "--pairs", pairs)
    one_sentence(run("split", *given, *outputs), "data.test = 40")

import json
from functools import partial

from grace.data.triples import main
from tests.data.commands import call, one_sentence, read, run, write
from tests.data.test_mining import random_rows, settings


def stage(tmp_path, rows, asked, by=None):
    train = write(tmp_path / "train.jsonl", rows)
    out, report = tmp_path / "out" / "triples.jsonl", tmp_path / "out" / "report.json"
    given = json.dumps({"mining": asked.model_dump()})
    return (by or partial(call, main))("--spec", given, "--train", train, "--out", out, "--report", report), out, report


def test_own_negatives_pass_through_in_order(tmp_path):
    rows = random_rows(20)
    rows[3]["negatives"] = rows[17]["negatives"] = ["its own", "another"]
    done, out, report = stage(tmp_path, rows, settings())
    assert done.returncode == 0, done.stderr
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[3] == rows[3] and len(found[4]["negatives"]) == 2 and "_at" not in found[4]
    counts = json.loads(report.read_text())
    assert (counts["read"], counts["with_own_negatives"], counts["kept"]) == (20, 2, 20)


def test_all_rows_have_as_many_negatives_as_most(tmp_path):
    """`pairs` and `split` take one out here and there; a batch needs the same number of every row."""
    rows = [{"id": str(i), "query": f"q{i}", "positive": f"p{i}", "negatives": ["a", "b"]} for i in range(5)]
    rows[1]["negatives"], rows[4]["negatives"] = ["a"], ["a", "b", "c"]
    done, out, report = stage(tmp_path, rows, settings())
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["negatives"]) for row in read(out)] == [(i, ["a", "b"]) for i in "0234"]
    assert json.loads(report.read_text())["dropped"] == {"fewer than 2 negatives": 1}


def test_nothing_left_and_missing_field(tmp_path):
    done, out, _ = stage(tmp_path, random_rows(20), settings(margin=0.99), by=partial(run, "triples"))
    one_sentence(done, "data.mining.margin", "train.jsonl")
    assert list(out.parent.iterdir()) == []
    done, _, _ = stage(tmp_path, [{"id": "0", "query": "q"}], settings())
    one_sentence(done, "row 1", "'positive'")
    done, _, _ = stage(tmp_path, [], settings())
    one_sentence(done, "holds no row")

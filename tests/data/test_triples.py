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
    rows[3]["negatives"] = rows[17]["negatives"] = ["its own"]
    done, out, report = stage(tmp_path, rows, settings())
    assert done.returncode == 0, done.stderr
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[3] == rows[3] and len(found[4]["negatives"]) == 2 and "_at" not in found[4]
    counts = json.loads(report.read_text())
    assert (counts["read"], counts["with_own_negatives"], counts["kept"]) == (20, 2, 20)


def test_nothing_left_and_missing_field(tmp_path):
    done, out, _ = stage(tmp_path, random_rows(20), settings(margin=0.99), by=partial(run, "triples"))
    one_sentence(done, "data.mining.margin", "train.jsonl")
    assert list(out.parent.iterdir()) == []
    done, _, _ = stage(tmp_path, [{"id": "0", "query": "q"}], settings())
    one_sentence(done, "row 1", "'positive'")
    done, _, _ = stage(tmp_path, [], settings())
    one_sentence(done, "holds no row")

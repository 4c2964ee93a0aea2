"""The comparison of two runs finds what differs, and nothing else."""

import json

from tests.workflow.golden import compare


def write(root, score, cell="1.00"):
    for folder in ("tables", "mteb/tiny/base/seed0"):
        (root / folder).mkdir(parents=True)
    result = {"manifest": {"seconds": score}, "tasks": {"T": {"score": score, "items": [1, 0]}}}
    (root / "mteb/tiny/base/seed0/sts.json").write_text(json.dumps(result))
    (root / "tables/table1.csv").write_text(f"run,score\nbase,{cell}\n")
    return root


def test_two_runs(tmp_path):
    before = write(tmp_path / "a", 0.5)
    assert compare(before, write(tmp_path / "b", 0.5)) == []
    after = write(tmp_path / "c", 0.25, cell="1.01")
    (after / "audit.json").write_text("{}")
    assert compare(before, after) == [
        "tables/table1.csv[0].score: 1.00 is now 1.01",
        "mteb/tiny/base/seed0/sts.json.tasks.T.score: 0.5 is now 0.25",
        f"audit.json: only in {after}",
    ]


def test_how_a_result_was_made_may_differ(tmp_path):
    before, after = write(tmp_path / "a", 0.5), write(tmp_path / "b", 0.5)
    path = after / "mteb/tiny/base/seed0/sts.json"
    path.write_text(path.read_text().replace('{"seconds": 0.5}', '{"seconds": 99, "commit": "x"}'))
    assert compare(before, after) == []

import json

from grace.use.page import cases
from tests.use.made_study import Study


def test_steps_are_in_the_order_of_training_and_other_runs_apart(tmp_path):
    Study(tmp_path, 3).add_cases()
    path = tmp_path / "cases/tiny.json"
    record = json.loads(path.read_text())
    record["cases"][0]["rationales"].reverse()
    path.write_text(json.dumps(record))
    found, why = cases.read(tmp_path, "tiny")
    assert why == "" and found["run"] == "grace"
    assert [step["step"] for step in found["cases"][0]["steps"]] == [0, 20, None]
    assert [other["run"] for other in found["cases"][0]["others"]] == ["other"]


def test_why_there_are_none_is_said(tmp_path):
    assert cases.read(tmp_path, "tiny")[1].endswith("snakemake makes it (rule cases).")
    (tmp_path / "cases").mkdir()
    for text, said in (('{"manifest": {}}', "another version"), ("{", "not whole"), ('{"a": 1}', "no manifest")):
        (tmp_path / "cases/tiny.json").write_text(text)
        found, why = cases.read(tmp_path, "tiny")
        assert found is None and said in why

"""What is wrong with the results of a table: said at the cells that it bears on and below, and nothing crashes."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from grace.report.scoring import bootstrap, scores
from tests.report import made
from tests.report.made import Files, spec_of

STS = "DocstringSTS"


@pytest.fixture
def study(tmp_path) -> list[Files]:
    return made.study(tmp_path, seeds=(0,))


def out_of(study, tmp_path, name="table1"):
    """The written table, its tidy rows, and the problems of its record by kind."""
    out = made.run(spec_of(study, name), tmp_path / "tables")
    frame = pd.read_csv(out.csv).query("backbone == 'tiny'").set_index(["run", "column"])
    return out, frame, {one["kind"]: one for one in out.record["problems"]}


def row(out, run: str) -> list[str]:
    """A run's cells in the Markdown."""
    lines = (line.split("|")[1:-1] for line in out.md.splitlines() if line.startswith("| tiny"))
    return next([cell.strip() for cell in cells][2:] for cells in lines if cells[1].strip() == run)


def file(study, run: str):
    return next(one.mteb for one in study if one.run == run)


def set_score(task: str, value):
    def edit(result):
        result["tasks"][task]["main_score"] = value

    return edit


def test_whole_results_have_no_sign(study, tmp_path):
    out, frame, problems = out_of(study, tmp_path)
    assert not problems and "ᵃ" not in out.md and frame["note"].loc["cl"].drop("Summarization").isna().sum() == 9


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("NaN", r"is not a number \(nan\)"),
        ("-Infinity", r"is not a number \(-inf\)"),
        ('"0.5"', r"is not a number \('0.5'\)"),
        ("null", "is undefined"),
        ("true", r"is not a number \(True\)"),
    ],
)
def test_a_score_that_is_no_number_is_a_missing_cell_with_a_note(study, tmp_path, value, said):
    path = file(study, "cl")
    text = path.read_text()
    found = json.loads(text)["tasks"][STS]["main_score"]
    path.write_text(text.replace(str(found), value))
    out, frame, problems = out_of(study, tmp_path)
    assert pd.isna(frame.loc[("cl", "STS"), "ours"]) and pd.isna(frame.loc[("cl", "Avg (tasks)"), "ours"])
    assert frame.loc[("cl", "Retrieval"), "ours"] > 0
    assert re.search(said, frame.loc[("cl", "STS"), "note"]) and re.search(said, problems["score"]["text"])
    assert (problems["score"]["task"], problems["score"]["path"]) == (STS, str(path))
    cells = row(out, "cl")
    assert re.fullmatch("— .+", cells[5]) and re.fullmatch("— .+", cells[7])  # STS and the average carry the sign
    assert re.search(said, out.md) and "edited" in problems  # the hash is of another content


@pytest.mark.parametrize("score", [0.5, None])
def test_a_task_in_two_files_is_shown_from_neither(study, tmp_path, score):
    spec = spec_of(study)
    content = json.loads(file(study, "cl").read_text())
    second = {"tasks": {STS: {**content["tasks"][STS], "main_score": score}}, "geometry": None, "rationale": None}
    other = made.write(tmp_path / "cl-0-other.json", second)
    spec.cells[2].results.append(str(other))
    out = made.run(spec, tmp_path / "t")
    problem = out.record["problems"][-1]
    assert (problem["kind"], problem["task"]) == ("duplicated", STS)
    assert [one["kind"] for one in out.record["problems"][:-1]] == ["score"] * (score is None)
    assert "cl-0.json" in problem["text"] and "cl-0-other.json" in problem["text"] and "delete" in problem["text"]
    cells = row(out, "cl")
    assert cells[5] == cells[7] and cells[5] in ("— ᵃ", "— ᵃᵇ") and "ᵃ" not in cells[0]
    assert re.search(f"- [ᵃᵇ] {STS} stands in", out.md)


def test_a_task_twice_in_one_file_is_not_shown(study, tmp_path):
    path = file(study, "cl")
    entry = json.dumps(json.loads(path.read_text())["tasks"][STS])
    path.write_text(path.read_text().replace(f'"{STS}":', f'"{STS}": {entry}, "{STS}":', 1))
    out, frame, problems = out_of(study, tmp_path)
    assert list(problems) == ["duplicated"] and problems["duplicated"]["task"] == STS
    assert row(out, "cl")[5] == "— ᵃ" and "twice" in frame.loc[("cl", "STS"), "note"]


def test_results_of_two_mteb_versions_are_flagged_where_they_meet(study, tmp_path):
    path = file(study, "cl")
    content = json.loads(path.read_text())
    content.pop("manifest")
    made.write(path, content, versions={"mteb": "2.9.0"})
    out, frame, problems = out_of(study, tmp_path)
    assert "mteb 2.9.0, most of this table with 2.10.1" in problems["version"]["text"]
    assert problems["version"]["path"] == str(path)
    assert row(out, "cl")[0].split()[1] == "ᵃ" and "**" not in row(out, "cl")[0]  # no difference is said to be sure
    assert "ᵃ" not in row(out, "base")[0] and frame.loc[("cl", "STS"), "ours"] > 0


def test_a_reference_of_another_version_flags_all_that_is_compared_with_it(study, tmp_path):
    path = file(study, "reasoning")
    content = json.loads(path.read_text())
    content.pop("manifest")
    made.write(path, content, versions={"mteb": "3.0"})
    out, _, _ = out_of(study, tmp_path)
    assert all("ᵃ" in row(out, run)[0] and "**" not in row(out, run)[0] for run in ("base", "reasoning", "cl"))


def test_of_two_versions_that_are_even_the_older_is_flagged(tmp_path):
    study = made.study(tmp_path, seeds=(0,))[:2]
    for one, version in zip(study, ("2.9.0", "2.10.1"), strict=True):
        content = json.loads(one.mteb.read_text())
        content.pop("manifest")
        made.write(one.mteb, content, versions={"mteb": version})
    problems = scores.load(spec_of(study).cells, 10).problems
    assert [one.path for one in problems] == [str(study[0].mteb)]


def test_an_edited_result_is_shown_and_flagged(study, tmp_path):
    made.by_hand(file(study, "cl"), set_score(STS, 0.99))
    out, frame, problems = out_of(study, tmp_path)
    assert list(problems) == ["edited"] and "cl-0.json was edited after it was made" in problems["edited"]["text"]
    assert frame.loc[("cl", "STS"), "ours"] == 99.0 and "edited" in frame.loc[("cl", "STS"), "note"]
    assert row(out, "cl")[5].startswith("99.00 ᵃ") and "ᵃ" not in row(out, "base")[5]
    assert '<sup><a href="#table1-note-a">a</a></sup>' in out.html and '<li id="table1-note-a">' in out.html
    assert r"99.00\textsuperscript{a}" in out.tex and r"\textsuperscript{a} " in out.tex


def test_a_result_without_hash_is_flagged_as_such(study, tmp_path):
    made.by_hand(file(study, "cl"), lambda value: value["manifest"].pop("content"))
    out, _, problems = out_of(study, tmp_path)
    assert list(problems) == ["unhashed"] and "holds no hash" in problems["unhashed"]["text"]
    assert row(out, "cl")[0].startswith("**") and "ᵃ" in row(out, "cl")[0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "not whole"),
        (lambda text: "", "not whole"),
        (lambda text: "[]", "no manifest"),
        (lambda text: '{"manifest": 3}', "no manifest"),
        (lambda text: '{"manifest": {}}', "holds no tasks"),
        (lambda text: text.replace('"main_score"', '"score"'), "is undefined"),
        (lambda text: text.replace("DocstringS", "Other"), "there is no"),
    ],
)
def test_a_broken_file_leaves_its_cells_empty_and_says_what_to_do(study, tmp_path, damage, says):
    path = file(study, "cl")
    path.write_text(damage(path.read_text()))
    out, frame, _ = out_of(study, tmp_path)
    assert pd.isna(frame.loc[("cl", "STS"), "ours"]) and pd.isna(frame.loc[("cl", "Avg (tasks)"), "ours"])
    assert re.search(f"cl-0.json.*{says}.*make it again with snakemake --force", frame.loc[("cl", "STS"), "note"])
    assert re.fullmatch("— .+", row(out, "cl")[5]) and says in out.md
    assert frame.loc[("base", "STS"), "ours"] > 0


def test_a_folder_in_place_of_a_file_is_no_crash(study, tmp_path):
    path = file(study, "cl")
    path.unlink()
    path.mkdir()
    _, frame, problems = out_of(study, tmp_path)
    assert "cannot be read" in problems["broken"]["text"] and pd.isna(frame.loc[("cl", "STS"), "ours"])


def test_results_of_different_task_data_have_no_interval(study, tmp_path):
    made.change(file(study, "cl"), lambda value: value["tasks"][STS]["items"]["parts"][0]["values"].pop())
    out, frame, problems = out_of(study, tmp_path)
    assert f"{STS} has 199 items" in problems["items"]["text"] and "has 200" in problems["items"]["text"]
    cell = frame.loc[("cl", "STS")]
    assert cell["ours"] > 0 and pd.isna(cell["low"]) and cell["delta_vs_reasoning"] > 0 and pd.isna(cell["delta_low"])
    assert re.fullmatch(r"\d\d\.\d\d ᵃ", row(out, "cl")[5]) and frame.loc[("base", "STS"), "low"] > 0
    assert pd.isna(frame.loc[("cl", "Avg (tasks)"), "low"]) and frame.loc[("cl", "Retrieval"), "low"] > 0


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({"statistic": "mean", "parts": [{"values": [0.5, float("nan")]}]}, "not all numbers"),
        ({"statistic": "spearman", "parts": [{"values": [0.5, 1.0], "gold": [1]}]}, "not whole"),
        ({"statistic": "median", "parts": [{"values": [0.5]}]}, "no known statistic"),
        ({"statistic": "mean", "parts": []}, "are missing"),
        ("many", "no known statistic"),
    ],
)
def test_items_that_cannot_be_resampled_are_said(study, tmp_path, items, says):
    made.by_hand(file(study, "cl"), lambda value: value["tasks"][STS].update(items=items))
    _, frame, problems = out_of(study, tmp_path)
    assert says in problems["items"]["text"] and pd.isna(frame.loc[("cl", "STS"), "low"])


def test_results_of_other_weights_are_flagged(study, tmp_path):
    """Two groups of one model, of which one was made before the model was trained again."""
    spec = spec_of(study)
    old = made.write(tmp_path / "cl-0-old.json", {"tasks": {}, "geometry": None, "rationale": None}, revision="0ld")
    spec.cells[2].results.append(str(old))
    out = made.run(spec, tmp_path / "t")
    found = {one["path"]: one["text"] for one in out.record["problems"] if one["kind"] == "weights"}
    assert set(found) == {str(old), str(file(study, "cl"))}  # which of the two is old cannot be known
    assert "made with other weights or settings than" in found[str(old)] and "cl-0.json" in found[str(old)]
    assert "ᵃ" in row(out, "cl")[0]


def test_many_files_with_one_problem_share_a_letter(study, tmp_path):
    for one in study:
        made.by_hand(one.mteb, lambda value: value["manifest"].pop("content"))
    out, _, _ = out_of(study, tmp_path)
    assert len(out.record["problems"]) == 5 and "- ᵃ" in out.md and "- ᵇ" not in out.md
    assert "The same holds for" in out.md


def test_what_a_file_should_hold_and_does_not_is_said(study, tmp_path):
    made.change(file(study, "cl"), lambda value: value["tasks"].pop(STS))
    out, _, problems = out_of(study, tmp_path)
    assert problems["absent"]["task"] == STS and row(out, "cl")[5] == "— ᵃ"


def test_a_resample_without_value_leaves_no_interval():
    empty = scores.Estimate(1.0, np.full(5, np.nan), 1, None, [])
    assert empty.interval is None and scores.difference(empty, empty) == (0.0, None)
    assert bootstrap.interval(np.array([0.0, np.nan, 1.0])) == pytest.approx((0.025, 0.975))


def test_tokens_are_the_mean_over_all_texts_and_need_every_file(tmp_path):
    one = scores.Seed(0, tokens={"a": (10.0, 1), "b": (40.0, 2)})
    found = scores.tokens([one])
    assert found is not None and found.point == 30.0 and found.sources == ["a", "b"]
    one.missing.append("c")
    assert scores.tokens([one]) is None

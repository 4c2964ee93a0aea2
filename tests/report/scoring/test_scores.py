"""What is wrong with the results of a table: said at the cells that it bears on and below, and nothing crashes."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from grace.report.scoring import bootstrap, scores
from grace.report.scoring.results import Seed
from tests.report import made
from tests.report.made import spec_of

STS = "DocstringSTS"


@pytest.fixture
def study(tmp_path):
    return made.study(tmp_path, seeds=(0,))


@pytest.fixture
def path(study):
    """The result of `cl`."""
    return result(study, "cl")


def result(study, run: str):
    return next(one.mteb for one in study if one.run == run)


def remade(path, **manifest) -> None:
    content = json.loads(path.read_text())
    content.pop("manifest")
    made.write(path, content, **manifest)


def table(study, folder, spec=None) -> SimpleNamespace:
    """The written table: its texts, its tidy rows by run and column, the problems of its record by kind."""
    out = made.run(spec or spec_of(study), folder / "tables")
    cells = pd.read_csv(out.csv).query("backbone == 'tiny'").set_index(["run", "column"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.md.splitlines() if "| tiny" in line]
    rows = {run: shown for _, run, *shown in lines}  # 0 is Retrieval, 5 STS, 7 the average
    problems = out.record["problems"]
    return SimpleNamespace(
        out=out, cells=cells, rows=rows, all=problems, problems={one["kind"]: one for one in problems}
    )


def test_whole_results_have_no_sign(study, tmp_path):
    found = table(study, tmp_path)
    assert not found.all and "ᵃ" not in found.out.md
    assert found.cells["note"].loc["cl"].drop("Summarization").isna().sum() == 9


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
def test_a_score_that_is_no_number_is_a_missing_cell_with_a_note(study, path, tmp_path, value, said):
    text = path.read_text()
    path.write_text(text.replace(str(json.loads(text)["tasks"][STS]["main_score"]), value))
    found = table(study, tmp_path)
    ours, problem = found.cells["ours"].loc["cl"], found.problems["score"]
    assert pd.isna(ours["STS"]) and pd.isna(ours["Avg (tasks)"]) and ours["Retrieval"] > 0
    assert re.search(said, found.cells.loc[("cl", "STS"), "note"]) and re.search(said, problem["text"])
    assert (problem["task"], problem["path"]) == (STS, str(path))
    assert all(re.fullmatch("— .+", found.rows["cl"][place]) for place in (5, 7))  # both carry the sign
    assert re.search(said, found.out.md) and "edited" in found.problems  # the hash is of another content


@pytest.mark.parametrize("score", [0.5, None])
def test_a_task_in_two_files_is_shown_from_neither(study, path, tmp_path, score):
    spec = spec_of(study)
    task = {**json.loads(path.read_text())["tasks"][STS], "main_score": score}
    content = {"tasks": {STS: task}, "geometry": None, "rationale": None}
    spec.cells[2].results.append(str(made.write(tmp_path / "cl-0-other.json", content)))
    found = table(study, tmp_path, spec)
    *others, problem = found.all
    assert (problem["kind"], problem["task"]) == ("duplicated", STS)
    assert [one["kind"] for one in others] == ["score"] * (score is None)
    assert all(part in problem["text"] for part in ("cl-0.json", "cl-0-other.json", "delete"))
    cells = found.rows["cl"]
    assert cells[5] == cells[7] and cells[5] in ("— ᵃ", "— ᵃᵇ") and "ᵃ" not in cells[0]
    assert re.search(f"- [ᵃᵇ] {STS} stands in", found.out.md)


def test_a_task_twice_in_one_file_is_not_shown(study, path, tmp_path):
    entry = json.dumps(json.loads(path.read_text())["tasks"][STS])
    path.write_text(path.read_text().replace(f'"{STS}":', f'"{STS}": {entry}, "{STS}":', 1))
    found = table(study, tmp_path)
    assert list(found.problems) == ["duplicated"] and found.problems["duplicated"]["task"] == STS
    assert found.rows["cl"][5] == "— ᵃ" and "twice" in found.cells.loc[("cl", "STS"), "note"]


def test_results_of_two_mteb_versions_are_flagged_where_they_meet(study, path, tmp_path):
    remade(path, versions={"mteb": "2.9.0"})
    found = table(study, tmp_path)
    assert "mteb 2.9.0, most of this table with 2.10.1" in found.problems["version"]["text"]
    assert found.problems["version"]["path"] == str(path)
    first = found.rows["cl"][0]
    assert first.split()[1] == "ᵃ" and "**" not in first  # no difference is said to be sure
    assert "ᵃ" not in found.rows["base"][0] and found.cells.loc[("cl", "STS"), "ours"] > 0


def test_a_reference_of_another_version_flags_all_that_is_compared_with_it(study, tmp_path):
    remade(result(study, "reasoning"), versions={"mteb": "3.0"})
    rows = table(study, tmp_path).rows
    assert all("ᵃ" in rows[run][0] and "**" not in rows[run][0] for run in ("base", "reasoning", "cl"))


def test_of_two_versions_that_are_even_the_older_is_flagged(study):
    for one, version in zip(study[:2], ("2.9.0", "2.10.1"), strict=True):
        remade(one.mteb, versions={"mteb": version})
    problems = scores.load(spec_of(study[:2]).cells, 10).problems
    assert [one.path for one in problems] == [str(study[0].mteb)]


def test_an_edited_result_is_shown_and_flagged(study, path, tmp_path):
    made.by_hand(path, lambda value: value["tasks"][STS].update(main_score=0.99))
    found = table(study, tmp_path)
    assert list(found.problems) == ["edited"]
    assert "cl-0.json was edited after it was made" in found.problems["edited"]["text"]
    cell = found.cells.loc[("cl", "STS")]
    assert cell["ours"] == 99.0 and "edited" in cell["note"]
    assert found.rows["cl"][5].startswith("99.00 ᵃ") and "ᵃ" not in found.rows["base"][5]
    assert '<sup><a href="#table1-note-a">a</a></sup>' in found.out.html and '<li id="table1-note-a">' in found.out.html
    assert r"99.00\textsuperscript{a}" in found.out.tex and r"\textsuperscript{a} " in found.out.tex


def test_a_result_without_hash_is_flagged_as_such(study, path, tmp_path):
    made.by_hand(path, lambda value: value["manifest"].pop("content"))
    found = table(study, tmp_path)
    assert list(found.problems) == ["unhashed"] and "holds no hash" in found.problems["unhashed"]["text"]
    assert found.rows["cl"][0].startswith("**") and "ᵃ" in found.rows["cl"][0]


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
def test_a_broken_file_leaves_its_cells_empty_and_says_what_to_do(study, path, tmp_path, damage, says):
    path.write_text(damage(path.read_text()))
    found = table(study, tmp_path)
    ours = found.cells["ours"]
    assert pd.isna(ours["cl", "STS"]) and pd.isna(ours["cl", "Avg (tasks)"]) and ours["base", "STS"] > 0
    note = found.cells.loc[("cl", "STS"), "note"]
    assert re.search(f"cl-0.json.*{says}.*make it again with snakemake --force", note)
    assert re.fullmatch("— .+", found.rows["cl"][5]) and says in found.out.md


def test_a_folder_in_place_of_a_file_is_no_crash(study, path, tmp_path):
    path.unlink()
    path.mkdir()
    found = table(study, tmp_path)
    assert "cannot be read" in found.problems["broken"]["text"] and pd.isna(found.cells.loc[("cl", "STS"), "ours"])


def test_results_of_different_task_data_have_no_interval(study, path, tmp_path):
    made.change(path, lambda value: value["tasks"][STS]["items"]["parts"][0]["values"].pop())
    found = table(study, tmp_path)
    assert f"{STS} has 199 items" in found.problems["items"]["text"] and "has 200" in found.problems["items"]["text"]
    cell, low = found.cells.loc[("cl", "STS")], found.cells["low"]
    assert cell["ours"] > 0 and cell["delta_vs_reasoning"] > 0 and pd.isna(cell["delta_low"])
    assert re.fullmatch(r"\d\d\.\d\d ᵃ", found.rows["cl"][5])
    assert pd.isna(low["cl", "STS"]) and pd.isna(low["cl", "Avg (tasks)"])
    assert low["base", "STS"] > 0 and low["cl", "Retrieval"] > 0


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
def test_items_that_cannot_be_resampled_are_said(study, path, tmp_path, items, says):
    made.by_hand(path, lambda value: value["tasks"][STS].update(items=items))
    found = table(study, tmp_path)
    assert says in found.problems["items"]["text"] and pd.isna(found.cells.loc[("cl", "STS"), "low"])


def test_results_of_other_weights_are_flagged(study, path, tmp_path):
    """Two groups of one model, of which one was made before the model was trained again."""
    spec = spec_of(study)
    old = made.write(tmp_path / "cl-0-old.json", {"tasks": {}, "geometry": None, "rationale": None}, revision="0ld")
    spec.cells[2].results.append(str(old))
    found = table(study, tmp_path, spec)
    said = {one["path"]: one["text"] for one in found.all if one["kind"] == "weights"}
    assert set(said) == {str(old), str(path)}  # which of the two is old cannot be known
    assert "made with other weights or settings than" in said[str(old)] and "cl-0.json" in said[str(old)]
    assert "ᵃ" in found.rows["cl"][0]


def test_many_files_with_one_problem_share_a_letter(study, tmp_path):
    for one in study:
        made.by_hand(one.mteb, lambda value: value["manifest"].pop("content"))
    found = table(study, tmp_path)
    assert len(found.all) == 5 and "- ᵃ" in found.out.md and "- ᵇ" not in found.out.md
    assert "The same holds for" in found.out.md


def test_what_a_file_should_hold_and_does_not_is_said(study, path, tmp_path):
    made.change(path, lambda value: value["tasks"].pop(STS))
    found = table(study, tmp_path)
    assert found.problems["absent"]["task"] == STS and found.rows["cl"][5] == "— ᵃ"


def test_a_resample_without_value_leaves_no_interval():
    empty = scores.Estimate(1.0, np.full(5, np.nan), 1, None, [])
    assert empty.interval is None and scores.difference(empty, empty) == (0.0, None)
    assert bootstrap.interval(np.array([0.0, np.nan, 1.0])) == pytest.approx((0.025, 0.975))


def test_tokens_are_the_mean_over_all_texts_and_need_every_file():
    one = Seed(0, tokens={"a": (10.0, 1), "b": (40.0, 2)})
    found = scores.tokens([one])
    assert found is not None and found.point == 30.0 and found.sources == ["a", "b"]
    one.missing.append("c")
    assert scores.tokens([one]) is None

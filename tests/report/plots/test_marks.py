"""From results to rows: a value, its interval, or the reason why there is none; the times of latency files."""

from __future__ import annotations

import json

import pytest

from grace.report import figures
from grace.report.plots.marks import load_times
from tests.report.plots import made


def test_a_mark_holds_mean_interval_and_source(tmp_path):
    spec = made.spec("figure6", tmp_path)
    cell = next(one for one in spec.cells if one.run == "grace.pooling-max")
    made.evaluate(cell, spec.tasks, {name: (place + 1) / 10 for place, name in enumerate(spec.tasks)})
    _, marks = figures.build(spec)
    mark = next(one for one in marks if one.run == "grace.pooling-max")
    assert mark.ours == pytest.approx(35)  # of 10, 20, ... 60 percent
    assert mark.low < 35 < mark.high and mark.seeds == 1 and mark.source == cell.results[0]


def test_over_seeds_the_mean_is_taken_and_a_lacking_seed_is_said(tmp_path):
    spec = made.spec("figure6", tmp_path, seeds=[0, 1, 2])
    for cell, score in zip([one for one in spec.cells if one.run == "grace"], (0.4, 0.5), strict=False):
        made.evaluate(cell, spec.tasks, score)
    mark = next(one for one in figures.build(spec)[1] if one.run == "grace")
    assert mark.ours == pytest.approx(45) and mark.seeds == 2 and mark.seed_sd == pytest.approx(50**0.5)
    assert mark.note.startswith("2 of 3 seeds")


def test_a_missing_file_and_a_missing_task_are_reasons(tmp_path):
    spec = made.spec("figure6", tmp_path)
    cell = next(one for one in spec.cells if one.run == "grace.pooling-max")
    made.evaluate(cell, spec.tasks[1:], 0.5)
    found = {one.run: one for one in figures.build(spec)[1]}
    assert found["grace.pooling-max"].ours is None
    assert found["grace.pooling-max"].note == f"no score of {spec.tasks[0]}"
    assert found["grace.pooling-eos"].note.startswith("no result: ") and found["grace.pooling-eos"].left_out


def test_an_edited_result_is_shown_with_its_problem(tmp_path):
    spec = made.spec("figure6", tmp_path)
    cell = next(one for one in spec.cells if one.run == "grace")
    made.evaluate(cell, spec.tasks, 0.5)
    with open(cell.results[0]) as handle:
        content = json.load(handle)
    content["tasks"][spec.tasks[0]]["metric"] = "y"
    with open(cell.results[0], "w") as handle:
        json.dump(content, handle)
    mark = next(one for one in figures.build(spec)[1] if one.run == "grace")
    assert mark.ours == pytest.approx(50) and "edited" in mark.note


def test_timed_systems_come_with_their_percentiles(tmp_path):
    path = tmp_path / "tiny.json"
    made.timed(str(path), (20,))
    found = load_times({"tiny": str(path)})
    systems = found.systems["tiny"]
    assert [one.name for one in systems] == ["encoder", "direct", "reasoning", "grace"]
    assert [one.budget for one in systems] == [None, None, 20, 20]
    assert systems[3].parts["generate"] == [0.8 * 0.24, 0.24, 1.3 * 0.24]
    assert not found.missing and not found.problems


def test_missing_and_broken_latency_files_are_named(tmp_path):
    broken, partial = tmp_path / "broken.json", tmp_path / "partial.json"
    broken.write_text("{")
    made.timed(str(partial), (20,))
    content = json.loads(partial.read_text())
    del content["systems"][1]["encode"]
    made.write(partial, "latency", systems=content["systems"])
    found = load_times({"a": str(tmp_path / "none.json"), "b": str(broken), "c": str(partial)})
    assert found.missing == [str(tmp_path / "none.json")] and not found.systems
    assert [one.path for one in found.problems] == [str(broken), str(partial)]
    assert "encode" in found.problems[1].text and "snakemake --force" in found.problems[1].text

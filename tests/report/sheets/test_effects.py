"""The table of what each gradient does, through the real stage."""

import json

import pandas as pd
import pytest

from grace.report import tables
from tests.report import traded

RUNS = ("fence-rationale", "adapter", "grace", "grace-random", "cl-long")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effects")
    spec = traded.spec(folder, "effects", only=RUNS)
    traded.fill(spec.traded, without=("cl-long", "cl-long.reasoning"))
    paths = {form: folder / f"effects.{form}" for form in ("csv", "md", "tex", "html")}
    options = [f"--{form}={path}" for form, path in paths.items()]
    tables.main(["--spec", spec.model_dump_json(), *options, f"--record={folder / 'effects.json'}"])
    return pd.read_csv(paths["csv"]), paths["md"].read_text(), json.loads((folder / "effects.json").read_text())


def of(frame, run, measure):
    [row] = frame[(frame["run"] == run) & (frame["measure"] == measure)].to_dict("records")
    return row


def test_differences_by_hand(written):
    frame, text, _ = written
    row = of(frame, "fence-rationale", "ndcg")
    assert (row["mode"], row["other"], row["other_mode"]) == ("reasoning", "reasoning", "reasoning")
    assert (row["effect"], row["ours"], row["others"]) == pytest.approx((0.13, 0.34, 0.21))
    assert (row["low"], row["high"], row["seeds"], row["seed_sd"]) == pytest.approx((0.13, 0.13, 3, 0.0), abs=1e-6)
    assert of(frame, "fence-rationale", "perplexity_change")["effect"] == pytest.approx(0.05)
    assert of(frame, "grace", "ndcg")["effect"] == pytest.approx(0.01)
    assert of(frame, "grace", "well_formed")["effect"] == pytest.approx(0.02)
    line = next(line for line in text.split("\n") if "| fence-rationale (reasoning)" in line)
    assert "hidden states" in line and "**+0.130** ↑ ± 0.000 [+0.130, +0.130]" in line and "**+5.0** ↑" in line


def test_only_the_planned_and_missing_said(written):
    frame, text, record = written
    assert "fence-direct" not in set(frame["run"])  # not of this study
    assert not frame[frame["run"] == "cl-long"].size and "base" not in set(frame["other"])
    assert record["missing"] and all("cl-long" in path for path in record["missing"])
    assert "| not run" in text


def test_the_statements_stand_below_with_their_verdicts(written):
    _, text, record = written
    found = {one["id"]: one for one in record["statements"]}
    assert found["adapter-half-within-cl"]["verdict"] == "not run"
    assert found["fence-perplexity"]["verdict"] == "contradicted" and found["fence-perplexity"]["value"] == 0.05
    assert "+5.0 [+5.0, +5.0] %, at most 3.0 %" in text and "does not hold" in text
    assert "the same for 3 of 3 seeds" in text and "+0.010 [+0.010, +0.010]; compute 1.00" in text


GAPS = {"tiny": 0.03, "tiny-1": 0.01, "tiny-2": -0.01, "tiny-3": 0.01}  # of grace, on each backbone


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """The table of several backbones, and its csv; of the last backbone grace has no general results."""
    folder = tmp_path_factory.mktemp("replicated")
    spec = traded.spec(folder, "effects", "replicate", backbones=[*GAPS])
    control = traded.SCORES["grace-random"][1]
    general = [one for one in spec.traded.general if (one.backbone, one.run) != ("tiny-3", "grace")]
    points = {point.run: point for point in spec.traded.points}
    for cell in spec.traded.cells:
        score = control + GAPS[cell.backbone] if cell.run == "grace" else traded.SCORES[points[cell.run].of][1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(traded.SCORES, cell.run, (score, score))
            traded.embedded(cell, cell.run, str(points[cell.run].at["mode"]))
    traded.fill(spec.traded.model_copy(update={"cells": [], "general": general}))
    paths = {form: folder / f"effects.{form}" for form in ("csv", "md", "tex", "html")}
    options = [f"--{form}={path}" for form, path in paths.items()]
    tables.main(["--spec", spec.model_dump_json(), *options, f"--record={folder / 'effects.json'}"])
    return pd.read_csv(paths["csv"]), paths["md"].read_text()


def test_an_interval_over_backbones_is_student_s(replicated):
    frame, text = replicated
    row = of(frame[frame["backbone"] == "all 4"], "grace", "ndcg")
    # By hand: mean .01, squares of the deviations .0008 / 3, t of 3 degrees of freedom 3.182446.
    assert (row["effect"], row["backbone_sd"]) == pytest.approx((0.01, 0.016330), abs=1e-6)
    assert (row["low"], row["high"]) == pytest.approx((0.01 - 0.025984, 0.01 + 0.025984), abs=2e-6)
    for backbone, gap in GAPS.items():
        assert of(frame[frame["backbone"] == backbone], "grace", "ndcg")["effect"] == pytest.approx(gap)
    line = next(line for line in text.split("\n") if line.startswith("| all 4 ") and "| grace (reasoning)" in line)
    assert "+0.010 ± 0.016 [-0.016, +0.036]" in line
    assert "Student" in text


def test_backbones_without_a_result_are_counted(replicated):
    frame, text = replicated
    row = of(frame[frame["backbone"] == "all 4"], "grace", "well_formed")
    assert (row["note"], row["effect"]) == ("3 of 4 backbones", pytest.approx(0.02)) and "(3 of 4 backbones)" in text


def test_statements_about_runs_that_the_table_has_not_are_left_out(replicated):
    _, text = replicated
    assert "GRACE's policy gradient retrieves" in text and "pooling adapter" not in text


def test_few_backbones_have_no_interval(written):
    frame, text, _ = written
    assert not frame["backbone"].str.startswith("all").any() and "Student" not in text

"""The tables `tradeoff` and `effects` through the real stage: the csv row by row, and what is shown of it."""

import pandas as pd
import pytest

from tests.report import made, traded

FIRST = ["run", "seed", "mode", "ndcg", "embedding_mean", "well_formed", "perplexity_change", "compute_seconds"]
GAPS = {"tiny": 0.03, "tiny-1": 0.01, "tiny-2": -0.01, "tiny-3": 0.01}  # of grace, on each backbone


def written(spec, folder, without=()):
    """The csv, its Markdown and the record."""
    traded.fill(spec.traded, without)
    out = made.run(spec, folder)
    assert "<table" in out.html and r"\begin{tabular}" in out.tex
    return pd.read_csv(out.csv), out.md, out.record


def line(text: str, *parts: str) -> str:
    return next(one for one in text.split("\n") if all(part in one for part in parts))


# ---- tradeoff -------------------------------------------------------------------------------


def tradeoff(folder, without=(), **over):
    runs = ("base", "cl-long", "adapter", "fence-rationale")
    return written(traded.spec(folder, only=runs, **over), folder, without)


def test_a_row_for_each_run_seed_and_mode(tmp_path):
    frame, text, record = tradeoff(tmp_path)
    assert list(frame.columns)[:8] == FIRST
    modes = {run: "/".join(sorted(set(some["mode"]))) for run, some in frame.groupby("run")}
    both = dict.fromkeys(("cl-long", "adapter", "fence-rationale"), "direct/reasoning")
    assert modes == {"base": "direct", "reasoning": "reasoning", **both}
    assert len(frame) == (2 + 2 * 3) * 3 and not frame.duplicated(["run", "seed", "mode"]).any()
    one = frame.query("run == 'adapter' and seed == 2 and mode == 'reasoning'").iloc[0]
    assert tuple(one[FIRST[3:]]) == pytest.approx((0.37, (0.37 + 2.5) / 6, 1.0, 0.0, 130.0), abs=1e-5)
    more = ["rationale_seconds", "tokens_read", "tokens_written", "identical_rationales", "compute_share"]
    assert tuple(one[more]) == (30.0, 1000, 50, 1, 1.3)
    cl = frame.query("run == 'cl-long' and mode == 'direct'")
    assert cl["perplexity_change"].tolist() == pytest.approx([1.5] * 3) and set(cl["identical_rationales"]) == {0}
    assert frame.query("run == 'base'")["compute_seconds"].tolist() == [0.0] * 3
    assert record["seeds"] == [0, 1, 2] and record["missing"] == [] and len(record["manifest"]["inputs"]) > 30
    # Its mean, and below it the difference to untrained reasoning, whose interval excludes zero
    shown = line(text, "| adapter ", "| direct")
    assert "**0.390** ↑ ± 0.010 +0.180 [+0.180, +0.180]" in shown and "the backbone's" in shown
    assert "130 s 1.30 of cl-long" in shown and "+0.0 ± 0.0 [+0.0, +0.0]" in shown


def test_what_is_missing_is_empty_and_said(tmp_path):
    frame, text, record = tradeoff(tmp_path, without=("adapter", "adapter.reasoning"))
    lost = frame.query("run == 'adapter'")
    assert len(lost) == 6 and lost[FIRST[3:]].isna().all().all() and lost["note"].str.startswith("No result: ").all()
    assert record["missing"] and "no result of adapter (direct), adapter (reasoning)." in text
    assert line(text, "| adapter ").count("—") >= 6 and "0.000" not in line(text, "| adapter ")


def test_one_seed_where_one_was_asked_for(tmp_path):
    frame, text, _ = tradeoff(tmp_path, seeds=[0])
    assert set(frame["seed"]) == {0} and "1 seed (0)" in text and "0.380** ↑ +0.180" in text


# ---- effects --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effects(tmp_path_factory):
    """The table of a few runs, of which cl-long has no result."""
    folder = tmp_path_factory.mktemp("effects")
    runs = ("fence-rationale", "adapter", "grace", "grace-random", "cl-long")
    return written(traded.spec(folder, "effects", only=runs), folder, without=("cl-long", "cl-long.reasoning"))


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """The table of several backbones; of the last one grace has no general results."""
    folder = tmp_path_factory.mktemp("replicated")
    spec = traded.spec(folder, "effects", "replicate", backbones=[*GAPS])
    points = {point.run: point for point in spec.traded.points}
    for cell in spec.traded.cells:
        run = points[cell.run].of
        score = traded.SCORES["grace-random"][1] + GAPS[cell.backbone] if cell.run == "grace" else traded.SCORES[run][1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(traded.SCORES, cell.run, (score, score))
            traded.embedded(cell, cell.run, str(points[cell.run].at["mode"]))
    general = [one for one in spec.traded.general if (one.backbone, one.run) != ("tiny-3", "grace")]
    traded.fill(spec.traded.model_copy(update={"cells": [], "general": general}))
    out = made.run(spec, folder)
    return pd.read_csv(out.csv), out.md


def of(frame, run, measure, backbone="tiny"):
    [row] = frame.query("run == @run and measure == @measure and backbone == @backbone").to_dict("records")
    return row


def test_differences_by_hand(effects):
    frame, text, _ = effects
    row = of(frame, "fence-rationale", "ndcg")
    assert (row["mode"], row["other"], row["other_mode"]) == ("reasoning", "reasoning", "reasoning")
    assert (row["effect"], row["ours"], row["others"]) == pytest.approx((0.13, 0.34, 0.21))
    assert (row["low"], row["high"], row["seeds"], row["seed_sd"]) == pytest.approx((0.13, 0.13, 3, 0.0), abs=1e-6)
    assert of(frame, "fence-rationale", "perplexity_change")["effect"] == pytest.approx(0.05)
    assert of(frame, "grace", "ndcg")["effect"] == pytest.approx(0.01)
    assert of(frame, "grace", "well_formed")["effect"] == pytest.approx(0.02)
    shown = line(text, "| fence-rationale (reasoning)")
    assert "hidden states" in shown and "**+0.130** ↑ ± 0.000 [+0.130, +0.130]" in shown and "**+5.0** ↑" in shown


def test_only_the_planned_and_missing_said(effects):
    frame, text, record = effects
    assert not {"fence-direct", "cl-long"} & set(frame["run"]) and "base" not in set(frame["other"])
    assert record["missing"] and all("cl-long" in path for path in record["missing"])
    assert "| not run" in text


def test_the_claims_stand_below_with_their_verdicts(effects):
    _, text, record = effects
    found = {one["id"]: one for one in record["statements"]}
    assert found["adapter-half-within-cl"]["verdict"] == "not run"
    assert found["fence-perplexity"]["verdict"] == "contradicted" and found["fence-perplexity"]["value"] == 0.05
    assert "+5.0 [+5.0, +5.0] %, at most 3.0 %" in text and "does not hold" in text
    assert "the same for 3 of 3 seeds" in text and "+0.010 [+0.010, +0.010]; compute 1.00" in text


def test_an_interval_over_backbones_is_student_s(replicated):
    frame, text = replicated
    row = of(frame, "grace", "ndcg", "all 4")
    # By hand: mean .01, squares of the deviations .0008 / 3, t of 3 degrees of freedom 3.182446.
    assert (row["effect"], row["backbone_sd"]) == pytest.approx((0.01, 0.016330), abs=1e-6)
    assert (row["low"], row["high"]) == pytest.approx((0.01 - 0.025984, 0.01 + 0.025984), abs=2e-6)
    found = {backbone: of(frame, "grace", "ndcg", backbone)["effect"] for backbone in GAPS}
    assert found == pytest.approx(GAPS)
    assert "+0.010 ± 0.016 [-0.016, +0.036]" in line(text, "| all 4 ", "| grace (reasoning)") and "Student" in text


def test_backbones_without_a_result_are_counted(replicated):
    frame, text = replicated
    row = of(frame, "grace", "well_formed", "all 4")
    assert (row["note"], row["effect"]) == ("3 of 4 backbones", pytest.approx(0.02)) and "(3 of 4 backbones)" in text


def test_claims_about_runs_that_the_table_has_not_are_left_out(replicated):
    _, text = replicated
    assert "GRACE's policy gradient retrieves" in text and "pooling adapter" not in text


def test_few_backbones_have_no_interval(effects):
    frame, text, _ = effects
    assert not frame["backbone"].str.startswith("all").any() and "Student" not in text

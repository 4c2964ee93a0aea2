"""The table of the trade-off: its csv row by row, and what is shown of it, through the real stage."""

import json

import pandas as pd
import pytest

from grace.report import tables
from tests.report import traded

RUNS = ("base", "cl-long", "adapter", "fence-rationale")
FIRST = ["run", "seed", "mode", "ndcg", "embedding_mean", "well_formed", "perplexity_change", "compute_seconds"]


def written(folder, without=(), **over):
    """The csv, its Markdown and the record; of a few runs."""
    spec = traded.spec(folder, only=RUNS, **over)
    traded.fill(spec.traded, without)
    paths = {form: folder / f"tradeoff.{form}" for form in ("csv", "md", "tex", "html")}
    options = [f"--{form}={path}" for form, path in paths.items()]
    tables.main(["--spec", spec.model_dump_json(), *options, f"--record={folder / 'tradeoff.json'}"])
    assert "<table" in paths["html"].read_text() and r"\begin{tabular}" in paths["tex"].read_text()
    return pd.read_csv(paths["csv"]), paths["md"].read_text(), json.loads((folder / "tradeoff.json").read_text())


def test_a_row_for_each_run_seed_and_mode(tmp_path):
    frame, text, record = written(tmp_path)
    assert list(frame.columns)[:8] == FIRST
    modes = {run: set(some["mode"]) for run, some in frame.groupby("run")}
    assert modes == {
        "base": {"direct"}, "reasoning": {"reasoning"}, **{run: {"direct", "reasoning"} for run in RUNS[1:]},
    }  # fmt: skip
    assert len(frame) == (2 + 2 * 3) * 3 and not frame.duplicated(["run", "seed", "mode"]).any()
    one = frame[(frame["run"] == "adapter") & (frame["seed"] == 2) & (frame["mode"] == "reasoning")].iloc[0]
    assert tuple(one[FIRST[3:]]) == pytest.approx((0.37, (0.37 + 2.5) / 6, 1.0, 0.0, 130.0), abs=1e-5)
    more = ["rationale_seconds", "tokens_read", "tokens_written", "identical_rationales", "compute_share"]
    assert tuple(one[more]) == (30.0, 1000, 50, 1, 1.3)
    cl = frame[(frame["run"] == "cl-long") & (frame["mode"] == "direct")]
    assert cl["perplexity_change"].tolist() == pytest.approx([1.5] * 3) and set(cl["identical_rationales"]) == {0}
    assert frame[frame["run"] == "base"]["compute_seconds"].tolist() == [0.0] * 3
    assert record["seeds"] == [0, 1, 2] and record["missing"] == [] and len(record["manifest"]["inputs"]) > 30
    # Its mean, and below it the difference to untrained reasoning, whose interval excludes zero
    line = next(line for line in text.split("\n") if "| adapter " in line and "| direct" in line)
    assert "**0.390** ↑ ± 0.010 +0.180 [+0.180, +0.180]" in line and "the backbone's" in line
    assert "130 s 1.30 of cl-long" in line and "+0.0 ± 0.0 [+0.0, +0.0]" in line


def test_what_is_missing_is_empty_and_said(tmp_path):
    frame, text, record = written(tmp_path, without=("adapter", "adapter.reasoning"))
    lost = frame[frame["run"] == "adapter"]
    assert len(lost) == 6 and lost[FIRST[3:]].isna().all().all() and lost["note"].str.startswith("No result: ").all()
    assert record["missing"] and "no result of adapter (direct), adapter (reasoning)." in text
    line = next(line for line in text.split("\n") if "| adapter " in line)
    assert line.count("—") >= 6 and "0.000" not in line


def test_one_seed_where_one_was_asked_for(tmp_path):
    frame, text, _ = written(tmp_path, seeds=[0])
    assert set(frame["seed"]) == {0} and "1 seed (0)" in text and "0.380** ↑ +0.180" in text

"""What a model took, from manifests as the stages write them."""

import json
from pathlib import Path

import pytest

from grace.report.scoring.compute import Compute, compute
from grace.specs import Cell
from tests.report import traded


def cell(root: Path, names: tuple[str, ...] = ("model.json",), **more) -> Cell:
    made = Cell(backbone="tiny", run="cl", seed=0, results=[str(root / name) for name in names])
    traded.trained(made, **more)
    return made


def test_cpu_seconds_and_tokens(tmp_path):
    assert compute(cell(tmp_path)) == Compute(100.0, None, 1000, 50, "cpu")


def test_on_gpus_seconds_times_processes(tmp_path):
    settings = {"grace": {"processes": 4}, "contrastive": None}
    found = compute(cell(tmp_path, hardware={"gpus": ["H100"] * 4}, settings=settings))
    assert (found.seconds, found.device) == (4 * 55.0, "gpu")


def test_its_share_of_the_rationales_is_in_it_and_apart(tmp_path):
    found = compute(cell(tmp_path, ("model.json", "rationales.json")))
    assert (found.rationales, found.seconds) == (30.0, 130.0)  # 5,000 of 10,000 rows in 60 seconds


def test_what_is_not_known_is_missing_and_said(tmp_path):
    assert compute(Cell(backbone="tiny", run="base", seed=0, results=[])) == Compute(seconds=0.0)
    gone = compute(Cell(backbone="tiny", run="cl", seed=0, results=[str(tmp_path / "none.json")]))
    assert gone.seconds is None and "none.json" in gone.problems[0]
    older = cell(tmp_path, tokens=None, cpu_seconds=None)
    assert compute(older) == Compute(None, None, None, None, "cpu")
    without = cell(tmp_path, ("model.json", "rationales.json"))
    Path(without.results[1]).unlink()
    assert compute(without).seconds is None  # not that of the training alone
    Path(without.results[0]).write_text("{")
    assert "cannot be read" in compute(without).problems[0]


@pytest.mark.parametrize("resumed", [None, "checkpoint-20"])
def test_a_resumed_training_says_that_its_time_is_not_all(tmp_path, resumed):
    assert bool(compute(cell(tmp_path, resumed_from=resumed)).problems) is bool(resumed)


def test_rationales_of_an_earlier_job_are_said(tmp_path):
    made = cell(tmp_path, ("model.json", "rationales.json"))
    record = json.loads(Path(made.results[1]).read_text())
    Path(made.results[1]).write_text(json.dumps({**record, "texts": 30, "written": 10}))
    assert "20 of 30 rationales" in compute(made).problems[0]

"""Time and memory of a study small enough to add up by hand."""

import json

import pytest

from grace.report.page import cost
from grace.report.page.folder import Folder

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def folder(tmp_path):
    def write(path, text):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))

    write("benchmarks/train/tiny/cl/seed0.tsv", HEAD + "10.5\t0:00:10\t100\t0\t0\t0\t0\t0\t99\t9\n")
    write("benchmarks/train/tiny/grace/seed0.tsv", HEAD + "20\t0:00:20\t3000\t0\t0\t0\t0\t0\t99\t30\n")
    write("benchmarks/tasks.tsv", HEAD + "0.5\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n")
    write("benchmarks/pairs/x.tsv", HEAD)
    gpus = {"machine": "m", "cpus": 8, "cpu": "C", "gpus": ["H100", "H100"]}
    made = {"stage": "train", "seconds": 20, "peak_memory_mb": 2900, "steps": 80, "hardware": gpus, "commit": "abc"}
    write(
        "models/tiny/grace/seed0/manifest.json", {**made, "versions": {"torch": "1"}, "resumed_from": "checkpoint-40"}
    )
    write("models/tiny/cl/seed0/manifest.json", {**made, "hardware": {**gpus, "gpus": []}, "versions": {"torch": "2"}})
    write("models/tiny/backbone/seed0/manifest.json", {"stage": "backbone", "hardware": {"cpus": 2, "cpu": "D"}})
    write("mteb/tiny/cl/seed0/g.json", {"manifest": {"stage": "evaluate", "seconds": 3, "hardware": gpus}})
    write("mteb/tiny/grace/seed0/g.json", "{")
    return Folder(tmp_path / "report.html")


def row(name, jobs, wall, cpu, gpu, memory):
    return {"name": name, "jobs": jobs, "wall": wall, "cpu": cpu, "gpu": gpu, "memory": memory}


def test_jobs_are_added_up_by_rule_in_the_order_of_the_work(folder):
    found = cost.read(folder)
    assert found.rules == [
        row("tasks", 1, 0.5, None, None, None),
        row("train", 2, 30.5, 39.0, 40.0, 3000.0),  # two GPUs for 20 s; the other training had none
    ]
    assert found.total == row("all", 3, 31.0, 39.0, 40.0, 3000.0)


def test_each_training_is_listed_and_a_resumed_one_is_marked(folder):
    found = {one["run"]: one for one in cost.read(folder).trainings}
    assert found.keys() == {"cl", "grace"}  # the backbone is no run
    about = {"backbone": "tiny", "seed": "0", "steps": 80, "seconds": 20.0, "memory": 2900.0}
    assert found["grace"] == {**about, "run": "grace", "gpus": 2, "resumed": True}
    assert found["cl"] == {**about, "run": "cl", "gpus": 0, "resumed": False}


def test_hardware_versions_and_commits_are_counted(folder):
    found = cost.read(folder, [{"commit": "abc", "hardware": {"cpus": 2, "cpu": "D"}}])
    assert found.hardware == {"2 x H100; 8 x C": 2, "8 x C": 1, "2 x D": 2}
    assert found.versions["torch"] == {"1": 1, "2": 1}
    assert found.commits == {"abc": 3, cost.UNKNOWN: 2}


def test_what_cannot_be_read_is_said(folder):
    cost.read(folder)
    assert any("mteb/tiny/grace/seed0/g.json is not whole" in text for text in folder.problems)
    assert any("benchmarks/pairs/x.tsv holds no time" in text for text in folder.problems)
    assert len(folder.problems) == 2


def test_a_study_without_any_file_has_no_cost(tmp_path):
    found = cost.read(Folder(tmp_path / "report.html"))
    assert not found.rules and not found.trainings and found.total["cpu"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"),
        (4.06, "4.1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7.3e6, "2,027 h 46 min"),
    ],
)
def test_a_duration_is_written_as_one_says_it(seconds, text):
    assert cost.duration(seconds) == text

"""The smoke study through sbatch to its tables, one training job killed on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from grace.config.studies import read_config
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import finish, submit

pytestmark = pytest.mark.slurm

# Two of the ten runs and the tables of scores, because each job takes some 6 s more than without SLURM; tests/workflow
# runs all.
RUNS = ("base", "grace")
TABLES = ("table1", "table2", "table5")
MODEL = "results/smoke/models/tiny-smoke/grace"
TRAIN = "rule_train_wildcards_tiny-smoke_grace_0"


def narrowed(directory: Path) -> Path:
    """A configuration on top of config.yaml that leaves `RUNS` and `TABLES` of the smoke study."""
    defaults = read_config(Path(__file__).parents[2] / "config.yaml")["defaults"]
    dropped = {
        key: {name: None for name in defaults[key] if name not in kept}
        for key, kept in (("runs", RUNS), ("tables", TABLES), ("figures", ()))
    }
    path = directory / "smoke.yaml"
    path.write_text(yaml.safe_dump({"study": "smoke", "studies": {"smoke": dropped}}))
    return path


def training(directory: Path) -> list[psutil.Process]:
    """Running processes of the grace run's training job."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if "grace.training.train" in line and any("/grace/seed0/" in word for word in line):
                found += [process] if Path(process.cwd()) == directory else []
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def done(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which smoke has run to its tables, its training of `grace` killed after one checkpoint."""
    directory = tmp_path_factory.mktemp("slurm-smoke")
    process = submit(
        directory, "--configfile", str(narrowed(directory)), "--until", "tables", "--jobs", "3",
        "--slurm-init-seconds-before-status-checks", "5",
    )  # fmt: skip
    try:
        deadline = time.time() + 600
        while not list(directory.glob(f"{MODEL}/seed0-checkpoints/*/checkpoint-1/complete")):
            assert process.poll() is None and time.time() < deadline, (directory / "out.txt").read_text()[-4000:]
            time.sleep(0.002)
        jobs = training(directory)
        assert jobs
        for job in jobs:
            os.kill(job.pid, signal.SIGKILL)
    finally:
        status = finish(process, 600)
    assert status == 0, (directory / "out.txt").read_text()[-4000:]
    return directory


def test_every_rule_went_through_sbatch(cluster, done):
    jobs = [job for job in cluster.jobs() if job["WorkDir"] == str(done)]
    rules = Counter(job["Comment"].removeprefix("rule_").split("_")[0] for job in jobs)
    assert rules == {
        "source": 1, "pairs": 1, "split": 1, "triples": 1, "lengths": 1, "tasks": 1, "backbone": 1,
        "train": 2, "evaluate": 2, "general": 2, "tables": 3,
    }  # fmt: skip
    assert {job["Partition"] for job in jobs} == {"cpu"}  # smoke asks for no GPU


def test_tables(done):
    with open(done / "results/smoke/tables/table1.csv") as handle:
        cells = [cell for cell in csv.DictReader(handle) if cell["ours"]]
    assert {cell["run"] for cell in cells} == set(RUNS)
    assert all((done / path).exists() for cell in cells for path in cell["source"].split(";"))


def test_the_killed_job_was_retried_with_more_and_resumed(cluster, done):
    first, second = sorted(
        (job for job in cluster.jobs() if job["WorkDir"] == str(done) and job["Comment"] == TRAIN),
        key=lambda job: int(job["JobId"]),
    )
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("4000M", "8000M")
    assert (first["TimeLimit"], second["TimeLimit"]) == ("01:00:00", "02:00:00")
    assert json.loads((done / MODEL / "seed0/manifest.json").read_text())["resumed_from"]

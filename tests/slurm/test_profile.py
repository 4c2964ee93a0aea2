"""What the SLURM profile says, without a SLURM."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.slurm.conftest import PROFILE, ROOT, finish, submit


@pytest.fixture(scope="module")
def profile() -> dict:
    return yaml.safe_load((PROFILE / "config.yaml").read_text())


def test_snakemake_takes_it(tmp_path):
    """With the block of the site in it, which is the plugin's and no setting of snakemake's."""
    status = finish(submit(tmp_path, "-n", "--config", "study=paper"), 60)
    text = (tmp_path / "out.txt").read_text()
    assert status == 0, text[-3000:]
    # Snakemake's own default resources stay, and each job is kept on one node.
    (train,) = {line for line in text.split("\n") if "resources:" in line and "gpu=4" in line}
    assert "nodes=1" in train and "mem_mb=240000" in train and "tasks=" not in train


def test_the_plugin_reads_its_partitions(profile):
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    assert profile["slurm-partition-config"] == "config.yaml"
    partitions = {one.name: one.limits.max_gpu for one in read_partition_file(PROFILE / "config.yaml")}
    assert partitions == {"cpu": 0, "gpu": 4}


def test_no_group_adds_up_gpus(profile):
    assert not {"groups", "group-components"} & set(profile)
    for path in (ROOT / "rules").glob("*.smk"):
        assert not re.search(r"^\s+group:", path.read_text(), re.MULTILINE), f"{path.name} groups jobs"


def test_gpu_jobs_are_one_task(profile):
    assert not {"tasks", "tasks_per_gpu"} & set(profile["default-resources"])
    for path in (ROOT / "rules").glob("*.smk"):
        assert not re.search(r"^\s+(tasks|tasks_per_gpu|mpi)\s*=", path.read_text(), re.MULTILINE)

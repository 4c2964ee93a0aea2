"""What the paper study asks of SLURM, and what is left when the submitting snakemake dies.

The rules, their requests, sbatch, srun and the jobs are real; in the jobs a script stands in for python, notes what it
was given and makes the outputs, because no GPU and no model hub is at hand.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from grace.config.studies import read_config
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ENV, PROFILE, ROOT, finish, submit

pytestmark = pytest.mark.slurm

TARGETS = (
    "results/paper/mteb/qwen2.5-1.5b/grace/seed0/sts.json",
    "results/paper/general/qwen2.5-1.5b/grace/seed0.json",
)
RULES = ("download", "lengths", "train", "evaluate", "general")
# Lie there already.
DATA = ("triples/e5.jsonl", "triples/e5.report.json", "split/e5/test.jsonl")
RESOURCES = read_config(ROOT / "config.yaml")["defaults"]["resources"]
RESOURCES["download"] = {**RESOURCES["source"], "threads": 1}

# `download` waits for a file, so that snakemake can be killed while its job runs; `train` fails once.
STAND_IN = """#!{python}
import json, os, sys, time
from pathlib import Path

words = sys.argv[1:]
if words[:2] == ["-m", "grace.jobs.gpus"]:  # the real one, which starts this script again
    os.execv(sys.executable, [sys.executable, *words])
stage = [words[at + 1] for at, word in enumerate(words) if word == "-m"][-1].rpartition(".")[2]
notes = Path({notes!r})
attempt = len(list(notes.glob(stage + "-*.json")))
(notes / f"{{stage}}-{{attempt}}.json").write_text(json.dumps(os.environ.get("CUDA_VISIBLE_DEVICES")))
while stage == "download" and not (notes / "go").exists():
    time.sleep(0.1)
if stage == "train" and attempt == 0:
    sys.exit("killed, as far as snakemake can see")
apart = ("--spec", "--threads", "--lock", "--store")
for option, value in zip(words, words[1:]):
    if option.startswith("--") and option not in apart and not Path(value).exists():
        Path(value).parent.mkdir(parents=True, exist_ok=True)
        Path(value).write_text("{{}}\\n")
"""


@pytest.fixture(scope="module")
def stood_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Folder of the stand-in's notes, and the environment in which jobs find it as `python`."""
    folder = tmp_path_factory.mktemp("stand-in")
    (folder / "notes").mkdir()
    for name in ("python", "torchrun", "accelerate"):
        path = folder / name
        path.write_text(STAND_IN.format(python=sys.executable, notes=str(folder / "notes")))
        path.chmod(0o755)
    return folder / "notes", {**ENV, "PATH": f"{folder}{os.pathsep}{ENV['PATH']}"}


def wait_for(ready, seconds: float, directory: Path) -> None:
    deadline = time.time() + seconds
    while not ready():
        assert time.time() < deadline, (directory / "out.txt").read_text()[-4000:]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def done(cluster: Cluster, stood_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which one run of the paper was submitted, snakemake killed, unlocked and submitted again."""
    notes, env = stood_in
    directory = tmp_path_factory.mktemp("slurm-paper")
    for name in DATA:
        path = directory / "results/paper/data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    arguments = [*TARGETS, "--config", "study=paper", "--slurm-init-seconds-before-status-checks", "10"]

    first = submit(directory, *arguments, env=env)
    try:
        wait_for((notes / "download-0.json").exists, 60, directory)
        first.kill()  # kill -9, as when the login node goes down
        first.wait(10)
    finally:
        finish(first, 0)
    assert "rule_download" in cluster.ask("squeue", "--noheader", "--format=%k", "--states=running")

    locked = submit(directory, *arguments, env=env)
    assert finish(locked, 60) != 0 and "--unlock" in (directory / "out.txt").read_text()

    (notes / "go").touch()
    wait_for(lambda: not cluster.ask("squeue", "--noheader").strip(), 60, directory)
    assert finish(submit(directory, *arguments, "--unlock", env=env), 60) == 0
    again = submit(directory, *arguments, env=env)
    assert finish(again, 300) == 0, (directory / "out.txt").read_text()[-4000:]
    return directory


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, done: Path) -> dict[str, list[dict[str, str]]]:
    """SLURM's jobs by rule, in the order of their submission."""
    found = defaultdict(list)
    for job in sorted(cluster.jobs(), key=lambda job: int(job["JobId"])):
        if job["WorkDir"] == str(done):
            found[job["Comment"].removeprefix("rule_").split("_")[0]].append(job)
    return found


def test_what_a_dead_snakemake_left_running_is_not_done_twice(jobs):
    assert {rule: len(found) for rule, found in jobs.items()} == {rule: 1 + (rule == "train") for rule in RULES}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_gets_what_it_asks_for(jobs, rule):
    asked, job = RESOURCES[rule], jobs[rule][0]
    assert job["Partition"] == ("gpu" if asked["gpu"] else "cpu")
    assert (job["NumNodes"], job["NumTasks"], job["CPUs/Task"]) == ("1", "1", str(asked["threads"]))
    assert megabytes(job["MinMemoryNode"]) == asked["mem_mb"]
    assert job["JOB_GRES"].strip() == (f"gpu:{asked['gpu']}" if asked["gpu"] else "(null)")


@pytest.mark.parametrize("rule", RULES)
def test_a_job_sees_the_gpus_it_asked_for(stood_in, done, rule):
    devices = json.loads((stood_in[0] / f"{rule}-0.json").read_text())
    seen = devices.split(",") if devices else []
    assert len(set(seen)) == RESOURCES[rule]["gpu"] and set(seen) <= {"0", "1", "2", "3"}


def test_a_retry_asks_for_more_up_to_the_sites_limits(jobs):
    first, second = jobs["train"]
    limits = yaml.safe_load((PROFILE / "config.yaml").read_text())["resources"]
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    asked = RESOURCES["train"]
    assert megabytes(second["MinMemoryNode"]) == min(2 * asked["mem_mb"], limits["mem_mb"])
    assert [minutes(job["TimeLimit"]) for job in (first, second)] == [
        asked["runtime"],
        min(2 * asked["runtime"], limits["runtime"]),
    ]


def megabytes(memory: str) -> float:
    """SLURM's 64000M or 62.50G as megabytes (of 2**20 bytes, which it takes for Snakemake's)."""
    return float(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]


def minutes(limit: str) -> int:
    """SLURM's days-hours:minutes:seconds as minutes."""
    days, _, clock = limit.rpartition("-")
    hours, rest, _ = clock.split(":")
    return (int(days or 0) * 24 + int(hours)) * 60 + int(rest)

"""GPUs are claimed by real processes, counted by a stand-in for nvidia-smi."""

import os
import signal
import subprocess
import sys
import time

import pytest

JOB = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(float(sys.argv[1]))"


@pytest.fixture
def start(tmp_path):
    """Starts a job on a machine with four GPUs whose claims lie in a folder of their own."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    tool.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")}
    environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    jobs = []

    def run(count: int, seconds: float, **more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "grace.jobs.gpus", str(count), "--", sys.executable, "-c", JOB, str(seconds)]
        jobs.append(
            subprocess.Popen(command, env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return jobs[-1]

    yield run
    for job in jobs:
        job.kill()
        job.wait()


def given(job: subprocess.Popen) -> set[str]:
    return set(job.stdout.readline().strip().split(","))


def test_jobs_at_once_get_different_gpus(start):
    found = [given(start(1, 30)), given(start(2, 30)), given(start(1, 30))]
    assert [len(names) for names in found] == [1, 2, 1] and set.union(*found) == {"0", "1", "2", "3"}


def test_a_job_waits_its_turn_and_a_killed_one_gives_back(start):
    one = start(1, 60)
    given(one)
    every = start(4, 60)
    assert "waiting for 4" in every.stderr.readline()
    small = start(1, 60)  # three GPUs are free, but it came later
    time.sleep(1)
    assert every.poll() is None and small.poll() is None
    os.kill(one.pid, signal.SIGKILL)
    assert given(every) == {"0", "1", "2", "3"}
    every.kill()
    assert len(given(small)) == 1


def test_only_the_visible_ones_are_taken(start):
    assert given(start(2, 0, CUDA_VISIBLE_DEVICES="3,1")) == {"1", "3"}


def test_none_claimed_is_none_seen(start):
    assert given(start(0, 0, CUDA_VISIBLE_DEVICES="3,1")) == {""}


def test_slurms_assignment_is_kept(start):
    job = start(1, 30, SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="2")
    assert given(job) == given(start(1, 0, SLURM_JOB_ID="8", CUDA_VISIBLE_DEVICES="2")) == {"2"}


def test_commands_in_one_allocation_get_different_gpus(start):
    """As `salloc --gres=gpu:4` gives them; another job's GPUs have the same numbers and are others."""
    found = [given(start(n, 30, SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0,1,2,3")) for n in (1, 1, 2)]
    assert set.union(*found) == {"0", "1", "2", "3"}
    assert given(start(2, 0, SLURM_JOB_ID="8", CUDA_VISIBLE_DEVICES="0,1,2")) <= {"0", "1", "2"}


def test_claims_lie_where_every_user_can_queue(start, tmp_path):
    given(start(1, 0, CUDA_VISIBLE_DEVICES="0,1"))
    assert (tmp_path / "grace-gpus").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize(("count", "seen", "said"), [(8, None, "8 GPUs, but 4"), (1, "", "1 GPU, but 0")])
def test_too_few_is_one_sentence(start, count, seen, said):
    job = start(count, 0, **({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}))
    _, text = job.communicate(timeout=30)
    assert job.returncode == 1 and text.startswith("error: ") and said in text and "Traceback" not in text

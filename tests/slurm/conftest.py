"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, unavailable

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles/slurm"
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := unavailable():
        pytest.skip(f"no SLURM here: {reason}")
    made = Cluster()
    try:
        try:
            made.start()
        except BlockingIOError:
            pytest.skip("no SLURM here: other tests on this machine are using it")
        yield made
    finally:
        made.stop()


def submit(directory: Path, *arguments: str, env: dict[str, str] = ENV) -> subprocess.Popen:
    """Start snakemake with the SLURM profile, its output in `directory`/out.txt."""
    command = [
        sys.executable, "-m", "snakemake", "--profile", str(PROFILE), "--snakefile", str(ROOT / "Snakefile"),
        "--directory", str(directory), "--latency-wait", "10", *arguments,
    ]  # fmt: skip
    with open(directory / "out.txt", "a") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)


def finish(process: subprocess.Popen, seconds: float) -> int:
    """Exit status of snakemake; at the limit, or when the test is stopped, its whole session is killed."""
    try:
        return process.wait(seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()

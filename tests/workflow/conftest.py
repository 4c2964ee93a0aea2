"""The smoke study, run once for all workflow tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snakemake(directory: Path, *arguments: str, timeout: int = 900) -> subprocess.CompletedProcess:
    """Run snakemake as a user would, with results in `directory`."""
    return subprocess.run(command(directory, *arguments), capture_output=True, text=True, timeout=timeout, env=ENV)


def command(directory: Path, *arguments: str) -> list[str]:
    base = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(directory)]
    return [*base, "--cores", "2", *arguments]


ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `study: smoke` has run to its report."""
    directory = tmp_path_factory.mktemp("smoke")
    done = snakemake(directory, "--config", "study=smoke")
    assert done.returncode == 0, done.stderr[-4000:]
    return directory

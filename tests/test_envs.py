"""The conda environments agree with the lock, parse as conda would read them, and resolve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from rattler import MatchSpec

from grace.config.studies import read_config
from grace.data.docstrings import unpinned
from tests.test_project import lock

ROOT = Path(__file__).parents[1]
ENVS = sorted(path.name for path in (ROOT / "envs").glob("*.yaml"))
# What vLLM adds, and what it forces below the lock; nothing else may differ.
VLLM = {"vllm", "numpy"}


def environment(name: str) -> tuple[list[str], dict[str, str]]:
    """Conda specs of an environment, and its pip section as {package: version}."""
    content = yaml.safe_load((ROOT / "envs" / name).read_text())
    assert set(content) == {"channels", "dependencies"}
    specs = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    ((pip,),) = [entry.values() for entry in content["dependencies"] if isinstance(entry, dict)]
    return specs, dict(line.lower().split("==") for line in pip)


def dry_run(pip: list[str], pins: dict[str, str], *options: str) -> dict[str, Any]:
    """pip's report on what it would install for these pins."""
    lines = [f"{name}=={version}" for name, version in pins.items()]
    command = [*pip, "install", "--dry-run", "--quiet", "--report", "-", *options, *lines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_environment_is_known():
    assert ENVS == ["grace.yaml", "vllm.yaml"]


@pytest.mark.parametrize("name", ENVS)
def test_conda_reads_the_specs(name):
    specs, _ = environment(name)
    parsed = [MatchSpec(spec, strict=True) for spec in specs]
    assert [spec.name.normalized for spec in parsed] == ["python", "pip"]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert str(parsed[0].version) == "3.11.*" and wanted.startswith(">=3.11")
    channels = yaml.safe_load((ROOT / "envs" / name).read_text())["channels"]
    assert channels == ["conda-forge", "nodefaults"]


def test_grace_has_the_locks_pins():
    _, pins = environment("grace.yaml")
    assert {name: lock().get(name) for name in pins} == pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[; ]", line.lower())[0] for line in project["dependencies"]}
    assert wanted <= set(pins), f"envs/grace.yaml lacks {sorted(wanted - set(pins))}"


def test_corpus_is_pinned():
    """So that its rows are the same wherever the lock or an environment was installed."""
    _, pins = environment("grace.yaml")
    sources = read_config(ROOT / "config.yaml")["sources"].values()
    packages = [name for source in sources for name in source.get("packages", [])]
    owners = packages_distributions()
    wanted = {owner.lower() for name in packages for owner in owners[name]}
    assert len(wanted) == len(packages) >= 9 and wanted <= set(lock()) & set(pins)
    assert unpinned(packages, ROOT / "requirements.lock") == []


def test_vllm_is_grace_with_vllm():
    _, grace = environment("grace.yaml")
    _, vllm = environment("vllm.yaml")
    assert {name: v for name, v in vllm.items() if name not in VLLM} == {
        name: v for name, v in grace.items() if name not in VLLM
    }
    assert set(vllm) == set(grace) | {"vllm"}


def test_grace_resolves():
    """Against what is installed here, which is the lock: pip finds no conflict and nothing that is missing."""
    _, pins = environment("grace.yaml")
    report = dry_run([sys.executable, "-m", "pip"], pins, "--no-index")
    assert report["install"] == []


@pytest.mark.index
def test_vllm_resolves(tmp_path):
    """On top of what is installed here, by a pip that reads only the wheels' metadata from the index."""
    venv.create(tmp_path / "pip", with_pip=True)
    python = str(tmp_path / "pip/bin/python")
    upgrade = [python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=24.1"]
    if subprocess.run(upgrade, capture_output=True, timeout=300).returncode:
        pytest.skip("no package index can be reached, so vLLM's requirements cannot be read")
    _, pins = environment("vllm.yaml")
    pip = [python, "-m", "pip", "--python", sys.executable]
    report = dry_run(pip, pins, "--use-feature=fast-deps", "--no-cache-dir")
    chosen = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in report["install"]}
    assert chosen["vllm"] == pins["vllm"] and chosen["numpy"] == pins["numpy"]
    # Nothing that the lock pins is moved by vLLM, but for what the environment says itself.
    moved = {name: v for name, v in chosen.items() if lock().get(name.replace("_", "-"), v) != v}
    assert set(moved) <= VLLM

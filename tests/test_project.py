"""The project's own files agree with each other."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split("\n")
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_lock_holds_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[; ]", line.lower().replace("_", "-"))[0] for line in wanted}
    assert names <= set(lock())


@pytest.mark.parametrize("python", ["3.11.0", "3.13.0"])
def test_lock_is_for_every_python_that_the_project_is(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert python in SpecifierSet(project["requires-python"])
    needed = {name: distribution(name).metadata["Requires-Python"] or "" for name in lock()}
    assert len(needed) > 100 and [name for name, need in needed.items() if python not in SpecifierSet(need)] == []


def test_lock_is_within_vllms_bounds():
    major, minor = map(int, lock()["transformers"].split(".")[:2])
    assert major == 5 and 17 <= minor <= 19 and lock()["torch"] == "2.13.0"


def test_the_tree_names_what_is_there():
    text = (ROOT / "docs/architecture.md").read_text()
    for name in ("Snakefile", "config.yaml", "rules/", "envs/", "profiles/", "grace/", "tests/", "results/", "docs/"):
        assert name in text and (ROOT / name.rstrip("/")).exists()
    for folder in (ROOT / "grace").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"{folder.name}/" in text, f"docs/architecture.md lacks grace/{folder.name}/"

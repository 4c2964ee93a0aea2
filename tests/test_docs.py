"""The documentation builds as a site, and what it says to write is accepted."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from grace.config.plan import Plan
from grace.config.section import merge
from tests.config.test_schema import CONFIG

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["extend.md", "reproduce.md"])
def test_settings_in_the_documentation_are_accepted(page):
    given = [yaml.safe_load(block) for block in blocks(page, "yaml")]
    assert len(given) >= 2
    for values in given:
        (study,) = values.get("studies", {"demo": None})
        plan = Plan(merge(copy.deepcopy(CONFIG), {"study": study, **values}))
        assert set((values.get("studies", {}).get(study) or {}).get("runs", {})) <= set(plan.study.runs)


def test_code_in_the_documentation_runs():
    for block in blocks("extend.md", "python"):
        subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT, capture_output=True)


def test_the_site_builds(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "compute_rewards" in (tmp_path / "site/api/index.html").read_text()

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench():
    return runpy.run_path(str(ROOT / "bench/__main__.py"))


def entry(name: str, ratio: float) -> dict:
    return {"name": name, "ratio": ratio, "low": ratio / 2, "high": ratio * 2, "meaning": "a over b"}


def test_the_summary_sets_ratios_beside_their_limits(bench):
    rows = [entry("encode_vs_released", 4.0), entry("store_overhead", 0.04), entry("demo_seconds", 0.5)]
    told = {row.split(" | ")[0].strip("| "): row for row in bench["summary"](rows).splitlines()}
    assert told["encode_vs_released"] == "| encode_vs_released | 4.000 (2.000 - 8.000) | >= 2.00 | yes | a over b |"
    assert "| <= 0.03 | no |" in told["store_overhead"]
    assert "| 0.500 (0.250 - 1.000) | <= 1.00 | yes |" in told["demo_seconds"]
    assert told["step_vs_limit"] == "| step_vs_limit | not measured | <= 1.10 | - | - |"


@pytest.mark.parametrize("failing", [None, "evaluate"])
def test_a_failed_script_is_an_error_and_a_missed_limit_is_none(bench, failing, tmp_path, monkeypatch, capsys):
    commands = []

    def run(command, check):
        commands.append(command[2:])
        (tmp_path / "b.json").write_text(json.dumps([entry("encode_vs_released", 0.5)]))
        return SimpleNamespace(returncode=int(command[2] == f"bench.{failing}"))

    monkeypatch.setattr(bench["subprocess"], "run", run)
    assert bench["main"](["--json", str(tmp_path / "b.json")]) == (failing is not None)
    to = ["--json", str(tmp_path / "b.json")]
    assert commands == [
        ["bench.encode", *to],
        ["bench.step", *to],
        ["bench.evaluate", *to],
        ["bench.workflow", "--run", *to],
    ]
    out, error = capsys.readouterr()
    assert "| >= 2.00 | no |" in out
    assert ("python -m bench.evaluate failed" in error) == (failing is not None)

"""Latency files: what they hold, what is missing, what is broken."""

from __future__ import annotations

import json

from grace.report.plots import times
from tests.report.plots import made


def test_systems_come_with_their_quantiles(tmp_path):
    path = tmp_path / "tiny.json"
    made.timed(str(path), (20,))
    found = times.load({"tiny": str(path)})
    assert [(one.name, one.budget) for one in found.systems["tiny"]] == [
        ("encoder", None), ("direct", None), ("reasoning", 20), ("grace", 20),
    ]  # fmt: skip
    assert found.systems["tiny"][3].parts["generate"] == (0.8 * 0.24, 0.24, 1.3 * 0.24)
    assert not found.missing and not found.problems


def test_missing_and_broken_files_are_said(tmp_path):
    broken, partial = tmp_path / "broken.json", tmp_path / "partial.json"
    broken.write_text("{")
    made.timed(str(partial), (20,))
    content = json.loads(partial.read_text())
    del content["systems"][1]["encode"]
    made.write(partial, "latency", systems=content["systems"])
    found = times.load({"a": str(tmp_path / "none.json"), "b": str(broken), "c": str(partial)})
    assert found.missing == [str(tmp_path / "none.json")] and not found.systems
    assert [one.path for one in found.problems] == [str(broken), str(partial)]
    assert "encode" in found.problems[1].text and "snakemake --force" in found.problems[1].text

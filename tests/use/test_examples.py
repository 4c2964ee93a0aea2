"""The examples run, and say what the encoder says."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_search(tiny_folder, capsys):
    example = runpy.run_path(str(EXAMPLES / "search.py"))
    example["main"](str(tiny_folder))
    out = capsys.readouterr().out
    assert all(text in out for text in example["TEXTS"])
    scores = [
        float(line.split()[0])
        for line in out.splitlines()
        if line.split()[1:] and line.split("  ")[-1] in example["TEXTS"]
    ]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert "text: " in out


def test_every_example_is_tested():
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")) == ["search.py"]

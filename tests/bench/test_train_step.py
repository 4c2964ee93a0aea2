"""The step's benchmark runs at a toy shape, and knows the four backbones' true shapes."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from bench import common

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    before = list(sys.path)
    yield runpy.run_path(str(ROOT / "bench/train_step.py"))
    sys.path[:] = before


@pytest.mark.parametrize("lora", [0, 4])
def test_toy_shape(bench, tmp_path, capsys, lora):
    arguments = ["--backbone", "tiny", "--prompt", "12", "--new", "6", "--rows", "2", "--steps", "2"]
    bench["main"]([*arguments, "--lora", str(lora), "--json", str(tmp_path / "row.json")])
    head, rule, row = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert head.count("|") == rule.count("|") == row.count("|") == len(bench["COLUMNS"]) + 1
    found = json.loads((tmp_path / "row.json").read_text())
    assert found["s/step"] > 0 and len(found["all_seconds"]) == 2
    assert found["trained"] < found["parameters"] if lora else found["trained"] == found["parameters"]


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2.5-1.5b", 1.54), ("llama3.2-3b", 3.21), ("qwen2.5-3b", 3.09), ("qwen3-4b", 4.02), ("qwen2.5-0.5b", 0.49)],
)
def test_true_shapes(bench, name, billions):
    """As many parameters as the models' cards say."""
    import torch

    model = common.shaped_model(name, 64, torch.device("meta"))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


def test_unknown_backbone(bench):
    with pytest.raises(SystemExit, match="error: --backbone: unknown backbone 'qwen3-5b'"):
        bench["main"](["--backbone", "qwen3-5b"])

"""Task data, and the job `grace.evaluation.evaluate` with a stand-in for the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grace.config import tasks as names
from grace.config.studies import read_config
from grace.evaluation import tasks
from grace.evaluation.sandbox import Limits, Sandbox
from tests.evaluation.fakes import FakeEncoder, embedder, evaluated, make_rows

ROOT = Path(__file__).parents[2]
DEMO = list(names.DEMO.values())


@pytest.fixture(scope="module")
def data():
    return tasks.build(make_rows(150), make_rows(90, 1), seed=0)


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    made = embedder(FakeEncoder(rationales=True), tmp_path_factory.mktemp("store"))
    return evaluated(made, DEMO, data), made


@pytest.fixture
def encoders(monkeypatch):
    """The stand-ins that jobs have made instead of a model."""
    from grace.encoder.encoder import RationaleEncoder

    made: list[FakeEncoder] = []
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: made.append(FakeEncoder(rationales=True)) or made[-1])
    return made


@pytest.fixture
def job(tmp_path, data, encoders):
    """Arguments of the command, with a stand-in for the model."""
    from grace.config.plan import Plan

    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "tasks.json").write_text(json.dumps({"manifest": {}, **data}))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"id": "0", **row}) + "\n" for row in data["test"]))
    spec = json.loads(Plan(read_config(ROOT / "config.yaml")).spec_evaluate("tiny-smoke", "reasoning", 0, "docstrings"))
    spec |= {"tasks": ["DocstringSTS"], "pairs": 0, "rationales_of": None}
    out = tmp_path / "out/docstrings.json"
    paths = ["--model", tmp_path / "model", "--data", tmp_path / "tasks.json", "--out", out]
    return ["--spec", json.dumps({"runs": [spec]}), *map(str, paths)], out


@pytest.fixture
def run_one(tmp_path):
    """Runs one task with an empty store; returns its entry of the result."""

    def run(name: str, encoder, local=None):
        made = embedder(encoder, tmp_path / "store", {"name": name})
        return evaluated(made, [name], None, local)[name]

    return run


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=2))

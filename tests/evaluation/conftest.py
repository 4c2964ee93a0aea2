"""Task data, and the job `grace.evaluation.evaluate` with a stand-in for the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grace import tasks as names
from grace.encoder.store import Store
from grace.evaluation import evaluate, tasks
from grace.evaluation.embedder import Embedder
from grace.evaluation.sandbox import Limits, Sandbox
from grace.merging import read_config
from tests.evaluation.fakes import FakeEncoder, embedder, make_rows

ROOT = Path(__file__).parents[2]
DEMO = list(names.DEMO.values())


@pytest.fixture(scope="module")
def data():
    return tasks.build(make_rows(150), make_rows(90, 1), seed=0)


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    made = embedder(FakeEncoder(rationales=True), tmp_path_factory.mktemp("store"))
    return evaluate.run(made, DEMO, data, "grace/test", "r1"), made


@pytest.fixture
def job(tmp_path, data, monkeypatch):
    """Arguments of the command, with a stand-in for the model."""
    from grace import study
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: FakeEncoder(rationales=True))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "tasks.json").write_text(json.dumps({"manifest": {}, **data}))
    config = read_config(ROOT / "config.yaml")
    spec = json.loads(study.Plan(config).spec_evaluate("tiny-smoke", "reasoning", 0, "docstrings"))
    spec |= {"tasks": ["DocstringSTS"], "pairs": 0, "rationales_of": None}
    out = tmp_path / "out/docstrings.json"
    names = {"--model": "model", "--data": "tasks.json", "--out": "out/docstrings.json"}
    return ["--spec", json.dumps(spec)] + [str(part) for k, v in names.items() for part in (k, tmp_path / v)], out


@pytest.fixture
def evaluated(tmp_path):
    """Runs one task with an empty store; returns its entry of the result."""

    def run(name: str, encoder, local=None):
        store = Store(tmp_path / "store", {"precision": "float32", "name": name}, encoder.width)
        return evaluate.run(Embedder(encoder, store), [name], None, "grace/test", "r1", local)[name]

    return run


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=2))

"""The job of an evaluation: the file it writes, geometry, and what stops it before a model is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grace import tasks as names
from grace.encoder.store import Store
from grace.evaluation import evaluate
from grace.evaluation.embedder import Embedder
from tests.evaluation.fakes import Broken, FakeEncoder
from tests.evaluation.jobs import changed, results

ROOT = Path(__file__).parents[2]
DEMO = list(names.DEMO.values())


def test_the_stage_writes_one_whole_file(job, ran):
    arguments, out = job
    evaluate.main(arguments)
    written = json.loads(out.read_text())
    assert set(written) == {"manifest", "tasks", "geometry", "rationale"}
    assert written["tasks"]["DocstringSTS"] == ran[0]["DocstringSTS"]
    assert written["manifest"]["revision"] and written["rationale"]["mean_tokens"] > 0
    evaluate.main(arguments)  # a second run computes anew and gives the same
    assert json.loads(out.read_text())["tasks"] == written["tasks"]


def test_a_results_content_is_hashed(job):
    from grace import manifest

    arguments, out = job
    evaluate.main(arguments)
    written = json.loads(out.read_text())
    assert not manifest.edited(written)
    written["tasks"]["DocstringSTS"]["main_score"] += 0.1
    assert manifest.edited(written)


def test_geometry_is_that_of_the_pairs_and_leaves_the_rationales_figures_alone(job, tmp_path, data):
    arguments, out = job
    plain = results(arguments, out, tmp_path / "plain")
    assert plain["geometry"] is None
    rows = [{"id": f"n{i}", "query": f"a new query {i}", "positive": f"a new positive {i}"} for i in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [*changed(arguments, pairs=3), "--pairs", str(tmp_path / "test.jsonl")]
    found = results(given, out, tmp_path / "store")
    vectors = FakeEncoder().encode([row[key] for key in ("query", "positive") for row in rows]).embeddings
    cosine = (vectors.astype(float) @ vectors.T.astype(float))[~np.eye(6, dtype=bool)].mean()
    assert found["geometry"]["random_pair_cosine"] == pytest.approx(cosine, abs=1e-6)
    assert (found["geometry"]["pairs"], found["geometry"]["texts"], found["geometry"]["width"]) == (3, 6, 32)
    assert found["rationale"] == plain["rationale"] and found["tasks"] == plain["tasks"]
    evaluate.main(given)
    assert str(tmp_path / "test.jsonl") in json.loads(out.read_text())["manifest"]["inputs"]


def test_pairs_of_texts_that_are_known_cost_nothing(job, tmp_path, data, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    arguments, out = job
    one = FakeEncoder(rationales=True)
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: one)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"id": "0", **row}) + "\n" for row in data["test"]))
    given = changed(arguments, tasks=["DocstringRetrieval"], pairs=1000)
    found = results([*given, "--pairs", str(tmp_path / "test.jsonl")], out, tmp_path / "store")
    assert found["geometry"]["pairs"] == len(data["test"]) == 150
    assert found["geometry"]["texts"] == found["rationale"]["texts"] == len(one.encoded)


def test_wanted_pairs_that_are_not_given_are_said_before_anything_is_embedded(job, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match="3 held-out pairs are wanted but no file is given"):
        evaluate.main(changed(job[0], pairs=3))


@pytest.mark.parametrize(
    ("tasks", "folder", "said"),
    [
        (["STSBenchmark"], "broken", r"test\.jsonl, row 2: not JSON"),
        (["DocstringSTS", "STSBenchmark"], "nowhere", r"evaluation\.local\.STSBenchmark: .*nowhere: no such folder"),
        (["DocstringSTS", "STSBenchmark"], "empty", r"evaluation\.local\.STSBenchmark: .*empty: has no test\.jsonl"),
    ],
)
def test_data_that_cannot_be_had_are_said_before_a_model_is_built(job, tmp_path, monkeypatch, tasks, folder, said):
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: 1 / 0)
    for name in ("broken", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/test.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1": ')
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        evaluate.main(changed(job[0], tasks=tasks, local={"STSBenchmark": str(tmp_path / folder)}))


def test_data_are_loaded_before_the_model_but_of_one_task_only(data):
    loaded = [task.data_loaded for task in evaluate.find(DEMO, data)]
    assert loaded == [True] + [False] * (len(DEMO) - 1)


def test_a_hub_that_refuses_connections_stops_the_command(job, tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "grace.evaluation.evaluate", *changed(job[0], tasks=["STSBenchmark"])]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = done.stderr.strip().split("\n")
    assert lines[-1].startswith("error: task STSBenchmark: its data cannot be loaded from the hub")
    assert lines[-1].endswith("or name a folder that holds it in evaluation.local.STSBenchmark.")
    assert sum(line.startswith("error:") for line in lines) == 1
    assert any("the hub cannot be reached (http://127.0.0.1:9: " in line for line in lines)
    assert "Retry 2/2" in done.stderr and "Retry 3" not in done.stderr  # 3 s; the hub's client alone waits 23 s


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, r"vLLM is not installed here; pip install vllm, or set evaluation\.engine: transformers\."),
        ("0.21.2", r"vllm 0\.21\.2 is installed, but 0\.22 to 0\.\d+ are supported; install one of them, or set "),
    ],
)
def test_a_vllm_that_cannot_be_used_stops_the_command(job, tmp_path, monkeypatch, version, said):
    """Before task data are looked for, which may be a long download."""
    from grace.encoder.engines import vllm

    if version is None:
        monkeypatch.setattr(vllm, "PACKAGES", ("vllm-that-is-nowhere",))
    else:
        about = tmp_path / f"packages/vllm-{version}.dist-info/METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(evaluate, "find", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match=rf"^error: config: evaluation\.engine: {said}"):
        evaluate.main(changed(job[0], encode={"engine": "vllm"}))


def test_a_model_that_writes_no_rationales_needs_no_vllm(job):
    evaluate.main(changed(job[0], encode={"engine": "vllm", "rationales": False}))
    assert job[1].exists()


def test_an_encoder_only_model_goes_the_same_way(job, data, encoder_folder, tmp_path):
    """Score, intervals' items, geometry and store as of any other model; another pooling is another model."""
    from grace.encoder.encoder_only import EncoderOnly

    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"id": "0", **row}) + "\n" for row in data["test"]))
    spec = json.loads(job[0][1]) | {"encode": None, "tasks": ["DocstringSTS"], "pairs": 20}
    arguments = ["--spec", json.dumps(spec), "--model", str(encoder_folder), *job[0][4:]]
    arguments += ["--pairs", str(tmp_path / "test.jsonl")]
    made = results(arguments, job[1], tmp_path / "store")
    encoder = EncoderOnly(encoder_folder)
    one = Embedder(encoder, Store(tmp_path / "own", {"precision": "float32"}, encoder.width))
    assert made["tasks"] == evaluate.run(one, ["DocstringSTS"], data, "grace/x", "r")
    assert made["geometry"]["width"] == 32 and made["rationale"] is None
    (settings,) = (tmp_path / "store").glob("*/settings.json")
    assert set(json.loads(settings.read_text())) == {"version", "weights", "dtype", "precision"}
    assert results(arguments, job[1], tmp_path / "store") == made and len(list((tmp_path / "store").iterdir())) == 1


def test_the_stage_writes_nothing_when_generation_fails(job, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    arguments, out = job
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: Broken("raise"))
    with pytest.raises(RuntimeError):
        evaluate.main(arguments)
    assert list(out.parent.iterdir()) == []


def test_task_data_that_is_none_is_named(job, tmp_path):
    (tmp_path / "tasks.json").write_text('{"manifest": {}, "test": []}')
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(job[0])
    assert "tasks.json: no task data" in str(stopped.value)

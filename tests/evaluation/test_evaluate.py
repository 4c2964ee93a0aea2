"""The demo's and mteb's task classes, run by mteb itself, against scikit-learn and scipy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from grace import tasks as names
from grace.encoder.store import Store
from grace.evaluation import evaluate, items, tasks
from grace.evaluation.embedder import Embedder
from grace.section import UserError
from tests.evaluation.fakes import Encoding, FakeEncoder, make_rows

ROOT = Path(__file__).parents[2]
DEMO = list(names.DEMO.values())


@pytest.fixture(scope="module")
def data():
    return tasks.build(make_rows(150), make_rows(90, 1), seed=0)


def embedder(encoder, folder, settings=None):
    return Embedder(encoder, Store(folder, {"precision": "float32", **(settings or {})}, encoder.width))


@pytest.fixture
def fresh(tmp_path):
    """Makes an embedder with an empty store."""
    return lambda encoder: embedder(encoder, tmp_path / f"store{len(list(tmp_path.iterdir()))}")


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    made = embedder(FakeEncoder(rationales=True), tmp_path_factory.mktemp("store"))
    return evaluate.run(made, DEMO, data, "grace/test", "r1"), made


def embed(data):
    """Query and positive embeddings of the test rows, [N, d] each, in float64."""
    encoder = FakeEncoder()
    return [
        encoder.encode([row[key] for row in data["test"]]).embeddings.astype(float) for key in ("query", "positive")
    ]


def test_retrieval_is_ndcg_at_10(ran, data):
    queries, documents = embed(data)
    expected = ndcg_score(np.eye(len(queries)), queries @ documents.T, k=10)
    assert ran[0]["DocstringRetrieval"]["main_score"] == pytest.approx(expected, abs=1e-5)


def test_reranking_is_mean_average_precision(ran, data):
    queries, documents = embed(data)
    expected = []
    for key, negatives in data["reranking"].items():
        ids = [int(key), *negatives]
        expected.append(average_precision_score([1] + [0] * len(negatives), documents[ids] @ queries[int(key)]))
    assert ran[0]["DocstringReranking"]["main_score"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_pair_classification_is_average_precision(ran, data):
    queries, documents = embed(data)
    left, right = (np.array([pair[side] for pair in data["pairs"]]) for side in (0, 1))
    labels = [pair[2] for pair in data["pairs"]]
    cosine = (queries[left] * documents[right]).sum(1)
    manhattan = -np.abs(queries[left] - documents[right]).sum(1)
    expected = max(average_precision_score(labels, score) for score in (cosine, manhattan))
    assert ran[0]["DocstringPairs"]["main_score"] == pytest.approx(expected, abs=1e-4)


def test_sts_is_spearmans_correlation(ran, data):
    _, documents = embed(data)
    left, right = (np.array([pair[side] for pair in data["sts"]]) for side in (0, 1))
    gold = [pair[2] for pair in data["sts"]]
    expected = spearmanr(gold, (documents[left] * documents[right]).sum(1)).statistic
    assert ran[0]["DocstringSTS"]["main_score"] == pytest.approx(expected, abs=1e-4)


def test_items_add_up_to_the_main_score(ran):
    for entry in ran[0].values():
        assert items.aggregate(entry["items"]) == pytest.approx(entry["main_score"], abs=1e-5)
    assert len(ran[0]["DocstringClustering"]["items"]["parts"][0]["values"]) == 5
    assert {entry["category"] for entry in ran[0].values()} == set(names.DEMO)


class Oracle(FakeEncoder):
    """Knows each text's package: what clustering and classification ask for."""

    def __init__(self, rows):
        self.package = {row["positive"]: row["label"] for row in rows}
        super().__init__(size=len(set(self.package.values())))

    def encode(self, texts, rationales=None, progress=False):
        labels = sorted(set(self.package.values()))
        out = np.array([[self.package[text] == label for label in labels] for text in texts], dtype=np.float32)
        return Encoding(20 * out, None)  # long vectors: the classifier's regularisation should not matter


def test_an_encoder_that_knows_the_packages_is_near_perfect(data, fresh):
    made = fresh(Oracle(data["test"] + data["validation"]))
    ran = evaluate.run(made, ["DocstringClustering", "DocstringClassification"], data, "grace/oracle", "r")
    assert ran["DocstringClassification"]["main_score"] == 1.0
    assert ran["DocstringClustering"]["main_score"] > 0.9  # k-means may start with two centres in one package


def test_a_text_is_encoded_once_however_often_it_recurs(ran, data):
    encoded = ran[1].encoder.encoded
    assert len(encoded) == len(set(encoded)) == ran[1].rationale()["texts"]
    before = len(encoded)
    again = ran[1].encode([data["test"][0]["query"], "new", "", "new"])
    assert ran[1].encoder.encoded[before:] == ["new", ""]
    assert np.array_equal(again[1], again[3])


class Broken(FakeEncoder):
    def __init__(self, error):
        super().__init__(size=4)
        self.error = error

    def encode(self, texts, rationales=None, progress=False):
        if self.error == "nan":
            return Encoding(np.full((len(texts), 4), np.nan, dtype=np.float32), None)
        if self.error == "constant":
            return Encoding(np.ones((len(texts), 4), dtype=np.float32) / 2, None)
        raise RuntimeError("generation failed")


def test_failing_generation_stops_the_job(data, fresh):
    with pytest.raises(RuntimeError, match="generation failed"):
        evaluate.run(fresh(Broken("raise")), DEMO[:1], data, "grace/x", "r")
    with pytest.raises(UserError, match="not finite"):
        evaluate.run(fresh(Broken("nan")), DEMO[:1], data, "grace/x", "r")


def test_an_undefined_metric_is_missing_and_not_zero(data, fresh):
    ran = evaluate.run(fresh(Broken("constant")), ["DocstringSTS"], data, "grace/x", "r")
    assert ran["DocstringSTS"]["main_score"] is None
    json.dumps(ran, allow_nan=False)


@pytest.fixture
def job(tmp_path, data, monkeypatch):
    """Arguments of the command, with a stand-in for the model."""
    from grace import study
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: FakeEncoder(rationales=True))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "tasks.json").write_text(json.dumps({"manifest": {}, **data}))
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    spec = json.loads(study.Plan(config).spec_evaluate("reasoning", 0, "docstrings"))
    spec |= {"tasks": ["DocstringSTS"], "pairs": 0, "rationales_of": None}
    out = tmp_path / "out/docstrings.json"
    names = {"--model": "model", "--data": "tasks.json", "--out": "out/docstrings.json"}
    return ["--spec", json.dumps(spec)] + [str(part) for k, v in names.items() for part in (k, tmp_path / v)], out


def test_the_stage_writes_one_whole_file(job, ran):
    arguments, out = job
    evaluate.main(arguments)
    written = json.loads(out.read_text())
    assert set(written) == {"manifest", "tasks", "geometry", "rationale"}
    assert written["tasks"]["DocstringSTS"] == ran[0]["DocstringSTS"]
    assert written["manifest"]["revision"] and written["rationale"]["mean_tokens"] > 0
    evaluate.main(arguments)  # a second run computes anew and gives the same
    assert json.loads(out.read_text())["tasks"] == written["tasks"]


def results(arguments, out, store):
    evaluate.main([*arguments, "--store", str(store)])
    written = json.loads(out.read_text())
    del written["manifest"]
    return written


def test_a_second_job_embeds_nothing_and_gives_the_same(job, tmp_path, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    arguments, out = job
    used = []
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: used.append(FakeEncoder(rationales=True)) or used[-1])
    cold = results(arguments, out, tmp_path / "store")
    warm = results(arguments, out, tmp_path / "store")
    assert cold == warm and used[0].encoded and not used[1].encoded
    (tmp_path / "model/model.safetensors").write_bytes(b"other weights")
    results(arguments, out, tmp_path / "store")
    assert sorted(used[2].encoded) == sorted(used[0].encoded)


def changed(arguments, **spec):
    """Arguments of the command with other settings, and with those of `encode` that stand in a dictionary."""
    old = json.loads(arguments[1])
    encode = old["encode"] | spec.pop("encode", {})
    return ["--spec", json.dumps(old | {"encode": encode} | spec), *arguments[2:]]


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


def test_other_poolings_and_budgets_take_the_rationales_of_one_job(job, tmp_path, tiny_folder, monkeypatch):
    """Real jobs on a tiny model: what is pooled again gives what is written anew, and the model writes nothing."""
    from grace.encoder.encoder import RationaleEncoder
    from grace.encoder.engines import transformers as engine
    from grace.encoder.loading import load_model

    model = load_model(tiny_folder, "cpu")
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda _, spec: RationaleEncoder(*model, spec))
    arguments, out = changed(job[0], encode={"max_new_tokens": 12, "sampling_temperature": 1.0}), job[1]
    results(arguments, out, tmp_path / "store")
    source = json.loads(arguments[1])["encode"]
    max_pooling = {"method": "max", "layer": "last", "normalize": True}
    point = changed(arguments, encode={"pooling": max_pooling, "max_new_tokens": 7}, rationales_of=source)
    anew = results(point, out, tmp_path / "empty")
    monkeypatch.setattr(engine, "generate_batches", lambda *_, **__: 1 / 0)
    again = results(point, out, tmp_path / "store")
    texts = anew["rationale"]["texts"]
    assert anew["rationale"] == again["rationale"] | {"reused": 0} and again["rationale"]["reused"] == texts > 50
    assert 0 < again["rationale"]["truncated_share"] < 1
    score = [one["tasks"]["DocstringSTS"]["main_score"] for one in (anew, again)]
    assert score[0] == pytest.approx(score[1], abs=1e-4)
    assert results(point, out, tmp_path / "store") == again  # found in the store


def test_an_adapter_takes_the_rationales_that_its_backbone_has_written(job, tmp_path, request, monkeypatch):
    """Real jobs in one store: the backbone writes, the adapter pools what it has written and writes nothing."""
    from grace.encoder.encoder import RationaleEncoder
    from grace.encoder.engines import transformers as engine
    from grace.encoder.loading import load_model

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda path, spec: RationaleEncoder(*load_model(path), spec))

    def start(folder, arguments, store):
        given = [*arguments[:2], "--model", str(request.getfixturevalue(folder)), *arguments[4:]]
        return results(given, job[1], tmp_path / store)

    arguments = changed(job[0], encode={"max_new_tokens": 8, "sampling_temperature": 1.0, "seed": 3})
    source = json.loads(arguments[1])["encode"]
    given = changed(arguments, rationales_of=source)
    written = start("tiny_folder", arguments, "store")
    anew = start("adapted_folder", given, "empty")
    monkeypatch.setattr(engine, "generate_batches", lambda *_, **__: 1 / 0)
    found = start("adapted_folder", given, "store")
    assert found["rationale"] == anew["rationale"] | {"reused": found["rationale"]["texts"]}
    assert written["rationale"] == anew["rationale"]
    score = [one["tasks"]["DocstringSTS"]["main_score"] for one in (anew, found, written)]
    assert score[0] == pytest.approx(score[1], abs=1e-4) and abs(score[2] - score[1]) > 1e-3
    assert start("adapted_folder", given, "store") == found
    with pytest.raises(ZeroDivisionError):  # a second adapter writes what the store does not hold
        start("generator_folder", given, "store")


@pytest.mark.parametrize(
    ("encode", "source", "named"),
    [
        ({}, {"seed": 1, "sampling_temperature": 1.0}, "sampling_temperature"),
        ({"max_new_tokens": 9}, {"max_new_tokens": 8}, "max_new_tokens is larger"),
        ({"rationales": False}, {"rationales": False}, "rationales: false"),
        ({}, {"prompt": {"instruction": "Another.", "max_prompt_tokens": 64}}, "prompt"),
    ],
)
def test_rationales_of_other_settings_are_refused(job, encode, source, named):
    given = changed(job[0], encode=encode)
    source = json.loads(given[1])["encode"] | source
    with pytest.raises(SystemExit, match=rf"spec.rationales_of: other rationales.*{named}"):
        evaluate.main(changed(given, rationales_of=source))


def test_embeddings_of_other_weights_lying_in_the_way(job, tmp_path):
    results(*job, tmp_path / "store")
    (settings,) = (tmp_path / "store").glob("*/settings.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"weights": "other"}))
    with pytest.raises(SystemExit) as stopped:
        results(*job, tmp_path / "store")
    assert "holds embeddings of other settings (weights); move it away." in str(stopped.value)


JOB = """
import sys, time
from grace.encoder import store
from grace.evaluation import evaluate
store.SECONDS = 0.3
add = store.Store.add
def told(self, digests, *rest):
    add(self, digests, *rest)
    print(time.time(), len(self), flush=True)
    time.sleep(0.03)  # so that it is still at work when it is killed
store.Store.add = told
evaluate.main(sys.argv[1:])
"""


def test_a_killed_job_loses_one_flush_interval_and_gives_the_same(tiny_folder, tmp_path, data, monkeypatch):
    """A real job on a model that writes rationales, killed with -9 while it embeds."""
    from grace import study

    (tmp_path / "tasks.json").write_text(json.dumps({"manifest": {}, **data}))
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    spec = json.loads(study.Plan(config).spec_evaluate("reasoning", 0, "docstrings"))
    spec |= {"tasks": ["DocstringSTS", "DocstringRetrieval"], "pairs": 0}
    spec["encode"] |= {"batch_size": 4, "max_new_tokens": 8}
    arguments = ["--spec", json.dumps(spec), "--threads", "1", "--model", str(tiny_folder)]
    arguments += ["--data", str(tmp_path / "tasks.json")]

    command = [*arguments, "--out", str(tmp_path / "out.json"), "--store", str(tmp_path / "killed")]
    child = subprocess.Popen(
        [sys.executable, "-c", JOB, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines = []
    assert child.stdout
    for line in child.stdout:
        moment, count = line.split()
        lines.append((float(moment), int(count)))
        if lines[-1][0] - lines[0][0] > 0.8:
            child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL and not (tmp_path / "out.json").exists()
    before = sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("killed/*/[!.]*.parquet"))
    # What was embedded an interval and a batch before the kill is there (0.6 s for a busy machine).
    assert before >= max([count for moment, count in lines if moment < lines[-1][0] - 0.6], default=1)

    embedded = []
    add = Store.add
    monkeypatch.setattr(
        Store, "add", lambda self, digests, *rest: embedded.extend(digests) or add(self, digests, *rest)
    )
    killed = results(arguments + ["--out", str(tmp_path / "out.json")], tmp_path / "out.json", tmp_path / "killed")
    again = len(embedded)
    whole = results(arguments + ["--out", str(tmp_path / "out.json")], tmp_path / "out.json", tmp_path / "whole")
    assert before > 10 and before + again == len(embedded) - again == whole["rationale"]["texts"]
    assert killed["rationale"] == whole["rationale"]
    for task in spec["tasks"]:  # batches differ, so embeddings do in their last bits
        assert killed["tasks"][task]["main_score"] == pytest.approx(whole["tasks"][task]["main_score"], abs=1e-4)


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


def test_subqueries_of_one_query_are_merged():
    saved = {"7_1": {"a": 0.2, "b": 0.5}, "7_2": {"a": 0.9}, "8_1": {"c": 0.1}}
    relevant = {"7_1": {"a": 1}, "7_2": {"a": 1}, "8_1": {"c": 1}}
    merged, judged = items._merged(saved, relevant)
    assert merged == {"7": {"a": 0.9, "b": 0.5}, "8": {"c": 0.1}}
    assert judged == {"7": {"a": 1}, "8": {"c": 1}}

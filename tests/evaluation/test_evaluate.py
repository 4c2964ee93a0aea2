"""The job of an evaluation: what it writes, what stops it, what one job leaves for the next; its embedder; geometry."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import entropy

from grace.config import tasks as names
from grace.config.section import UserError
from grace.encoder.store import Store, digests_of
from grace.evaluation import evaluate, mteb_tasks
from grace.evaluation.evaluate import Embedder
from grace.jobs import manifest
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import (
    Broken,
    Encoding,
    FakeEncoder,
    Rationale,
    changed,
    embedder,
    evaluated,
    results,
    spec_of,
)

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
    assert not manifest.edited(written)
    written["tasks"]["DocstringSTS"]["main_score"] += 0.1
    assert manifest.edited(written)


def test_geometry_is_that_of_the_pairs_and_leaves_the_rationales_figures_alone(job, tmp_path):
    arguments, out = job
    plain = results(arguments, out, tmp_path / "plain")
    assert plain["geometry"] is None
    rows = [{"id": f"n{i}", "query": f"a new query {i}", "positive": f"a new positive {i}"} for i in range(3)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    given = [*changed(arguments, pairs=3), "--pairs", str(tmp_path / "test.jsonl")]
    found = results(given, out, tmp_path / "store")
    vectors = FakeEncoder().encode([row[key] for key in ("query", "positive") for row in rows]).embeddings
    cosine = (vectors.astype(float) @ vectors.T.astype(float))[~np.eye(6, dtype=bool)].mean()
    assert found["geometry"]["random_pair_cosine"] == pytest.approx(cosine, abs=1e-6)
    assert (found["geometry"]["pairs"], found["geometry"]["texts"], found["geometry"]["width"]) == (3, 6, 32)
    assert found["rationale"] == plain["rationale"] and found["tasks"] == plain["tasks"]
    evaluate.main(given)
    assert str(tmp_path / "test.jsonl") in json.loads(out.read_text())["manifest"]["inputs"]


def test_pairs_of_texts_that_are_known_cost_nothing(job, tmp_path, encoders):
    given = [*changed(job[0], tasks=["DocstringRetrieval"], pairs=1000), "--pairs", str(tmp_path / "test.jsonl")]
    found = results(given, job[1], tmp_path / "store")
    assert found["geometry"]["pairs"] == 150
    assert found["geometry"]["texts"] == found["rationale"]["texts"] == len(encoders[0].encoded)


# ---- what stops a job ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "folder", "said"),
    [
        ({"pairs": 3}, "", "3 held-out pairs are wanted but no file is given"),
        ({"tasks": ["STSBenchmark"]}, "broken", r"test\.jsonl, row 2: not JSON"),
        ({"tasks": [DEMO[0], "STSBenchmark"]}, "nowhere", r"evaluation\.local\.STSBenchmark: .*nowhere: no such fold"),
        ({"tasks": [DEMO[0], "STSBenchmark"]}, "empty", r"evaluation\.local\.STSBenchmark: .*empty: has no test\.j"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_built(job, tmp_path, encoders, settings, folder, said):
    for name in ("broken", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/test.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1": ')
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        evaluate.main(changed(job[0], local={"STSBenchmark": str(tmp_path / folder)}, **settings))
    assert encoders == []


def test_task_data_that_is_none_is_named(job, tmp_path):
    (tmp_path / "tasks.json").write_text('{"manifest": {}, "test": []}')
    with pytest.raises(SystemExit, match=r"tasks\.json: no task data"):
        evaluate.main(job[0])


def test_data_are_loaded_before_the_model_but_of_one_task_only(data):
    assert [task.data_loaded for task in mteb_tasks.find(DEMO, data)] == [True] + [False] * (len(DEMO) - 1)


def test_a_hub_that_refuses_connections_stops_the_command(job, tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "grace.evaluation.evaluate", *changed(job[0], tasks=["STSBenchmark"])]
    options = {"cwd": ROOT, "env": {**os.environ, **environment}, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=200, **options)
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
    monkeypatch.setattr(mteb_tasks, "find", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match=rf"^error: config: evaluation\.engine: {said}"):
        evaluate.main(changed(job[0], encode={"engine": "vllm"}))


def test_a_model_that_writes_no_rationales_needs_no_vllm(job):
    evaluate.main(changed(job[0], encode={"engine": "vllm", "rationales": False}))
    assert job[1].exists()


def test_the_stage_writes_nothing_when_generation_fails(job, monkeypatch):
    from grace.encoder.encoder import RationaleEncoder

    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: Broken("raise"))
    with pytest.raises(RuntimeError, match="generation failed"):
        evaluate.main(job[0])
    assert list(job[1].parent.iterdir()) == []


SUMMARIES = {"text": "a document", "human_summaries": ["by a person"], "machine_summaries": ["one", "two", "three"]}


class Odd(FakeEncoder):
    """Embeds the first text that it is given with a number of the test's, all others well."""

    number, text = 0.0, ""

    def encode(self, texts, rationales=None, progress=False):
        made = super().encode(texts, rationales)
        self.text = self.text or texts[0]
        made.embeddings[[text == self.text for text in texts], 1] = self.number
        return made


@pytest.mark.parametrize("task", [*DEMO, "SummEval"])
@pytest.mark.parametrize(
    ("number", "precision", "said"),
    [
        (np.nan, "float32", "are not finite, so its training has diverged or its files are damaged; train or fetch"),
        (np.inf, "float16", "are not finite"),
        (1e5, "float16", r"are too large for float16; set evaluation\.store: float32"),
    ],
)
def test_an_embedding_that_is_not_finite_stops_any_task(job, tmp_path, monkeypatch, task, number, precision, said):
    """mteb ranks a NaN first for every query, and says nothing."""
    from grace.encoder.encoder import RationaleEncoder

    one = Odd()
    one.number = number
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: one)
    write_jsonl(tmp_path / "summaries/test.jsonl", [{**SUMMARIES, "relevance": [1.0, 2.0, 3.0]}] * 2)
    arguments = changed(job[0], tasks=[task], local={"SummEval": str(tmp_path / "summaries")}, store=precision)
    with pytest.raises(SystemExit, match=rf"^error: {tmp_path}/model: its embeddings of 1 of \d+ texts .*{said}"):
        results(arguments, job[1], tmp_path / "store")
    assert not job[1].exists()
    (settings,) = (tmp_path / "store").glob("*/settings.json")
    kept = Store(tmp_path / "store", json.loads(settings.read_text()), one.width)
    assert not kept.known(digests_of([one.text])).any()


# ---- what one job leaves for the next ------------------------------------------------------


def test_a_second_job_embeds_nothing_and_gives_the_same(job, tmp_path, encoders):
    cold, warm = (results(*job, tmp_path / "store") for _ in range(2))
    assert cold == warm and encoders[0].encoded and not encoders[1].encoded
    (tmp_path / "model/model.safetensors").write_bytes(b"other weights")
    results(*job, tmp_path / "store")
    assert sorted(encoders[2].encoded) == sorted(encoders[0].encoded)


def test_climate_fever_finds_the_corpus_that_fever_has_embedded(job, tmp_path, encoders):
    """Two jobs on mteb's own tasks; their data lie apart, as two repositories of the hub do."""
    corpus = [{"_id": f"d{i}", "title": f"Page {i}", "text": f"what page {i} says"} for i in range(30)]
    local = {"FEVER": str(tmp_path / "fever"), "ClimateFEVER": str(tmp_path / "climate")}
    for task, name, order in (("FEVER", "fever", corpus), ("ClimateFEVER", "climate", corpus[::-1])):
        write_jsonl(tmp_path / name / "corpus.jsonl", order)
        write_jsonl(tmp_path / name / "queries.jsonl", ({"_id": f"{i}", "text": f"{name} {i}"} for i in range(4)))
        write_jsonl(tmp_path / name / "qrels.jsonl", ({"query-id": f"{i}", "corpus-id": f"d{i}"} for i in range(4)))
        found = results(changed(job[0], tasks=[task], local=local), job[1], tmp_path / "store")
        assert 0 <= found["tasks"][task]["main_score"] <= 1
    assert len([text for text in encoders[0].encoded if "page" in text]) == len(corpus)
    assert sorted(encoders[1].encoded) == [f"climate {i}" for i in range(4)]


def test_other_poolings_and_budgets_take_the_rationales_of_one_job(job, tmp_path, tiny_folder, monkeypatch):
    """Real jobs on a tiny model: what is pooled again gives what is written anew, and the model writes nothing."""
    from grace.encoder.encoder import RationaleEncoder
    from grace.encoder.engines import transformers as engine
    from grace.encoder.loading import load_model

    model = load_model(tiny_folder, "cpu")
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda _, spec: RationaleEncoder(*model, spec))
    arguments, out = changed(job[0], encode={"max_new_tokens": 12, "sampling_temperature": 1.0}), job[1]
    results(arguments, out, tmp_path / "store")
    source = spec_of(arguments)["encode"]
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
    given = changed(arguments, rationales_of=spec_of(arguments)["encode"])
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
    source = spec_of(given)["encode"] | source
    with pytest.raises(SystemExit, match=rf"spec.rationales_of: other rationales.*{named}"):
        evaluate.main(changed(given, rationales_of=source))


def test_an_encoder_only_model_goes_the_same_way(job, data, encoder_folder, tmp_path):
    """Score, intervals' items, geometry and store as of any other model; another pooling is another model."""
    from grace.encoder.encoder import EncoderOnly

    spec = spec_of(job[0]) | {"encode": None, "tasks": ["DocstringSTS"], "pairs": 20}
    arguments = ["--spec", json.dumps({"runs": [spec]}), "--model", str(encoder_folder), *job[0][4:]]
    arguments += ["--pairs", str(tmp_path / "test.jsonl")]
    made = results(arguments, job[1], tmp_path / "store")
    own = embedder(EncoderOnly(encoder_folder), tmp_path / "own")
    assert made["tasks"] == evaluated(own, ["DocstringSTS"], data)
    assert made["geometry"]["width"] == 32 and made["rationale"] is None
    (settings,) = (tmp_path / "store").glob("*/settings.json")
    assert set(json.loads(settings.read_text())) == {"version", "weights", "dtype", "precision"}
    assert results(arguments, job[1], tmp_path / "store") == made and len(list((tmp_path / "store").iterdir())) == 1


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


def test_a_killed_job_loses_one_flush_interval_and_gives_the_same(job, tiny_folder, tmp_path, monkeypatch):
    """A real job on a model that writes rationales, killed with -9 while it embeds."""
    monkeypatch.undo()  # the stand-in for the model
    tasks = ["DocstringSTS", "DocstringRetrieval"]
    given = changed(job[0], tasks=tasks, encode={"batch_size": 4, "max_new_tokens": 8})
    given = [*given, "--threads", "1", "--model", str(tiny_folder)]
    command = [sys.executable, "-c", JOB, *given, "--store", str(tmp_path / "killed")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = []
    assert child.stdout
    for line in child.stdout:
        moment, count = line.split()
        lines.append((float(moment), int(count)))
        if lines[-1][0] - lines[0][0] > 0.8:
            child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL and not job[1].exists()
    before = sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("killed/*/[!.]*.parquet"))
    # What was embedded an interval and a batch before the kill is there (0.6 s for a busy machine).
    assert before >= max([count for moment, count in lines if moment < lines[-1][0] - 0.6], default=1)

    embedded = []
    add = Store.add
    monkeypatch.setattr(Store, "add", lambda self, new, *rest: embedded.extend(new) or add(self, new, *rest))
    killed = results(given, job[1], tmp_path / "killed")
    again = len(embedded)
    whole = results(given, job[1], tmp_path / "whole")
    assert before > 10 and before + again == len(embedded) - again == whole["rationale"]["texts"]
    assert killed["rationale"] == whole["rationale"]
    for task in tasks:  # batches differ, so embeddings do in their last bits
        assert killed["tasks"][task]["main_score"] == pytest.approx(whole["tasks"][task]["main_score"], abs=1e-4)


# ---- the embedder --------------------------------------------------------------------------

TEXTS = [f"text {i}" for i in range(60)]


class Repooling(FakeEncoder):
    """Tells in the embedding's first number how long a rationale was given to it; 3 tokens are its limit."""

    def __init__(self):
        super().__init__(rationales=True)
        self.given = {}

    def encode_written(self, texts, token_ids):
        self.given.update(zip(texts, token_ids, strict=True))
        for start in range(0, len(texts), 7):
            rows = list(range(start, min(start + 7, len(texts))))[::-1]
            out = np.array([[len(token_ids[i])] + [1.0] * (self.size - 1) for i in rows], dtype=np.float32)
            yield rows, Encoding(out, [Rationale("", token_ids[i][:3], True, False) for i in rows])


@pytest.fixture
def make(tmp_path):
    """Makes an embedder; equal settings share a folder."""

    def store(name):
        return Store(tmp_path, {"precision": "float32", "of": name}, 32)

    return lambda encoder, name="own", written=None: Embedder(encoder, store(name), written and store(written))


@pytest.fixture
def source(make):
    """An embedder that has written rationales of the first 40 texts."""
    made = make(FakeEncoder(rationales=True), "source")
    made.encode(TEXTS[:40])
    made.store.flush()
    return made


def test_figures_of_the_texts_depend_on_neither_order_nor_store(make):
    cold, other = make(FakeEncoder(rationales=True)), make(FakeEncoder(rationales=True), "other")
    cold.encode(TEXTS)
    # The fake's rationales have 5, 6, 7 tokens in turn, and every fourth is cut off.
    expected = {"mean_tokens": 6.0, "truncated_share": 0.25, "well_formed_share": 0.75, "texts": 60, "reused": 0}
    assert cold.rationale() == expected
    assert make(FakeEncoder(), "third").rationale() is None
    for i in reversed(range(60)):
        other.encode([TEXTS[i], TEXTS[-1]])
    other.encode(["one more that this job does not see"])
    other.store.flush()
    warm = make(FakeEncoder(rationales=True), "other")
    warm.encode(TEXTS)
    assert warm.encoder.encoded == [] and warm.rationale() == expected


def test_what_is_written_is_pooled_again_and_the_rest_is_written(make, source, monkeypatch, caplog):
    monkeypatch.setattr(evaluate, "READ_BLOCK", 16)
    one = make(Repooling(), written="source")
    with caplog.at_level(logging.INFO):
        vectors = one.encode([*TEXTS[::-1], TEXTS[3]])
    assert "the rationales of 40 of them are there" in caplog.text
    assert sorted(one.encoder.encoded) == sorted(TEXTS[40:])
    said = FakeEncoder().say
    assert one.encoder.given == {text: said(text).token_ids for text in TEXTS[:40]}
    expected = [len(said(text).token_ids) for text in TEXTS[:40]]
    assert vectors[:-1][::-1][:40, 0].tolist() == expected and vectors[-1, 0] == expected[3]
    assert np.array_equal(vectors[:20], FakeEncoder(rationales=True).encode(TEXTS[:39:-1]).embeddings)
    found = one.rationale()
    assert found["reused"] == 40 and found["texts"] == 60
    cut = sum(said(text).truncated for text in TEXTS[40:])
    assert found["truncated_share"] == (40 + cut) / 60
    assert found["well_formed_share"] == (20 - cut) / 60
    one.store.flush()
    warm = make(Repooling(), written="source")  # a resumed job says the same
    warm.encode(TEXTS)
    assert warm.encoder.given == {} and warm.encoder.encoded == []
    assert warm.rationale() == found


def test_rationales_that_another_job_writes_meanwhile_are_found(make):
    one = make(Repooling(), written="source")
    one.written._looked = -1e9  # it looked long ago
    other = make(FakeEncoder(rationales=True), "source")
    other.encode(TEXTS[:5])
    other.store.flush()
    one.encode(TEXTS[:5])
    assert one.encoder.encoded == [] and one.written.known(digests_of(TEXTS[:5])).all()


def test_dimensions_are_standardised_by_other_texts_and_stored_as_they_are(make):
    made, plain = make(FakeEncoder()), make(FakeEncoder(), "plain").encode(TEXTS)
    made.standardize(TEXTS[40:])
    found = made.encode(TEXTS[:40])
    reference = plain[40:].astype(np.float64)
    np.testing.assert_allclose(found, (plain[:40] - reference.mean(0)) / reference.std(0), atol=1e-4)
    np.testing.assert_array_equal(made.store.read(digests_of(TEXTS[:40])), plain[:40])
    assert len(made.seen) == 40  # the figures are of the job's own texts
    made = make(Repooling(), "third")
    made.standardize(["the same"] * 3)  # a dimension without spread
    assert not made.encode(["the same"]).any() and np.isfinite(made.encode(["another"])).all()


# ---- geometry, against loops over all pairs, cases by hand, and scipy ----------------------

RNG = np.random.default_rng(0)
VECTORS = {f"t{i}": RNG.normal(size=6) + 0.5 for i in range(23)}
QUERIES = ["t0", "t1", "t2", "t3", "t0", *(f"t{i}" for i in range(4, 13))]
POSITIVES = ["t13", "t14", "t15", "t16", "t17", "t4", *(f"t{i}" for i in range(15, 23))]


def unit(text):
    vector = [float(value) for value in VECTORS[text].astype(np.float32)]
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_figures_equal_loops_over_distinct_texts_and_pairs(monkeypatch, block):
    monkeypatch.setattr(evaluate, "GEOMETRY_BLOCK", block)
    made = evaluate.geometry(QUERIES, POSITIVES, lambda texts: np.array([VECTORS[t] for t in texts], dtype=np.float32))
    texts = sorted({*QUERIES, *POSITIVES})
    pairs = [(unit(a), unit(b)) for a in texts for b in texts if a < b]
    assert (made["pairs"], made["texts"], made["width"]) == (len(QUERIES), len(texts), 6)
    assert len(texts) < 2 * len(QUERIES)  # some are in several pairs
    cosines = [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in pairs]
    assert made["random_pair_cosine"] == pytest.approx(sum(cosines) / len(pairs), abs=1e-12)
    near = [math.exp(-2 * squared(x, y)) for x, y in pairs]
    assert made["uniformity"] == pytest.approx(math.log(sum(near) / len(pairs)), abs=1e-12)
    each = [squared(unit(a), unit(b)) for a, b in zip(QUERIES, POSITIVES, strict=True)]
    assert made["items"]["alignment"] == pytest.approx(each, abs=1e-12)
    assert made["alignment"] == pytest.approx(sum(each) / len(each), abs=1e-12)
    matrix = np.array([unit(text) for text in texts])
    values = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix))
    assert made["effective_rank"] == pytest.approx(math.exp(entropy(values)), abs=1e-9)


def test_geometry_by_hand():
    rows = {"a": [3, 0, 0, 0], "b": [0, 5, 0, 0], "c": [0, 0, 1, 0]}
    made = evaluate.geometry(["a", "c"], ["b", "c"], lambda texts: np.array([rows[t] for t in texts], dtype=np.float32))
    assert made == {
        "pairs": 2,
        "texts": 3,
        "random_pair_cosine": 0.0,
        "uniformity": pytest.approx(-4.0),  # every squared distance is 2
        "alignment": 1.0,
        "effective_rank": pytest.approx(3.0),
        "width": 4,
        "items": {"alignment": [2.0, 0.0]},
    }
    # All texts point one way.
    made = evaluate.geometry(["a", "b"], ["c", "d"], lambda texts: np.ones((len(texts), 8), dtype=np.float16))
    expected = {"random_pair_cosine": 1.0, "uniformity": 0.0, "alignment": 0.0, "effective_rank": 1.0}
    assert {name: made[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # One text has no pairs.
    made = evaluate.geometry(["a"], ["a"], lambda texts: np.ones((len(texts), 2), dtype=np.float32))
    assert made["random_pair_cosine"] is None and made["uniformity"] is None
    assert made["alignment"] == 0 and made["texts"] == 1


def test_pairs_are_drawn_from_the_whole_file(tmp_path):
    rows = [{"id": str(i), "query": f"q{i}", "positive": f"p{i}", "negatives": ["n"]} for i in range(100)]
    write_jsonl(tmp_path / "rows", rows)
    queries, positives = evaluate.read_pairs([tmp_path / "rows"], 20)
    assert [query[1:] for query in queries] == [positive[1:] for positive in positives]
    numbers = [int(query[1:]) for query in queries]
    assert len(set(numbers)) == 20 and max(numbers) > 50 and min(numbers) < 50
    assert evaluate.read_pairs([tmp_path / "rows"], 20) == (queries, positives)
    assert len(evaluate.read_pairs([tmp_path / "rows"], 1000)[0]) == 100
    write_jsonl(tmp_path / "rows", [rows[0], {"id": "b", "query": "q"}])
    with pytest.raises(UserError, match="rows, row 2: the field 'positive' is missing"):
        evaluate.read_pairs([tmp_path / "rows"], 5)

"""What one job has embedded or written serves the next: repeats, other poolings, adapters, a killed job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from grace import tasks as names
from grace.encoder.digests import digests_of
from grace.encoder.store import Store
from grace.evaluation import evaluate
from grace.files import write_jsonl
from grace.merging import read_config
from tests.evaluation.fakes import FakeEncoder
from tests.evaluation.jobs import changed, results

ROOT = Path(__file__).parents[2]


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


def test_climate_fever_finds_the_corpus_that_fever_has_embedded(job, tmp_path, monkeypatch):
    """Two jobs on mteb's own tasks; their data lie apart, as two repositories of the hub do."""
    from grace.encoder.encoder import RationaleEncoder

    corpus = [{"_id": f"d{i}", "title": f"Page {i}", "text": f"what page {i} says"} for i in range(30)]
    local = {"FEVER": str(tmp_path / "fever"), "ClimateFEVER": str(tmp_path / "climate")}
    for name, order in (("fever", corpus), ("climate", corpus[::-1])):
        claims = [{"_id": f"{name}{i}", "text": f"{name} claims {i}"} for i in range(4)]
        write_jsonl(tmp_path / name / "corpus.jsonl", order)
        write_jsonl(tmp_path / name / "queries.jsonl", claims)
        qrels = [{"query-id": claim["_id"], "corpus-id": f"d{i}"} for i, claim in enumerate(claims)]
        write_jsonl(tmp_path / name / "qrels.jsonl", qrels)
    used = []
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: used.append(FakeEncoder(rationales=True)) or used[-1])
    for name in local:
        arguments = changed(job[0], tasks=[name], local=local)
        assert 0 <= results(arguments, job[1], tmp_path / "store")["tasks"][name]["main_score"] <= 1
    first, second = ([text for text in one.encoded if "page" in text] for one in used)
    assert len(first) == len(corpus) and not second
    assert sorted(used[1].encoded) == [f"climate claims {i}" for i in range(4)]


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


SUMMARIES = {
    "text": "a document", "human_summaries": ["by a person"], "machine_summaries": ["one", "two", "three"],
    "relevance": [1.0, 2.0, 3.0],
}  # fmt: skip


class Odd(FakeEncoder):
    """Embeds the first text that it is given with a number of the test's, all others well."""

    number, text = 0.0, ""

    def encode(self, texts, rationales=None, progress=False):
        made = super().encode(texts, rationales)
        self.text = self.text or texts[0]
        made.embeddings[[text == self.text for text in texts], 1] = self.number
        return made


@pytest.mark.parametrize("task", [*names.DEMO.values(), "SummEval"])
@pytest.mark.parametrize(
    ("number", "precision", "said"),
    [
        (np.nan, "float32", "are not finite, so its training has diverged or its files are damaged; train or fetch"),
        (np.inf, "float16", "are not finite"),
        (1e5, "float16", r"are too large for float16; set evaluation\.store: float32"),
    ],
)
def test_an_embedding_that_is_not_finite_stops_a_task_of_any_type(
    job, tmp_path, monkeypatch, task, number, precision, said
):
    """mteb ranks a NaN first for every query, and says nothing."""
    from grace.encoder.encoder import RationaleEncoder

    one = Odd()
    one.number = number
    monkeypatch.setattr(RationaleEncoder, "from_spec", lambda *_: one)
    write_jsonl(tmp_path / "summaries/test.jsonl", [SUMMARIES, SUMMARIES])
    arguments = changed(job[0], tasks=[task], local={"SummEval": str(tmp_path / "summaries")}, store=precision)
    with pytest.raises(SystemExit, match=rf"^error: {tmp_path}/model: its embeddings of 1 of \d+ texts .*{said}"):
        results(arguments, job[1], tmp_path / "store")
    assert not job[1].exists()
    (settings,) = (tmp_path / "store").glob("*/settings.json")
    kept = Store(tmp_path / "store", json.loads(settings.read_text()), one.width)
    assert not kept.known(digests_of([one.text])).any()


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
from grace.files import write_jsonl
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
    config = read_config(ROOT / "config.yaml")
    spec = json.loads(study.Plan(config).spec_evaluate("tiny-smoke", "reasoning", 0, "docstrings"))
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

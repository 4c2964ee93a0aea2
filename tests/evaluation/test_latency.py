"""The clock is a fake one that goes on where the model computes, so every part is known."""

import json

import numpy as np
import pytest
import torch

from grace import RationaleEncoder
from grace.config.schema import Latency
from grace.encoder.encoder import EncoderOnly
from grace.evaluation import latency
from grace.evaluation.latency import Corpus, System, Timed, systems
from grace.evaluation.tasks import by_hash
from grace.jobs import manifest
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import make_rows

CPU = torch.device("cpu")
SETTINGS = {
    "run": "grace", "budgets": [5, 20], "texts": 4, "repeats": 3, "corpus": 50, "top": 3,
}  # fmt: skip
ENCODE = {
    "prompt": {"instruction": "Name the key words.", "max_prompt_tokens": 80},
    "pooling": {"method": "mean", "layer": "last", "normalize": True},
    "engine": "vllm", "rationales": True, "direct_prompt": "chat", "max_new_tokens": 7, "sampling_temperature": 1.0,
    "batch_size": 64, "seed": 0,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A list with the time; it goes on by hand."""
    now = [0.0]
    monkeypatch.setattr(latency, "_now", lambda device: now[0])
    return now


def advance(clock, seconds):
    def hook(*_):
        clock[0] += seconds

    return hook


def test_the_parts_are_prompt_rationale_and_match(clock, monkeypatch, tiny_folder, texts):
    encoder = RationaleEncoder.from_pretrained(tiny_folder)
    encoder.model.model.register_forward_hook(advance(clock, 1.0))  # the decoder, once for the prompt
    encoder.model.lm_head.register_forward_hook(advance(clock, 0.125))
    monkeypatch.setattr(Corpus, "match", advance(clock, 4.0))
    corpus = Corpus(5, encoder.width, 1, CPU, 0)
    direct, short, long, *_ = systems(Latency(**SETTINGS), encoder, encoder)
    assert latency.measure(direct, texts[0], corpus) == Timed(1.0, 0.0, 4.0, 0)
    lengths = []
    for system in (short, long, long):
        made = latency.measure(system, texts[0], corpus)
        assert made.encode == 1.0 and made.match == 4.0
        # The head is asked for each token; the last one is never fed back to the decoder.
        assert made.generate == 0.125 * made.new_tokens + (made.new_tokens - 1)
        assert made.total == made.encode + made.generate + made.match
        lengths.append(made.new_tokens)
    assert lengths[0] == 5 < lengths[1] == lengths[2] <= 20
    assert not encoder.model.lm_head._forward_pre_hooks


def test_a_model_with_an_adapter_for_pooling_reads_its_rationale_once_more(clock, monkeypatch, adapted_folder, texts):
    encoder = RationaleEncoder.from_pretrained(adapted_folder)
    base = encoder.model.get_base_model()
    base.model.register_forward_hook(advance(clock, 1.0))
    base.lm_head.register_forward_hook(advance(clock, 0.125))
    monkeypatch.setattr(Corpus, "match", advance(clock, 4.0))
    *_, system = systems(Latency(**SETTINGS), encoder, encoder)
    made = latency.measure(system, texts[0], Corpus(5, encoder.width, 1, CPU, 0))
    assert made.encode == 1.0 and made.generate == 0.125 * made.new_tokens + (made.new_tokens - 1) + 1


def test_systems_take_turns_and_the_warm_up_does_not_count(clock):
    seen, cost = [], {"a": 1.0, "b": 2.0, "c": 3.0}

    def system(name):
        def embed(text):
            seen.append((name, text))
            clock[0] += cost[name] if len(seen) > 3 * latency.WARM_UP else 1000.0
            return np.ones(2, np.float32), 0

        return System(name, None, 2, embed)

    texts = ["t0", "t1", "t2", "t3"]
    settings = Latency(**{**SETTINGS, "repeats": 2})
    times = latency.run([system(name) for name in "abc"], texts, settings, CPU, seed=0)
    assert [[one.total for one in own] for own in times] == [[cost[name]] * 8 for name in "abc"]
    counted = seen[3 * latency.WARM_UP :]
    assert counted == [(name, text) for name in "abcbca" for text in texts]


def test_percentiles_are_taken_of_each_part_and_of_the_sum():
    times = [Timed(1.0, 50.0, 0.0, 2), Timed(2.0, 40.0, 0.0, 4), Timed(3.0, 30.0, 0.0, 4), Timed(4.0, 20.0, 0.0, 4),
             Timed(5.0, 10.0, 0.0, 1)]  # fmt: skip
    made = latency.summary(System("grace", 20, 2, lambda text: None), times)
    assert (made["system"], made["budget"], made["new_tokens"]) == ("grace", 20, 3.0)
    # By hand: the p-th percentile of five values lies at rank p / 100 * 4, between its neighbours.
    assert made["encode"] == pytest.approx({"p50": 3.0, "p10": 1.4, "p90": 4.6})
    assert made["generate"] == pytest.approx({"p50": 30.0, "p10": 14.0, "p90": 46.0})
    assert made["total"] == pytest.approx({"p50": 33.0, "p10": 18.6, "p90": 47.4})  # of 51, 42, 33, 24, 15
    assert made["match"] == {"p50": 0.0, "p10": 0.0, "p90": 0.0}


def test_match_finds_the_largest_cosines():
    corpus = Corpus(200, 8, 5, CPU, seed=1)
    vector = np.random.default_rng(0).normal(size=8).astype(np.float32)
    rows = corpus.vectors.numpy().astype(float)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(200), abs=1e-6)
    assert corpus.match(vector) == np.argsort(-(rows @ vector))[:5].tolist()
    assert corpus.vectors.dtype == torch.float32


@pytest.fixture
def job(tmp_path, tiny_folder):
    """Runs the stage with changed settings and rows; gives its output's path."""

    def start(change=(), rows=None, encoder=()):
        write_jsonl(tmp_path / "test.jsonl", make_rows(12) if rows is None else rows)
        spec = {"latency": {**SETTINGS, **dict(change)}, "encode": ENCODE, "seed": 0}
        latency.main(
            ["--spec", json.dumps(spec), "--threads", "1", "--backbone", str(tiny_folder), "--model", str(tiny_folder),
             "--encoder", *map(str, encoder), "--texts", str(tmp_path / "test.jsonl"),
             "--out", str(tmp_path / "out/latency.json")]
        )  # fmt: skip
        return tmp_path / "out/latency.json"

    return start


def test_the_stage_times_every_system(job, tiny_folder, encoder_folder, tmp_path):
    out = manifest.read_result(job(encoder=[encoder_folder]))
    assert not manifest.edited(out) and out["manifest"]["stage"] == "latency"
    assert {key: out[key] for key in ("corpus", "top", "texts", "repeats", "engine")} == {
        "corpus": 50, "top": 3, "texts": 4, "repeats": 3, "engine": "transformers",
    }  # fmt: skip
    assert out["manifest"]["inputs"][str(encoder_folder)] == manifest.weights_hash(encoder_folder)
    named = [(one["system"], one["budget"]) for one in out["systems"]]
    assert named == [
        ("encoder", None), ("direct", None), ("reasoning", 5), ("reasoning", 20), ("grace", 5), ("grace", 20),
    ]  # fmt: skip
    for one in out["systems"]:
        for part in ("encode", "match", "total"):
            assert 0 < one[part]["p10"] <= one[part]["p50"] <= one[part]["p90"] < 5
        assert (one["generate"]["p10"] > 0) == (one["budget"] is not None)
        assert one["total"]["p90"] >= max(one[part]["p90"] for part in ("encode", "generate", "match"))
    # The texts are the first by hash, and their rationales end where the encoder ends them.
    texts = [row["positive"] for row in by_hash(tmp_path / "test.jsonl")][:4]
    spec = latency.specs.EncodeSpec(**{**ENCODE, "engine": "transformers", "max_new_tokens": 20})
    said = RationaleEncoder.from_spec(tiny_folder, spec).encode(texts).rationales
    assert [one["new_tokens"] for one in out["systems"]] == [
        0, 0, *[np.mean([min(limit, len(one.token_ids)) for one in said]) for limit in (5, 20)] * 2,
    ]  # fmt: skip


def test_fewer_texts_than_asked_for_are_said(job, caplog):
    out = manifest.read_result(job({"repeats": 1}, make_rows(2)))
    assert (
        out["systems"][0]["system"] == "direct"
        and out["texts"] == 2
        and "has 2 distinct documents, fewer than 4" in caplog.text
    )


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        ({}, [], "holds no rows; raise data.test"),
        (
            {"budgets": [5, 1969]},
            None,
            "a prompt of 80 tokens and a rationale of 1969 are more than the 2048 positions",
        ),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(job, change, rows, message, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        job(change, rows)
    assert message in str(stopped.value) and not list((tmp_path / "out").iterdir())


# ---- systems -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny_folder):
    """A backbone and another model."""
    backbone, trained = (RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=8) for _ in range(2))
    with torch.no_grad():
        trained.model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    return backbone, trained


def test_every_system_embeds_as_the_encoder_does(models, texts, tiny_folder):
    direct, *reasoning = systems(Latency(**SETTINGS), *models)
    assert [(one.name, one.budget, one.width) for one in reasoning] == [
        ("reasoning", 5, 32), ("reasoning", 20, 32), ("grace", 5, 32), ("grace", 20, 32),
    ]  # fmt: skip
    text = texts[1]
    vector, tokens = direct.embed(text)
    assert (direct.name, direct.budget, direct.head, tokens) == ("direct", None, None, 0)
    np.testing.assert_array_equal(vector, models[0].encode([text], rationales=False).embeddings[0])
    counts = set()
    for one in reasoning:
        fresh = RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=one.budget)
        model = models[one.name == "grace"]
        fresh.model.load_state_dict(model.model.state_dict())
        for text in texts:
            expected = fresh.encode([text])
            vector, tokens = one.embed(text)
            np.testing.assert_array_equal(vector, expected.embeddings[0])
            assert tokens == len(expected.rationales[0].token_ids) and one.head is model.model.lm_head
            counts.add(tokens)
    assert 5 in counts and max(counts) > 8  # neither budget is the models' own


def test_the_encoder_only_model_comes_first_and_embeds_as_it_is(models, texts, encoder_folder):
    encoder = EncoderOnly(encoder_folder, "cpu")
    first, second, *_ = systems(Latency(**SETTINGS), *models, encoder)
    assert (first.name, first.budget, first.width, first.head, second.name) == ("encoder", None, 32, None, "direct")
    vector, tokens = first.embed(texts[1])
    np.testing.assert_array_equal(vector, encoder.encode([texts[1]])[0])
    assert tokens == 0

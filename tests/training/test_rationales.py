"""Rationales of the training texts: which rows, what lies in the store, what a training finds there."""

import json
from pathlib import Path

import pytest

from grace import RationaleEncoder
from grace.config.section import UserError
from grace.jobs.files import write_jsonl
from grace.training import rationales
from grace.training.rationales import Rationales, looked_up, opened, sample, texts_of
from tests.training.settings import command, rationales_spec, rows

ROOT = Path(__file__).parents[2]


def test_a_larger_sample_begins_with_a_smaller_one():
    every = list(range(1000))
    order = sample(every, None)
    assert sorted(order) == every and order != every
    assert sample(every, 30) == order[:30] and sample(every, 5000) == order
    assert sample([{"id": i} for i in every], 30) == [{"id": i} for i in order[:30]]


def test_texts_are_distinct_and_in_their_order():
    data = [
        {"query": "a", "positive": "b", "negatives": ["c", "a"]},
        {"query": "b", "positive": "d", "negatives": None},
    ]
    assert texts_of(data) == ["a", "b", "c", "d"]
    assert texts_of([{"text": "x"}, {"text": "y"}, {"text": "x"}]) == ["x", "y"] and texts_of([]) == []


def test_the_stage_says_what_it_has_written(tiny_folder, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", rows(16))
    monkeypatch.chdir(ROOT)
    results = []
    for count in (8, 8, 16):
        spec = rationales_spec(count)
        data, out, store = (tmp_path / name for name in ("rows.jsonl", "out.json", "store"))
        rationales.main(command("", tiny_folder, data, out, spec, "--store", str(store))[2:])
        results.append(json.loads((tmp_path / "out.json").read_text()))
    first, again, more = results
    texts = texts_of(sample(rows(16), 8))
    made = RationaleEncoder.from_spec(tiny_folder, rationales_spec().encode, "cpu").encode(texts).rationales
    assert first["rows"] == 8 and first["texts"] == first["written"] == len(texts)
    assert first["tokens"] == sum(len(r.token_ids) for r in made)
    assert first["mean_tokens"] == pytest.approx(first["tokens"] / len(texts))
    assert first["truncated_share"] == pytest.approx(sum(r.truncated for r in made) / len(texts))
    assert first["well_formed_share"] == pytest.approx(sum(r.well_formed for r in made) / len(texts))
    assert first["manifest"]["cpu_seconds"] > 0 and first["manifest"]["seconds"] > 0
    assert again["written"] == 0 and again["tokens"] == first["tokens"]
    assert 0 < more["written"] == more["texts"] - first["texts"]


def test_a_training_writes_what_is_missing_and_finds_each_text(tiny_folder, tmp_path, monkeypatch):
    spec, data = rationales_spec(), rows(8)
    monkeypatch.setattr(rationales, "BLOCK", 3)
    part = looked_up(spec, tiny_folder, data[:3], tmp_path)
    wrote = []
    write = rationales.write
    monkeypatch.setattr(rationales, "write", lambda *given: (wrote.append(given[1]), write(*given)))
    found = looked_up(spec, tiny_folder, data, tmp_path)
    assert wrote == [[text for text in texts_of(data) if text not in texts_of(data[:3])]]
    texts = texts_of(data)
    made = RationaleEncoder.from_spec(tiny_folder, spec.encode, "cpu").encode(texts).rationales
    assert found(texts[::-1]) == [r.token_ids for r in made][::-1]
    assert part(texts_of(data[:3])) == [r.token_ids for r in made][: len(texts_of(data[:3]))]
    assert len(found.tokens) == sum(len(r.token_ids) for r in made)
    with pytest.raises(KeyError, match="never written about"):
        found([texts[0], "never written about"])


@pytest.mark.parametrize("late", [False, True])
def test_of_several_processes_each_writes_a_share(tiny_folder, tmp_path, monkeypatch, late):
    """The second one waits until the first has written its own, and leaves none when the first was done before."""
    spec, texts = rationales_spec(), texts_of(rows(8))
    wrote, write = [], rationales.write
    monkeypatch.setattr(rationales, "write", lambda *given: (wrote.append(given[1]), write(*given)))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    encoder = RationaleEncoder.from_spec(tiny_folder, spec.encode, "cpu")
    with opened(spec, tiny_folder, tmp_path) as theirs, opened(spec, tiny_folder, tmp_path) as ours:

        def other(*_):
            assert texts[0] in rationales.missing(texts, ours), "waits for a text that nobody writes"
            write(encoder, texts[::2], theirs)
            theirs.flush()

        monkeypatch.setattr(rationales.time, "sleep", other)
        if late:
            other()
            ours.refresh()
        rationales.complete(lambda: encoder, texts, ours)
        assert wrote == [texts[1::2]]
        assert len(Rationales(texts, ours)(texts)) == len(texts)


def test_what_vllm_has_to_write_is_not_written_beside_a_training(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="rationales are missing; write them again with snakemake --forcerun"):
        looked_up(rationales_spec(engine="vllm"), tiny_folder, rows(4), tmp_path)


def test_a_kill_loses_no_more_than_what_was_held(tiny_folder, tmp_path):
    """What the encoder has handed over is there, whatever happens then."""
    spec, texts = rationales_spec(), [f"text {i}" for i in range(40)]

    class Dies:
        def __init__(self, encoder):
            self.encoder = encoder

        def encode_batches(self, texts, wanted):
            for number, made in enumerate(self.encoder.encode_batches(texts, wanted)):
                if number == 2:
                    raise KeyboardInterrupt
                yield made

    encoder = RationaleEncoder.from_spec(tiny_folder, spec.encode, "cpu")
    with pytest.raises(KeyboardInterrupt), opened(spec, tiny_folder, tmp_path) as store:
        rationales.write(Dies(encoder), texts, store)
    with opened(spec, tiny_folder, tmp_path) as store:
        assert 16 <= len(texts) - len(rationales.missing(texts, store)) < 40

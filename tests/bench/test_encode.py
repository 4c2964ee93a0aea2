import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import common, encode
from grace.config.schema import Prompt
from grace.encoder.encoder import Encoding, Rationale
from grace.encoder.engines.forward import fits


@pytest.fixture(scope="module")
def found():
    """A few dozen texts of mixed lengths through a small random model, all ways."""
    model, tokenizer = common.random_model(width=128, layers=2, vocabulary=600)
    with torch.random.fork_rng():
        prompt = Prompt(instruction="Key words, then a summary.", max_prompt_tokens=300)
        job = encode.prepare("random", model, tokenizer, prompt, count=24, mean=12, batch_size=8)
    encode_only = {name: way for name, way in encode.WAYS.items() if name != "continuous"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "WAYS", encode_only)
        return job, encode.measure(job, repeats=3)


def median(found, over: str, under: str) -> float:
    return float(np.median(common.ratios(found["seconds"][over], found["seconds"][under])))


def test_the_encoder_is_faster_than_the_released_way(found):
    _, measured = found
    assert median(measured, "released", "encode") > 1.4


def test_the_released_way_does_not_slow_what_is_timed_beside_it(found):
    job, _ = found
    assert fits(job.encoder.model)


def test_pooling_on_the_way_costs_little(found):
    _, measured = found
    assert median(measured, "encode", "generation") < 1.5


def test_all_ways_write_the_same_and_embed_the_same(found):
    _, measured = found
    agreement = measured["agreement"]
    assert agreement["same_rationales"] == {"released": 1.0, "generation": 1.0}
    assert agreement["texts_compared"] >= 1
    assert agreement["max_difference"] < 1e-5


def test_no_slot_of_ours_waits_and_rows_of_the_released_way_do(found):
    job, measured = found
    written = measured["written"]["encode"]
    ours, theirs = measured["steps"]["encode"], measured["steps"]["released"]
    assert ours.single == sum(len(ids) - 1 for ids in written)
    batches = [written[start : start + 8] for start in range(0, 24, 8)]
    assert theirs.single == sum(8 * (max(map(len, batch)) - 1) for batch in batches)
    prompts = [job.prompts[start : start + 8] for start in range(0, 24, 8)]
    assert theirs.read >= sum(8 * max(map(len, batch)) for batch in prompts) * 2  # prompts, and all of it again
    assert ours.read < theirs.read / 2


def test_lengths_are_mixed_around_their_mean():
    lengths = np.array(encode.draw_lengths(4000, 32, 0))
    assert lengths.min() >= 2
    assert lengths.max() == 256
    assert 28 < lengths.mean() < 36
    assert np.median(lengths) < 22


def test_agreement_counts_what_the_second_tokenisation_changes():
    vectors = np.eye(3, dtype=np.float32)
    rationales = [Rationale("", ids, False, True) for ids in ([5, 9], [6, 9], [7, 9])]
    theirs = SimpleNamespace(
        written=[[5, 9], [6, 9], [8, 9]], pooled=[[1, 5], [2, 2, 6], [3, 8]], embeddings=vectors * 0.5
    )
    job = SimpleNamespace(prompts=[[1], [2], [3]])
    written = {"encode": [one.token_ids for one in rationales], "released": theirs.written}
    made = {"encode": Encoding(vectors, rationales), "released": theirs}
    told = encode.agreement(job, made, written)
    assert told["same_rationales"] == {"released": pytest.approx(2 / 3)}
    assert told["retokenised_differently"] == pytest.approx(1 / 3)
    assert (told["texts_compared"], told["max_difference"]) == (1, 0.5)


def test_the_command_writes_both_entries(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common, "random_model", lambda *_: common.backbone_or_random(tiny_folder)[:2])
    monkeypatch.setattr(encode, "DEFAULT_PROMPT", common.SHORT_PROMPT)
    monkeypatch.setitem(encode.WAYS, "continuous", encode.generation)
    small = ["--texts", "2", "--new", "4", "--batch-size", "2", "--repeats", "1", "--no-memory"]
    encode.main([*small, "--backbone", str(tiny_folder), "--json", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row["name"] for row in rows] == ["encode_vs_released", "encode_vs_generation"]
    for row, (over, under) in zip(rows, [("released", "encode"), ("encode", "generation")], strict=True):
        assert row["ratio"] == pytest.approx(row["seconds"][over] / row["seconds"][under])
        assert list(row["other_models"]) == [tiny_folder.name]
    assert capsys.readouterr().out.count("| released |") == 2

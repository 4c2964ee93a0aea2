import json

import pytest
import torch

from bench import common, decode
from grace.encoder.engines import forward


def test_both_ways_write_the_same_tokens():
    model = common.shaped_model("tiny", 64, torch.device("cpu"))
    prompts = decode.draw_prompts(2048, 5, 40)
    ours, theirs = (way(model, prompts, 6, 2) for way in (decode.ours, decode.generate))
    assert ours == theirs
    assert {len(ids) for ids in ours} == {6}


def test_the_limit_is_what_memory_must_be_read():
    model = common.shaped_model("tiny", 64, torch.device("cpu"))
    weights = 4 * sum(p.numel() for p in model.parameters())
    # Two batches of one prompt each, three steps after the prompt; 2 layers, 2 key heads of 32, keys and values.
    tokens = (3 + 1) + (3 + 2) + (3 + 3) + (7 + 1) + (7 + 2) + (7 + 3)
    expected = weights * 3 * 2 + tokens * 2 * 2 * 2 * 32 * 4
    assert decode.limit(model, [[5] * 3, [5] * 7], new=4, batch=1, speed=1e9) == pytest.approx(expected / 1e9)


def test_bandwidth_counts_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(decode.common, "interleaved", lambda *_: {"copy": [0.5, 0.25]})
    assert decode.bandwidth(torch.device("cpu"), 1 << 20) == 2 * (1 << 20) / 0.25


def test_the_command_writes_an_entry_for_each_batch_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode, "bandwidth", lambda _: 1e9)
    small = ["--backbone", "tiny", "--new", "3", "--batches", "1", "2", "--longest", "20", "--repeats", "1"]
    decode.main([*small, "--json", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row["name"] for row in rows] == ["decode_tiny_batch_1", "decode_tiny_batch_2"]
    assert all(row["ratio"] > 0 and row["tokens_per_second"]["ours"] > 0 for row in rows)
    assert capsys.readouterr().out.count("| tiny |") == 4


def test_compiled_decoding_is_a_way_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode, "bandwidth", lambda _: 1e9)
    monkeypatch.setattr(forward, "COMPILER", {"backend": "eager"})
    forward.compiled.cache_clear()
    small = ["--backbone", "tiny", "--new", "3", "--batches", "2", "--longest", "20", "--repeats", "1", "--compile"]
    decode.main([*small, "--json", str(tmp_path / "b.json")])
    forward.compiled.cache_clear()
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert set(row["tokens_per_second"]) == {"ours", "generate", "compiled"} and "compiled" in row["meaning"]
    assert capsys.readouterr().out.count("| tiny |") == 3


def test_an_unknown_backbone_is_one_sentence():
    with pytest.raises(SystemExit, match=r"error: --backbone: unknown backbone 'qwen3-5b'.*qwen3-4b"):
        decode.main(["--backbone", "qwen3-5b"])

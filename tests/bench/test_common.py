import json
import math
import sys
import time

import numpy as np
import pytest
import torch

from bench import common


def test_functions_take_turns_and_the_first_round_does_not_count():
    calls: list[str] = []
    seconds = common.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "abababab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    calls.clear()
    assert len(common.interleaved({"a": lambda: calls.append("a")}, repeats=2, warm_up=False)["a"]) == 2
    assert calls == ["a", "a"]


def test_an_entry_holds_the_median_and_the_range():
    made = common.entry("x", common.ratios([2, 6, 3], [1, 2, 4]), "python -m bench.x", "a over b", texts=7)
    assert (made["ratio"], made["low"], made["high"], made["repeats"], made["texts"]) == (2, 0.75, 3, 3, 7)
    assert "torch" in made["hardware"]
    assert "core" in made["hardware"]


def test_the_hardware_says_how_fast_a_core_multiplies():
    threads, square = torch.get_num_threads(), np.ones((512, 512), dtype=np.float32)
    began = time.process_time()
    for _ in range(20):
        square @ square
    known = 20 * 2 * 512**3 / (time.process_time() - began) / 1e9  # numpy's, on however many threads
    assert 1 / 8 < common.gflops() / known < 8
    assert torch.get_num_threads() == threads
    said = float(common.hardware().split(" GFLOPS")[0].rpartition(" ")[2])
    assert 1 / 8 < said / known < 8


def test_entries_are_merged_by_name(tmp_path):
    path = tmp_path / "results/bench.json"
    for rows in ([("a", 1), ("b", 2)], [("b", 3), ("c", 4)]):
        common.write(path, [{"name": name, "ratio": ratio} for name, ratio in rows])
    assert [(row["name"], row["ratio"]) for row in json.loads(path.read_text())] == [("a", 1), ("b", 3), ("c", 4)]
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]
    common.write(None, [{"name": "a"}])


def test_the_command_is_as_one_would_type_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["/usr/bin/python3.11", "-m", "bench.encode", "--texts", "4", "--json", str(tmp_path / "results/b.json")]
    monkeypatch.setattr(sys, "orig_argv", given)
    assert common.command() == "python -m bench.encode --texts 4 --json results/b.json"


@pytest.fixture(scope="module")
def small():
    return common.random_model(width=64, layers=2, vocabulary=600)


def test_texts_are_distinct_words_of_log_normal_lengths(small):
    _, tokenizer = small
    texts = common.texts(tokenizer, 400, seed=0, median=50, longest=300)
    lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
    assert len(set(texts)) == 400
    assert lengths.min() >= 4  # the first word stands without its space
    assert lengths.max() <= 330
    assert 40 < np.median(lengths) < 65
    assert 0.8 < np.log(lengths[lengths < 250]).std() < 1.2
    assert texts == common.texts(tokenizer, 400, seed=0, median=50, longest=300)
    assert texts[:9] != common.texts(tokenizer, 9, seed=1, median=50, longest=300)
    known = set(common.prose())
    assert all(set(text.split()) <= known for text in texts)


def test_the_random_model_does_not_repeat_its_last_token(small):
    import torch

    model, tokenizer = small
    ids = torch.tensor([tokenizer("The quick brown fox").input_ids])
    new = model.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :].tolist()
    assert len(set(new)) > 10


def test_without_a_backbone_the_model_is_random(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(common, "DEMO", tmp_path / "none")
    monkeypatch.setattr(common, "random_model", lambda **_: ("model", "tokenizer"))
    assert common.backbone_or_random() == ("model", "tokenizer", "random weights")
    model, _, name = common.backbone_or_random(tiny_folder)
    assert (model.config.hidden_size, name) == (32, tiny_folder.name)
    monkeypatch.setattr(common, "DEMO", tiny_folder)
    assert common.backbone_or_random()[2] == "demo backbone"


def test_a_table_shows_what_is_missing():
    assert common.table(["a", "b"], [[1, None]]) == "| a | b |\n| --- | --- |\n| 1 | - |"
    assert common.spread([3.0, 1.0, 2.0]) == "2.00 (1.00 - 3.00)"
    assert math.isclose(sum(common.ratios([1.0], [4.0])), 0.25)

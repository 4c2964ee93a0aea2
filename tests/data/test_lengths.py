import json
import shutil
from functools import partial

import numpy as np
import pytest
from transformers import AutoTokenizer

from grace.data.lengths import Limit, TokenCounter, as_text, histogram, load_tokenizer, main, quantiles
from grace.method.prompt import PromptTemplate
from tests.data.commands import call, most_alive, one_sentence, read, run, write

INSTRUCTION = "Think about it."
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
FRAME = len(f"<|system|>{INSTRUCTION}<|user|><|assistant|>")
ROWS = [
    {"id": "0", "query": "q" * 30, "positive": "p" * 10, "negatives": ["n" * 40]},
    {"id": "1", "query": "q", "positive": "p" * 11, "negatives": ["n"]},
    {"id": "2", "query": "q", "positive": "p", "negatives": ["n"], "label": "x", "source": "nq"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer of one token a character."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(sorted(alphabet))}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def prompt(tokenizer):
    return PromptTemplate.from_tokenizer(AutoTokenizer.from_pretrained(tokenizer), INSTRUCTION, FRAME + 5)


def stage(tokenizer, tmp_path, rows, data="supervised", too_long="drop", room=10, by=None):
    prompt = {"instruction": INSTRUCTION, "max_prompt_tokens": FRAME + room}
    given = json.dumps({"prompt": prompt, "data": data, "too_long": too_long})
    out, report = tmp_path / "out" / "rows.jsonl", tmp_path / "out" / "report.json"
    source = write(tmp_path / "rows.jsonl", rows)
    arguments = ("--tokenizer", tokenizer, "--rows", source, "--out", out, "--report", report)
    return (by or partial(call, main))("--spec", given, *arguments), out, report


def test_the_positive_decides(tokenizer, tmp_path):
    done, out, report = stage(tokenizer, tmp_path, ROWS)
    assert done.returncode == 0, done.stderr
    assert read(out) == [ROWS[0], ROWS[2]]  # one token a character, so 10 fit and 11 do not
    found = json.loads(report.read_text())
    assert (found["read"], found["kept"], found["dropped"]) == (3, 2, {"too long": 1})
    assert found["kept_per_source"] == {"nq": 1}
    tokens = found["prompt_tokens"]
    assert tokens["positive"]["histogram"] == {**dict.fromkeys(tokens["positive"]["histogram"], 0), "0-63": 3}
    assert tokens["negatives"]["histogram"]["64-127"] == 1
    assert tokens["positive"]["max"] == FRAME + 11 and tokens["positive"]["over_limit"] == 1
    assert tokens["negatives"]["max"] == FRAME + 40 and tokens["query"]["min"] == FRAME + 1
    assert set(found["manifest"]["inputs"]) == {str(tmp_path / "rows.jsonl"), str(tokenizer)}


def test_truncate_does_not_drop_but_counts(tokenizer, tmp_path):
    done, out, report = stage(tokenizer, tmp_path, ROWS, too_long="truncate")
    assert done.returncode == 0 and read(out) == ROWS
    assert json.loads(report.read_text())["prompt_tokens"]["positive"]["over_limit"] == 1


def test_unsupervised_takes_positives_and_texts(tokenizer, tmp_path):
    done, out, _ = stage(tokenizer, tmp_path, ROWS, "unsupervised")
    assert done.returncode == 0, done.stderr
    assert read(out) == [{"id": "0", "text": "p" * 10}, {"id": "2", "text": "p", "label": "x", "source": "nq"}]
    assert as_text({"id": "7", "text": "t"}) == {"id": "7", "text": "t"}


def test_batches_agree_with_counting_one_by_one(prompt, monkeypatch):
    monkeypatch.setattr("grace.data.lengths.BATCH", 3)
    rows = [{"id": str(at), "text": "x" * at} for at in range(1, 12)]
    limit = Limit(prompt, FRAME + 5, True)
    assert list(limit(iter(rows), "text")) == rows[:5]
    assert limit.tokens["text"].tolist() == [FRAME + at for at in range(1, 12)]


def test_a_text_is_counted_once_and_few_are_remembered(monkeypatch):
    asked = []

    class Words:
        def count(self, texts):
            asked.extend(texts)
            return [len(text.split()) for text in texts]

    monkeypatch.setattr("grace.data.lengths.MOST_KNOWN", 3)
    counter = TokenCounter(Words())
    assert counter.count([{"positive": "a", "negatives": ["b c", "a"]}]) == {"positive": [1], "negatives": [2, 1]}
    assert counter.count([{"text": "b c"}, {"text": "d e f"}]) == {"text": [2, 3]}
    assert asked == ["a", "b c", "d e f"]
    assert counter.count([{"text": "g"}, {"text": "a"}]) == {"text": [1, 1]} and counter.known == {}


def test_the_class_that_a_folder_names_is_used(tokenizer, tmp_path):
    text = "Naïve  text\n<|user|>"
    assert load_tokenizer(tokenizer)(text)["input_ids"] == AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"]
    other = shutil.copytree(tokenizer, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "GPT2Tokenizer"}))
    assert type(load_tokenizer(other)).__name__.startswith("GPT2Tokenizer")


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_never_all_in_memory(prompt, monkeypatch, threads):
    monkeypatch.setattr("grace.data.lengths.BATCH", 5)
    limit = Limit(prompt, FRAME + 5, True, threads)
    rows = [{"id": str(at), "text": "x"} for at in range(400)]
    assert most_alive(lambda some: limit(some, "text"), rows) <= 5 * (2 * threads + 3) + 3
    assert limit.kept == 400


def test_processes_change_nothing(tokenizer, tmp_path):
    rows = [{**ROWS[0], "id": str(at), "positive": "p" * (at % 13), "source": "ab"[at % 2]} for at in range(5000)]
    made = []
    for threads in (1, 3):
        done, out, report = stage(tokenizer, tmp_path, rows, by=partial(call, main, "--threads", threads))
        assert done.returncode == 0, done.stderr
        made.append((out.read_text(), {**json.loads(report.read_text()), "manifest": None}))
    assert made[0] == made[1]
    assert sum(made[0][1]["kept_per_source"].values()) == made[0][1]["kept"] == len(made[0][0].splitlines()) < 5000


def test_one_sentence_each(tokenizer, tmp_path):
    done, out, _ = stage(tokenizer, tmp_path, ROWS[1:2], by=partial(run, "lengths"))
    one_sentence(done, "prompt.max_prompt_tokens", "of 1 rows none fits")
    assert list(out.parent.iterdir()) == []
    (tmp_path / "empty").mkdir()
    one_sentence(stage(tmp_path / "empty", tmp_path, ROWS)[0], "holds no tokenizer")
    one_sentence(stage(tokenizer, tmp_path, ROWS, room=0)[0], "leave no room for a text")


def test_quantiles_and_histogram():
    found = quantiles(list(range(101)))
    assert found["mean"] == found["median"] == 50 and (found["p05"], found["max"]) == (5, 100)
    assert quantiles([]) == {} and quantiles(np.array([0.5], dtype=np.float32))["p95"] == 0.5
    assert histogram([0, 7, 8, 15, 16, 1000], (8, 16)) == {"0-7": 2, "8-15": 2, "16-": 2}
    assert histogram([], (8, 16)) == {"0-7": 0, "8-15": 0, "16-": 0}

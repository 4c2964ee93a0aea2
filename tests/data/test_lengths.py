import json
import shutil
from functools import partial

import pytest

from grace.data.lengths import Limit, Once, as_text, load_tokenizer, main
from grace.method.prompt import PromptTemplate
from tests.data.commands import call, most_alive, one_sentence, read, run, write

INSTRUCTION = "Think about it."
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"


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


FRAME = len(f"<|system|>{INSTRUCTION}<|user|><|assistant|>")


def stage(tokenizer, tmp_path, rows, data="supervised", too_long="drop", room=10, by=None):
    prompt = {"instruction": INSTRUCTION, "max_prompt_tokens": FRAME + room}
    given = json.dumps({"prompt": prompt, "data": data, "too_long": too_long})
    out, report = tmp_path / "out" / "rows.jsonl", tmp_path / "out" / "report.json"
    source = write(tmp_path / "rows.jsonl", rows)
    arguments = ("--tokenizer", tokenizer, "--rows", source, "--out", out, "--report", report)
    return (by or partial(call, main))("--spec", given, *arguments), out, report


ROWS = [
    {"id": "0", "query": "q" * 30, "positive": "p" * 10, "negatives": ["n" * 40]},
    {"id": "1", "query": "q", "positive": "p" * 11, "negatives": ["n"]},
    {"id": "2", "query": "q", "positive": "p", "negatives": ["n"], "label": "x", "source": "nq"},
]


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


def test_truncate_keeps_and_counts(tokenizer, tmp_path):
    done, out, report = stage(tokenizer, tmp_path, ROWS, too_long="truncate")
    assert done.returncode == 0 and read(out) == ROWS
    assert json.loads(report.read_text())["prompt_tokens"]["positive"]["over_limit"] == 1


def test_unsupervised_takes_positives_and_texts(tokenizer, tmp_path):
    done, out, _ = stage(tokenizer, tmp_path, ROWS, "unsupervised")
    assert done.returncode == 0, done.stderr
    assert read(out) == [{"id": "0", "text": "p" * 10}, {"id": "2", "text": "p", "label": "x", "source": "nq"}]
    assert as_text({"id": "7", "text": "t"}) == {"id": "7", "text": "t"}


def test_batches_agree_with_counting_one_by_one(tokenizer, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr("grace.data.lengths.BATCH", 3)
    prompt = PromptTemplate.from_tokenizer(AutoTokenizer.from_pretrained(tokenizer), INSTRUCTION, FRAME + 5)
    rows = [{"id": str(at), "text": "x" * at} for at in range(1, 12)]
    limit = Limit(prompt, FRAME + 5, "drop")
    assert list(limit(iter(rows), "text")) == rows[:5]
    assert limit.tokens["text"].tolist() == [FRAME + at for at in range(1, 12)]


def test_a_text_is_counted_once_and_little_is_remembered(monkeypatch):
    asked = []

    class Words:
        def count(self, texts):
            asked.extend(texts)
            return [len(text.split()) for text in texts]

    monkeypatch.setattr("grace.data.lengths.MOST_KNOWN", 3)
    once = Once(Words())
    assert once.count(["a", "b c", "a"]) == [1, 2, 1] and once.count(["b c", "d e f"]) == [2, 3]
    assert asked == ["a", "b c", "d e f"]
    assert once.count(["g", "a"]) == [1, 1] and once.known == {} and once.count(["a"]) == [1]


def test_the_class_that_a_folder_names_is_used(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    text = "Naïve  text\n<|user|>"
    assert load_tokenizer(tokenizer)(text)["input_ids"] == AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"]
    other = shutil.copytree(tokenizer, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "GPT2Tokenizer"}))
    assert type(load_tokenizer(other)).__name__.startswith("GPT2Tokenizer")


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_never_all_held(tokenizer, monkeypatch, threads):
    from transformers import AutoTokenizer

    monkeypatch.setattr("grace.data.lengths.BATCH", 5)
    prompt = PromptTemplate.from_tokenizer(AutoTokenizer.from_pretrained(tokenizer), INSTRUCTION, FRAME + 5)
    limit = Limit(prompt, FRAME + 5, "drop", threads)
    rows = [{"id": str(at), "text": "x"} for at in range(400)]
    assert most_alive(lambda some: limit(some, "text"), rows) <= 5 * (2 * threads + 3) + 3
    assert limit.kept == 400


def test_processes_change_nothing(tokenizer, tmp_path):
    rows = [{**ROWS[0], "id": str(at), "positive": "p" * (at % 13), "source": "ab"[at % 2]} for at in range(5000)]
    made = []
    for threads in (1, 3):
        by = partial(call, main, "--threads", threads)
        done, out, report = stage(tokenizer, tmp_path, rows, by=by)
        assert done.returncode == 0, done.stderr
        made.append((out.read_text(), {**json.loads(report.read_text()), "manifest": None}))
    assert made[0] == made[1]
    assert sum(made[0][1]["kept_per_source"].values()) == made[0][1]["kept"] == len(made[0][0].splitlines()) < 5000


def test_one_sentence_each(tokenizer, tmp_path):
    done, out, _ = stage(tokenizer, tmp_path, ROWS[1:2], by=partial(run, "lengths"))
    one_sentence(done, "prompt.max_prompt_tokens", "of 1 rows none fits")
    assert list(out.parent.iterdir()) == []
    (tmp_path / "empty").mkdir()
    done, _, _ = stage(tmp_path / "empty", tmp_path, ROWS)
    one_sentence(done, "holds no tokenizer")
    done, _, _ = stage(tokenizer, tmp_path, ROWS, room=0)
    one_sentence(done, "leave no room for a text")

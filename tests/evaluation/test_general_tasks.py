"""lm-eval's tasks as we set them, and what is wrong with a user's own data for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from grace.config.section import UserError
from grace.evaluation import answers, general_tasks
from grace.evaluation.general_tasks import HUB
from grace.jobs.files import write_jsonl


@pytest.mark.parametrize("name", HUB)
def test_settings_are_written_down_in_full(name):
    configs = [general_tasks._settled(name, config) for config in general_tasks._configs(HUB[name])]
    text = (Path(__file__).parents[2] / "docs" / "general.md").read_text()
    table = [line for line in text.split("\n") if line.startswith("| ")][:8]
    column = [line.split("|")[2 + list(HUB).index(name)] for line in table]
    assert column[0].strip() == name and column[2].split()[0].rstrip(",") == str(HUB[name].shots)
    if "max_gen_toks" in HUB[name].generation:
        assert column[6].strip().replace(",", "") == str(HUB[name].generation["max_gen_toks"])
    for config in configs:
        assert config["num_fewshot"] == HUB[name].shots
        assert config.get("unsafe_code", False) is False
        metrics = {entry["metric"] for entry in config["metric_list"]}
        assert metrics == ({"bypass"} if name == "humaneval" else {HUB[name].metric})
        if name not in ("fever", "humaneval"):
            assert HUB[name].filter in {entry["name"] for entry in config["filter_list"]}


def test_lm_evals_stop_strings_end_no_reply_and_come_before_its_filters():
    stops = {
        name: general_tasks._configs(HUB[name])[0]["generation_kwargs"]["until"] for name in HUB if name != "fever"
    }
    assert stops["triviaqa"] == ["\n", ".", ","] and "Q" in stops["bbh"]  # they cut "St. Louis" and "(Q)"
    for name in answers.JUDGES:
        config = general_tasks._settled(name, general_tasks._configs(HUB[name])[0])
        assert config["generation_kwargs"]["until"] == []
        for entry in config["filter_list"]:
            cut = entry["filter"][0]["filter_fn"]
            said = [["<think>\nNo.</think>\n\nA" + stop + "B"] for stop in stops[name]]
            assert cut(said, [{}] * len(said)) == [["A"]] * len(said)


GSM8K = {"question": "How many?", "answer": "#### 3"}
CODE = {"task_id": "1", "prompt": "def f():", "test": "def check(f):", "entry_point": "f"}
TRIVIA = {"question": "Who?", "answer": {"aliases": ["Ann"]}}
MMLU = {"subject": "anatomy", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": "B"}


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("gsm8k", None, "is not a folder"),
        (
            "gsm8k",
            {"test": [GSM8K]},
            r"train.jsonl is missing; gsm8k needs train.jsonl with the fields question, answer ",
        ),
        ("gsm8k", {"train": [GSM8K] * 3, "test": [GSM8K]}, r"train.jsonl holds 3 rows, but gsm8k needs 5"),
        ("gsm8k", {"train": [GSM8K] * 5, "test": [GSM8K, {"question": "?"}]}, r"test.jsonl, row 2: the field 'answer'"),
        ("gsm8k", {"train": [], "test": []}, "holds no rows"),
        ("mmlu", {"dev": [MMLU] * 5, "test": [{**MMLU, "answer": "E"}]}, "row 1: needs four 'choices' and an 'answer'"),
        ("mmlu", {"dev": [MMLU] * 5, "test": [{**MMLU, "answer": 0}]}, "no rows whose subject is 'abstract_algebra'"),
        ("mmlu", {"dev": [MMLU] * 4, "test": [MMLU]}, "dev.jsonl holds 4 rows of 'anatomy', but mmlu needs 5"),
        (
            "bbh",
            {"test": [{"task": "web_of_lies", "input": "x", "target": "Yes"}]},
            "no rows whose task is 'boolean_exp",
        ),
        (
            "triviaqa",
            {"train": [{"question": "?", "answer": "Paris"}]},
            "row 1: the field 'answer' needs a list 'aliases'",
        ),
        (
            "fever",
            {"validation": [{"claim": "x", "label": "SUPPORT"}]},
            "unknown label 'SUPPORT'.*did you mean 'SUPPORTS'",
        ),
        (
            "humaneval",
            {"test": [{"task_id": "HumanEval/0", "prompt": "def f():"}]},
            "row 1: the field 'test' is missing",
        ),
        (
            "gsm8k",
            {"train": [GSM8K] * 5, "test": [{**GSM8K, "question": 5}]},
            "row 1: the field 'question' is 5 and no text",
        ),
        (
            "gsm8k",
            {"train": [GSM8K] * 5, "test": [GSM8K, {**GSM8K, "answer": "three"}]},
            "row 2: the field 'answer' does not end in",
        ),
        (
            "gsm8k",
            {"train": [GSM8K] * 5, "test": [{**GSM8K, "answer": "so 3"}]},
            "row 1: the field 'answer' does not end",
        ),
        (
            "triviaqa",
            {"train": [TRIVIA] * 6, "validation": [{**TRIVIA, "answer": {"aliases": [""]}}]},
            "row 1: .*aliases",
        ),
        ("humaneval", {"test": [{**CODE, "test": "assert f()"}]}, r"row 1: the field 'test' does not hold 'def check"),
        ("humaneval", {"test": [{**CODE, "entry_point": "g"}]}, r"row 1: the field 'prompt' does not hold 'def g"),
        (
            "bbh",
            {"test": [{"task": "weblies", "input": "x", "target": "Yes"}]},
            "has rows whose task is 'weblies', which",
        ),
        ("triviaqa", {"train": [TRIVIA] * 5, "validation": [TRIVIA]}, "holds 5 rows, but triviaqa needs 6"),
        (
            "triviaqa",
            {"train": [TRIVIA] * 6, "validation": [{**TRIVIA, "answer": {"aliases": [1]}}]},
            "row 1: .*'aliases'",
        ),
    ],
)
def test_what_is_wrong_with_local_data_is_named(name, files, message, tmp_path):
    folder = tmp_path / name
    for split, values in (files or {}).items():
        write_jsonl(folder / f"{split}.jsonl", values)
    if name == "triviaqa" and "validation" not in (files or {}):
        write_jsonl(folder / "validation.jsonl", [{"question": "?", "answer": "Paris"}])
    with pytest.raises(UserError, match=message) as caught:
        general_tasks.load(name, str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)

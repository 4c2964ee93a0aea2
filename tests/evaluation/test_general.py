"""lm-eval's tasks on real data against scores by hand, on a tiny model against forward passes; and the command."""

from __future__ import annotations

import json
import math
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM

from grace.config import specs
from grace.config.schema import General, Pooling, Prompt
from grace.config.section import UserError
from grace.encoder import hub
from grace.encoder.loading import load_model
from grace.encoder.saved import DEFAULT_PROMPT
from grace.evaluation import answers, general, general_tasks, likelihood, tasks
from grace.evaluation.general_tasks import GREEDY, HUB
from grace.jobs.files import read_json, write_jsonl
from tests.evaluation.fakes import FakeEncoder, make_rows, needs_bubblewrap

LIMIT = 24
DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
LABELS = general_tasks.FEVER_LABELS


def run(model: Any, tokenizer: Any, loaded: general.Loaded, limit: int) -> dict[str, Any]:
    return general.run(model, tokenizer, loaded, dict.fromkeys(loaded.tasks, limit), batch_size=4, threads=2)


# ---- the demo's tasks -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tiny_folder):
    data = tasks.build(make_rows(120), make_rows(60, 1), seed=0)
    model, tokenizer = load_model(tiny_folder, "cpu")
    loaded = general.load_tasks([general.PERPLEXITY, general.CHOICE], data, {})
    return run(model, tokenizer, loaded, LIMIT), data, model, tokenizer


def log_probability(model, prefix: list[int], target: list[int]) -> float:
    """log p(target | prefix) in one forward pass without batching or padding."""
    with torch.no_grad():
        logits = model(torch.tensor([prefix + target])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prefix) + i - 1, token].item() for i, token in enumerate(target))


def test_perplexity_is_that_of_a_forward_pass(ran):
    found, data, model, tokenizer = ran
    texts = data["perplexity"][:LIMIT]
    tokens = [tokenizer.encode(text) for text in texts]
    total = sum(log_probability(model, [tokenizer.bos_token_id], ids) for ids in tokens)
    entry = found[general.PERPLEXITY]
    assert entry["score"] == pytest.approx(math.exp(-total / sum(map(len, tokens))), rel=1e-4)
    assert entry["word_perplexity"] == pytest.approx(
        math.exp(-total / sum(len(text.split()) for text in texts)), rel=1e-3
    )
    part = entry["items"]["parts"][0]
    assert part["gold"] == [len(ids) for ids in tokens]
    assert sum(part["values"]) == pytest.approx(total, rel=1e-5)


def test_choice_takes_the_description_under_which_the_query_is_likeliest(ran):
    found, data, model, tokenizer = ran
    right = []
    for item in data["choice"][:LIMIT]:
        scores = []
        for text in item["choices"]:
            prefix, whole = tokenizer.encode(text), tokenizer.encode(text + "\n" + item["query"])
            assert whole[: len(prefix)] == prefix
            scores.append(log_probability(model, prefix, whole[len(prefix) :]))
        right.append(float(max(range(4), key=scores.__getitem__) == item["answer"]))
    assert found[general.CHOICE]["items"]["parts"][0]["values"] == right
    assert found[general.CHOICE]["score"] == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)


def test_unknown_task_and_missing_data_are_named():
    with pytest.raises(UserError, match="no_such_task"):
        general.load_tasks(["no_such_task"], None, {})
    with pytest.raises(UserError, match="--data"):
        general.load_tasks([general.CHOICE], None, {})


def test_rationale_figures():
    found = general.rationale(FakeEncoder(), [f"alpha beta gamma number {i}" for i in range(8)])
    # The fake repeats the first three words and adds one of its own; every fourth rationale is cut off.
    assert found["keyword_fidelity"] == 0.75
    assert found["well_formed_share"] == found["items"]["parts"][0]["values"].count(1.0) / 8 == 0.75
    assert found["truncated_share"] == 0.25 and found["texts"] == 8
    assert general.rationale(FakeEncoder(), []) is None
    again, other = (
        general.rationale(FakeEncoder(), texts) for texts in ([f"alpha beta gamma number {i}" for i in range(8)], ["a"])
    )
    assert found["digest"] == again["digest"] != other["digest"]


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("<think>Alpha, beta; delta</think> x", 2 / 3),
        ("<think>alpha never finished", 1 / 3),
        ("no thought at all", None),
        ("<think> </think> alpha", None),
    ],
)
def test_keyword_fidelity(said, share):
    assert general.keyword_fidelity("ALPHA beta gamma", said) == (None if share is None else pytest.approx(share))


# ---- the command -----------------------------------------------------------------------------


def spec(names: list[str], local: dict[str, str], rationales: int) -> str:
    return specs.GeneralSpec(
        run="base",
        general=General(tasks=names, local=local, limit=5, limits={"fever": 4}, rationales=rationales, batch_size=4),
        encode=specs.EncodeSpec(
            prompt=Prompt(instruction=DEFAULT_PROMPT.instruction, max_prompt_tokens=600),
            pooling=Pooling(method="mean", layer="last", normalize=True),
            rationales=False,
            direct_prompt="chat",
            max_new_tokens=8,
            sampling_temperature=1.0,
            batch_size=4,
            seed=0,
        ),
    ).model_dump_json()


def claims(folder):
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    rows = [{"claim": f"Water number {i} is wet.", "label": labels[i % 3]} for i in range(6)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"fever": str(folder)}


def test_held_out_texts_give_the_rationale_figures_where_there_is_no_task_data(tiny_folder, tmp_path):
    texts = tmp_path / "test.jsonl"
    texts.write_text("".join(json.dumps({"query": "q", "positive": f"A text, number {i}."}) + "\n" for i in range(9)))
    command = ["--model", str(tiny_folder), "--threads", "1", "--spec", spec(["fever"], claims(tmp_path), 5)]
    general.main([*command, "--data", "--texts", str(texts), "--out", str(tmp_path / "with.json")])
    found = read_json(tmp_path / "with.json")
    assert found["rationale"]["texts"] == 5 and len(found["rationale"]["items"]["parts"][0]["values"]) == 5
    assert str(texts) in found["manifest"]["inputs"]
    assert len(found["tasks"]["fever"]["items"]["parts"][0]["values"]) == 4
    general.main([*command, "--out", str(tmp_path / "without.json")])
    without = read_json(tmp_path / "without.json")
    assert without["rationale"] is None and without["tasks"] == found["tasks"]


def test_held_out_texts_are_the_same_draw_for_every_run(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"positive": f"text {i}"}) + "\n" for i in range(50)))
    drawn = general.held_out(None, [path], 10)
    assert drawn == general.held_out(None, [path], 10) and len(set(drawn)) == 10
    assert drawn != [f"text {i}" for i in range(10)]  # not the head, which may be of one source
    assert general.held_out({"rationale": ["a", "b", "c"]}, [path], 2) == ["a", "b"]
    assert general.held_out(None, [], 10) == []
    path.write_text('{"query": "no positive"}\n')
    with pytest.raises(UserError, match=r"test.jsonl, row 1: the field 'positive'"):
        general.held_out(None, [path], 10)


def test_what_is_missing_stops_the_job_before_its_model_is_loaded(tmp_path, capsys):
    (tmp_path / "model").mkdir()  # no model at all: had it been looked at, the sentence would be another
    command = ["--model", str(tmp_path / "model"), "--spec", spec(["fever"], {"fever": str(tmp_path / "gone")}, 0)]
    with pytest.raises(SystemExit) as stopped:
        general.main([*command, "--out", str(tmp_path / "out.json")])
    assert "general.local.fever" in str(stopped.value) and "gone is not a folder" in str(stopped.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("kind", ["adapted_folder", "generator_folder"])
def test_of_an_adapters_folder_it_is_the_model_that_writes_which_is_measured(request, kind, tiny_folder, tmp_path):
    data = tmp_path / "tasks.json"
    data.write_text(json.dumps({"manifest": {}, **tasks.build(make_rows(120), make_rows(60, 1), seed=0)}))
    found = []
    for folder in (tiny_folder, request.getfixturevalue(kind)):
        given = ["--model", str(folder), "--threads", "1", "--spec", spec([general.PERPLEXITY], {}, 3)]
        general.main([*given, "--data", str(data), "--out", str(tmp_path / "out.json")])
        found.append(read_json(tmp_path / "out.json"))
    for part in ("tasks", "rationale"):
        assert (found[0][part] == found[1][part]) is (kind == "adapted_folder")
    assert found[1]["rationale"]["digest"] and found[1]["manifest"]["inputs"] != found[0]["manifest"]["inputs"]


# ---- table 5's tasks ------------------------------------------------------------------------


def rows(path: str) -> list[dict[str, Any]]:
    with open(DATA / path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The data sets in the form that general.local reads; nq_open in the shape of TriviaQA."""
    if not DATA.exists():
        pytest.skip("../shared/data is not here")
    base = tmp_path_factory.mktemp("local")
    write_jsonl(base / "gsm8k" / "train.jsonl", rows("gsm8k/train_head200.jsonl"))
    write_jsonl(base / "gsm8k" / "test.jsonl", rows("gsm8k/test.jsonl")[:40])
    questions = [
        {"question": row["question"], "answer": {"aliases": row["answers"]}} for row in rows("nq_open/validation.jsonl")
    ]
    write_jsonl(base / "triviaqa" / "validation.jsonl", questions[:60])
    write_jsonl(base / "triviaqa" / "train.jsonl", questions[60:160])
    return {
        "gsm8k": str(base / "gsm8k"),
        "triviaqa": str(base / "triviaqa"),
        "mmlu": str(DATA / "mmlu"),
        "bbh": str(DATA / "bbh"),
        "humaneval": str(DATA / "humaneval"),
        "fever": str(DATA / "fever_dev_claims"),
    }


class Scripted(LM):
    """A model that answers what `answer(doc)` says; of choices the one that it says is the likeliest."""

    tokenizer_name = "scripted"

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.asked = answer, []

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        self.asked += requests
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(0.0 if self.answer(request.doc) == request.args[1].strip() else -5.0, False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        raise NotImplementedError


@cache
def solutions() -> dict[str, str]:
    return {row["task_id"]: row["canonical_solution"] for row in rows("humaneval/test.jsonl")}


RIGHT: dict[str, Any] = {
    "gsm8k": lambda doc: doc["answer"],
    "mmlu": lambda doc: "ABCD"[doc["answer"]],
    "triviaqa": lambda doc: doc["answer"]["aliases"][-1].upper(),
    "fever": lambda doc: ("True", "False", "Unknown")[LABELS.index(doc["label"])],
    "bbh": lambda doc: f"Let us see. So the answer is {doc['target']}.",
    "humaneval": lambda doc: solutions()[doc["task_id"]] + "```\nThis is a comment in prose.",
}
WRONG: dict[str, Any] = {
    "gsm8k": lambda doc: f"#### {doc['answer'].split()[-1]}1",
    "mmlu": lambda doc: "ABCD"[doc["answer"] - 1],
    "triviaqa": lambda doc: "none of " + doc["answer"]["aliases"][0],
    "fever": lambda doc: ("False", "Unknown", "True")[LABELS.index(doc["label"])],
    "bbh": lambda doc: f"The answer is not {doc['target']}.",
    "humaneval": lambda doc: "    return NotImplemented",
}


LIMITS = {"gsm8k": 40, "mmlu": 2, "triviaqa": 60, "fever": 90, "bbh": 2, "humaneval": 12}
ITEMS = {"mmlu": 2 * 57, "bbh": 2 * 27}


@needs_data
@pytest.mark.parametrize(
    "name", [name if name != "humaneval" else pytest.param(name, marks=needs_bubblewrap) for name in HUB]
)
def test_right_answers_score_1_and_wrong_ones_0(name, folders):
    loaded = general.load_tasks([name], None, folders)
    found = []
    for answer in (RIGHT[name], WRONG[name]):
        lm = Scripted(answer)
        result = general.evaluate(lm, name, loaded.tasks[name], LIMITS[name])
        found.append(general.score(name, result, loaded.sandbox, 2))
    right, wrong = found
    values = right["items"]["parts"][0]["values"]
    assert right["score"] == 1.0 and set(values) == {1.0} and len(values) == ITEMS.get(name, LIMITS[name])
    assert wrong["score"] == 0.0 and set(wrong["items"]["parts"][0]["values"]) == {0.0}
    assert right["metric"] == f"{HUB[name].metric},{'answer' if name in answers.JUDGES else HUB[name].filter}"
    if name in answers.JUDGES:
        # lm-eval's stop strings cut "St. Louis" after "St" and BBH's option "(Q)" before its letter.
        assert 0.9 < right["lm_eval_score"] <= 1.0 and wrong["lm_eval_score"] == 0.0
        assert right["no_answer"] == right["unfinished_thoughts"] == 0
    # As a chat, with as many worked examples as are written down.
    for request in lm.asked[:20]:
        assert request.args[0].count("<user>") == HUB[name].shots + 1
        assert request.args[0].count("<assistant>") == HUB[name].shots + (name == "humaneval")
        if name != "fever":
            settings = request.args[1]
            assert {key: settings[key] for key in GREEDY} == GREEDY
            assert settings["max_gen_toks"] == HUB[name].generation["max_gen_toks"]


@needs_data
def test_the_whole_data_sets_are_there(folders):
    sizes = {"mmlu": (57, 14042), "bbh": (27, 6511), "humaneval": (1, 164), "fever": (1, 9999)}
    for name, (count, items) in sizes.items():
        found = general_tasks.load(name, folders[name])
        assert (len(found), sum(len(task.eval_docs) for task in found)) == (count, items)


# ---- scores computed again ------------------------------------------------------------------


@needs_data
def test_gsm8k_against_an_own_reading_of_the_answers(folders):
    """Answers in the forms that models write; ours: the last number, without commas, signs of money and full stops."""

    def say(doc: dict[str, Any]) -> str:
        gold = doc["answer"].split("####")[1].strip()
        kind = len(doc["question"]) % 6
        return (
            f"The answer is {gold}.",
            f"It is **{int(gold.replace(',', '')):,}** in all",
            f"${gold} and nothing else",
            f"{gold} minus 3, so 77",
            "I do not know",
            f"First 12, then -{gold}",
        )[kind]

    loaded = general.load_tasks(["gsm8k"], None, folders)
    result = general.evaluate(Scripted(say), "gsm8k", loaded.tasks["gsm8k"], None)
    by_hand = []
    for row in rows("gsm8k/test.jsonl")[:40]:
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", say(row).replace("$", ""))
        gold = row["answer"].split("####")[1].strip()
        by_hand.append(float(bool(numbers) and numbers[-1].replace(",", "") == gold.replace(",", "")))
    found = general.score("gsm8k", result)
    assert found["items"]["parts"][0]["values"] == by_hand
    assert found["score"] == pytest.approx(sum(by_hand) / 40) and 0.2 < found["score"] < 0.8


def roomy(tiny: tuple[Any, Any]) -> tuple[Any, Any]:
    """The tiny model with room for five examples, and a repetition penalty that must not be obeyed."""
    model, tokenizer = tiny
    model.config.max_position_embeddings = 1 << 15
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.temperature, model.generation_config.top_k = 0.7, 20
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # else one token in ten ends an answer
    return model, tokenizer


@needs_data
@torch.no_grad()
def test_fever_against_a_plain_forward_pass(tiny, folders):
    model, tokenizer = roomy(tiny)
    loaded = general.load_tasks(["fever"], None, folders)
    found = run(model, tokenizer, loaded, 45)["fever"]
    right, chosen, two_way = [], [], []
    for row in rows("fever_dev_claims/validation.jsonl")[:45]:
        text = (
            f"Judge this claim by what you know about the world.\n\nClaim: {row['claim']}\n\nReply with one word: True "
            "if the facts support the claim, False if they contradict it, Unknown if they do not settle it."
        )
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        prefix = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        scores = []
        for word in ("True", "False", "Unknown"):
            whole = tokenizer(prompt + word, add_special_tokens=False)["input_ids"]
            assert whole[: len(prefix)] == prefix
            logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            scores.append(sum(logs[i - 1, whole[i]].item() for i in range(len(prefix), len(whole))))
        gold = LABELS.index(row["label"])
        chosen.append(max(range(3), key=scores.__getitem__))
        right.append(float(chosen[-1] == gold))
        if gold < 2:
            two_way.append((scores[0] < scores[1]) == bool(gold))
    assert found["items"]["parts"][0]["values"] == right
    assert found["score"] == pytest.approx(sum(right) / 45)
    assert found["chosen"] == {label: pytest.approx(chosen.count(i) / 45) for i, label in enumerate(LABELS)}
    assert found["two_way_accuracy"] == pytest.approx(sum(two_way) / len(two_way))


@needs_data
@torch.no_grad()
def test_mmlu_answers_are_those_of_a_plain_greedy_loop(tiny, folders):
    """Five examples as turns, the answer token by token by argmax: no batch, no padding, no cache, no penalty."""
    model, tokenizer = roomy(tiny)
    loaded = general.load_tasks(["mmlu"], None, folders)
    subject = next(task for task in loaded.tasks["mmlu"] if task.config.dataset_name == "abstract_algebra")
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    result = general.evaluate(lm, "mmlu", [subject], 6)
    samples = result["samples"]["mmlu_abstract_algebra_generative"]

    def question(row: dict[str, Any]) -> str:
        choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
        return f"{row['question'].strip()}\n{choices}\nAnswer:"

    def turns(row: dict[str, Any], answer: bool) -> list[dict[str, str]]:
        asked = [{"role": "user", "content": question(row)}]
        return [*asked, {"role": "assistant", "content": row["answer"]}] if answer else asked

    answers = []
    shown = [row for row in rows("mmlu/dev.jsonl") if row["subject"] == "abstract_algebra"]
    asked = [row for row in rows("mmlu/test.jsonl") if row["subject"] == "abstract_algebra"][:6]
    for row, sample in zip(asked, sorted(samples, key=lambda sample: sample["doc_id"]), strict=True):
        topic = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        history = [{"role": "system", "content": topic}]
        history += [turn for example in shown for turn in turns(example, True)] + turns(row, False)
        prompt = tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
        assert sample["arguments"][0][0] == prompt
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        written: list[int] = []
        while len(written) < 16:
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
            if written[-1] == tokenizer.eos_token_id:
                break
        said = tokenizer.decode(written, skip_special_tokens=True)
        assert sample["resps"][0][0] == said
        answers.append(said)
        assert sample["exact_match"] == float(said.split("\n")[0].strip().upper().rstrip(".") == row["answer"])
    assert len(set(answers)) > 1, answers


@needs_data
def test_prompts_that_lose_their_examples_are_counted(tiny, folders):
    model, tokenizer = roomy(tiny)
    loaded = general.load_tasks(["triviaqa"], None, folders)
    whole = run(model, tokenizer, loaded, 4)["triviaqa"]
    model.config.max_position_embeddings = 120
    cut = run(model, tokenizer, loaded, 4)["triviaqa"]
    assert "cut_prompts" not in whole and cut["cut_prompts"] == 4


@needs_data
@needs_bubblewrap
def test_humaneval_with_a_model_and_with_code_that_misbehaves(tiny, folders, tmp_path):
    model, tokenizer = roomy(tiny)
    loaded = general.load_tasks(["humaneval"], None, folders)
    found = run(model, tokenizer, loaded, 2)["humaneval"]
    assert found["score"] == 0.0 and sum(found["failures"].values()) == 2 and found["metric"] == "pass@1,sandbox"

    secret = tmp_path / "secret"
    secret.write_text("a secret")

    def say(doc: dict[str, Any]) -> str:
        number = int(doc["task_id"].split("/")[1])
        attempts = (
            solutions()[doc["task_id"]],
            f"    return open({str(secret)!r}).read()\n",
            "    import os\n    while True: os.fork()\n",
            f"    open({str(tmp_path / 'escaped')!r}, 'w')\n",
            solutions()[doc["task_id"]],
            "    import os\n    os._exit(0)\n",
        )
        return attempts[number]

    result = general.evaluate(Scripted(say), "humaneval", loaded.tasks["humaneval"], 6)
    found = general.score("humaneval", result, loaded.sandbox, 2)
    assert found["items"]["parts"][0]["values"] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert found["failures"] == {"BlockingIOError": 1, "FileNotFoundError": 2, "ended without a verdict": 1}
    assert not (tmp_path / "escaped").exists()


# ---- thoughts -------------------------------------------------------------------------------

THINKS = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if SWITCH %}<think>\n{% endif %}{% endif %}"
)


def trivia(folder: Path) -> dict[str, str]:
    questions = [{"question": f"What is {i} + {i}", "answer": {"aliases": [str(2 * i)]}} for i in range(12)]
    write_jsonl(folder / "train.jsonl", questions[:6])
    write_jsonl(folder / "validation.jsonl", questions[6:])
    return {"triviaqa": str(folder)}


@pytest.mark.parametrize(("switch", "unfinished"), [("true", 4), ("enable_thinking is not defined", 0)])
def test_a_model_that_thinks_is_switched_off_or_its_unfinished_thoughts_are_counted(
    switch, unfinished, tiny, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(likelihood, "THOUGHT", 8)
    model, tokenizer = roomy(tiny)
    tokenizer.chat_template = THINKS.replace("SWITCH", switch)
    loaded = general.load_tasks(["triviaqa"], None, trivia(tmp_path / "data"))
    found = run(model, tokenizer, loaded, 4)["triviaqa"]
    assert found["unfinished_thoughts"] == found["no_answer"] == unfinished and found["score"] == 0.0
    assert ("4 replies hold no answer, 4 of them an unfinished thought" in caplog.text) == bool(unfinished)


def test_answers_behind_a_thought_count_and_those_within_one_do_not(tmp_path):
    loaded = general.load_tasks(["triviaqa"], None, trivia(tmp_path / "data"))
    said = {
        6: "<think>13.\n\n</think>\n\n12",
        7: "13</think>14",
        8: "<think>16",
        9: "",
        10: "St. 20",
        11: "The answer is 22.",
    }

    def say(doc: dict[str, Any]) -> str:
        return said[int(doc["question"].split()[-1])]

    found = general.score("triviaqa", general.evaluate(Scripted(say), "triviaqa", loaded.tasks["triviaqa"], None))
    assert found["items"]["parts"][0]["values"] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert (found["no_answer"], found["unfinished_thoughts"]) == (2, 1)
    assert found["lm_eval_score"] == pytest.approx(2 / 6)  # it wants "22" alone


def test_a_context_too_short_for_a_task_is_one_sentence(tiny, tmp_path):
    model, tokenizer = roomy(tiny)
    model.config.max_position_embeddings = 32
    loaded = general.load_tasks(["triviaqa"], None, trivia(tmp_path / "data"))
    with pytest.raises(UserError, match="task 'triviaqa' generates up to 32 tokens, and the model's context holds 32"):
        run(model, tokenizer, loaded, 1)


def test_a_template_that_refuses_worked_examples_is_one_sentence(tiny, tmp_path):
    model, tokenizer = roomy(tiny)
    refused = "{% if turn.role == 'assistant' %}{{ raise_exception('no examples') }}{% endif %}"
    tokenizer.chat_template = f"{{% for turn in messages %}}{refused}{{{{ turn.content }}}}{{% endfor %}}"
    loaded = general.load_tasks(["triviaqa"], None, trivia(tmp_path / "data"))
    with pytest.raises(UserError, match=r"refuses these turns of a general task: user, assistant, .*\(no examples\)"):
        run(model, tokenizer, loaded, 1)


# ---- settings, and what is wrong with data --------------------------------------------------


def test_unreachable_hub_is_one_sentence(monkeypatch):
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nand more lines")

    asked: list[bool] = []
    monkeypatch.setattr(hub, "offline_if_unreachable", lambda: asked.append(True))
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"task 'gsm8k': its data cannot be loaded.*Couldn't reach.*general.local.gsm8k"
    ):
        general.load_tasks(["gsm8k"], None, {})
    assert asked  # first, so that the client does not wait for minutes


def test_humaneval_needs_its_sandbox_before_any_data(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="bubblewrap"):
        general.load_tasks(["gsm8k", "humaneval"], None, {})

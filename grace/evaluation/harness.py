"""lm-eval on a model in memory: the tasks of table 5, and the demo's own from local files."""

from __future__ import annotations

import json
import logging
import math
import re
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.encoder import hub
from grace.evaluation import answers, general_tasks
from grace.evaluation.general_tasks import FEVER_LABELS, FEWSHOT_SEED, HUB
from grace.evaluation.sandbox import Sandbox, Verdict
from grace.method.prompt import SWITCHES, clock
from grace.section import UserError

log = logging.getLogger(__name__)


PERPLEXITY, CHOICE = "docstring_perplexity", "docstring_choice"
NO_CODE = "no code"  # why a sample failed
# Templates print today's date otherwise, and scores would change overnight. A thought would take the answer's room.
TEMPLATE_ARGUMENTS = {"strftime_now": clock, **dict.fromkeys(SWITCHES, False)}


class Loaded(NamedTuple):
    """Tasks that are ready to run: per name lm-eval's task objects, and HumanEval's sandbox where it is asked for."""

    tasks: dict[str, list[Any]]
    sandbox: Sandbox | None


def load(names: list[str], data: dict[str, Any] | None, local: dict[str, str], folder: Path) -> Loaded:
    """The tasks `names` with their data, so that whatever is missing stops a job before its model is loaded.

    Args:
        names: of HUB, `docstring_perplexity` (of `data["perplexity"]`, one text after the other) and
            `docstring_choice` (of `data["choice"]`: the description under which the query is likeliest; what is
            scored is the same query each time, so that the descriptions' lengths do not matter).
        data: the parsed task-data file, for the last two.
        local: task -> folder of its data set as JSON lines, instead of the hub.
        folder: for temporary files.

    Raises:
        UserError: for a task that is unknown, whose data is missing or wrong, or that has no sandbox here.
    """
    for name in names:
        if name not in HUB and name not in (PERPLEXITY, CHOICE):
            raise UserError(f"config: general.tasks: unknown task {name!r}.")
        if name not in HUB and data is None:
            raise UserError(f"task {name!r} needs --data with the file that the rule `tasks` makes.")
    sandbox = Sandbox() if "humaneval" in names else None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here: a model in memory
    if any(name in HUB and name not in local for name in names):
        hub.offline_if_unreachable()
    found = {}
    for name in names:
        log.info("general task %s: loading its data", name)
        found[name] = general_tasks.load(name, local.get(name)) if name in HUB else _own(name, data or {}, folder)
    return Loaded(found, sandbox)


def run(model: Any, tokenizer: Any, loaded: Loaded, **settings: Any) -> dict[str, Any]:
    """Run tasks on a model.

    Args:
        model, tokenizer: of transformers, a causal LM.
        settings: `limit` (items per task, of MMLU and BBH per subject, or None), `limits` (of a task its own),
            `batch_size`, `threads` (sandboxes at a time).

    Returns:
        {task: {"score", "metric", "items", ...}}; scores are 0 to 1, but perplexity is per token of the model's
        own tokenizer. Items as in `grace.evaluation.items`; of perplexity log-likelihoods (nats) and tokens. Beside
        them FEVER has how often each label was chosen and the accuracy between two labels, HumanEval why its samples
        failed, and any task with prompts that did not fit the model's context `cut_prompts`, their number. Of
        generated answers see `score`.

    Raises:
        UserError: when the model's context is too short for a task, or HumanEval's sandbox stops working.
    """
    from grace.evaluation.likelihood import SharedContexts

    lm = SharedContexts(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=settings["batch_size"],
        chat_template_args=TEMPLATE_ARGUMENTS,
    )
    for name in loaded.tasks.keys() & HUB.keys():
        if lm.max_length <= (longest := HUB[name].generation.get("max_gen_toks", 0)):
            raise UserError(
                f"task {name!r} generates up to {longest} tokens, and the model's context holds {lm.max_length} with "
                "the question; take it out of general.tasks."
            )
    found = {}
    for name, tasks in loaded.tasks.items():
        log.info("general task %s", name)
        result = evaluate(lm, name, tasks, settings.get("limits", {}).get(name, settings.get("limit")))
        if name == PERPLEXITY:
            found[name] = _perplexity(lm, result)
        else:
            found[name] = score(name, result, loaded.sandbox, settings["threads"])
        if name in HUB and (cut := _cut(lm, result)):
            log.warning("%s: %d prompts do not fit the model's %d tokens and lose examples", name, cut, lm.max_length)
            found[name]["cut_prompts"] = cut
        if said := found[name].get("no_answer"):
            unfinished = found[name]["unfinished_thoughts"]
            log.warning("%s: %d replies hold no answer, %d of them an unfinished thought", name, said, unfinished)
        log.info("%s: %s %.4f", name, found[name]["metric"], found[name]["score"])
    return found


def evaluate(lm: Any, name: str, tasks: list[Any], limit: int | None) -> Any:
    """lm-eval's result for a task's objects, with every sample in it."""
    from lm_eval import evaluate as run_tasks

    for task in tasks:
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    # Not simple_evaluate, which adds ten seconds of listing the machine's packages to every task.
    return run_tasks(
        lm,
        {"tasks": {task.config.task: task for task in tasks}},
        limit=limit,
        apply_chat_template=name in HUB,  # the paper's backbones are chat models; the demo's tasks are plain text
        fewshot_as_multiturn=name in HUB,
        bootstrap_iters=0,  # our own paired bootstrap makes the intervals
        log_samples=True,
    )


def _cut(lm: Any, result: Any) -> int:
    """Prompts too long for the model. lm-eval drops their beginning, and says so only in its log."""
    cut = set()
    for member, samples in result["samples"].items():
        for sample in samples:
            prompt, rest = sample["arguments"][0][:2]
            room = lm.max_length - (rest["max_gen_toks"] if isinstance(rest, dict) else len(lm.tok_encode(rest)))
            if len(prompt.encode()) > room and len(lm.tok_encode(prompt)) > room:  # a token has at least one byte
                cut.add((member, sample["doc_id"]))
    return len(cut)


def score(name: str, result: Any, sandbox: Sandbox | None = None, threads: int = 1) -> dict[str, Any]:
    """A task's score: the mean over all its items, which weighs the subjects of MMLU and BBH by their size.

    Returns:
        Beside `score`, `metric` and `items`, of generated answers: `no_answer`, the number of replies that hold none,
        `unfinished_thoughts`, how many of these are still in their thought, and, but of HumanEval, `lm_eval_score`,
        the score by lm-eval's own filter.
    """
    metric, filter_name = (HUB[name].metric, HUB[name].filter) if name in HUB else ("acc", "none")
    samples = [
        sample
        for member in sorted(result["samples"])
        for sample in sorted(result["samples"][member], key=lambda sample: sample["doc_id"])
        if sample["filter"] == filter_name or name == "humaneval"
    ]
    more: dict[str, Any] = {}
    if name == "humaneval":
        assert sandbox is not None
        verdicts = _run(sandbox, samples, threads)
        values = [float(verdict.passed) for verdict in verdicts]
        reasons = [verdict.reason for verdict in verdicts if not verdict.passed]
        more = _replies(samples, reasons.count(NO_CODE))
        more["failures"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    elif name in answers.JUDGES:
        right = [answers.JUDGES[name](_said(sample), sample["doc"]) for sample in samples]
        values = [float(bool(one)) for one in right]
        more = _replies(samples, right.count(None))
        more["lm_eval_score"] = float(np.mean([sample[metric] for sample in samples]))
    else:
        values = [float(sample[metric]) for sample in samples]
    if name == "fever":
        more = _labels(samples)
    return {
        "score": float(np.mean(values)),
        "metric": f"{metric},{'answer' if name in answers.JUDGES else filter_name}",
        **more,
        "items": {"statistic": "mean", "parts": [{"values": values}]},
    }


def _said(sample: dict[str, Any]) -> str:
    return sample["resps"][0][0]


def _replies(samples: list[dict[str, Any]], no_answer: int) -> dict[str, Any]:
    unfinished = sum(answers.spoken(_said(sample)) is None for sample in samples)
    return {"no_answer": no_answer, "unfinished_thoughts": unfinished}


def _run(sandbox: Sandbox, samples: list[dict[str, Any]], threads: int) -> list[Verdict]:
    """HumanEval's verdicts; a reply without code is not run."""
    programs = [answers.program(_said(sample), sample["doc"]) for sample in samples]
    tests = [f"\n{sample['doc']['test']}\ncheck({sample['doc']['entry_point']})" for sample in samples]
    ran = iter(sandbox.run_all([f"{code}{test}" for code, test in zip(programs, tests, strict=True) if code], threads))
    return [next(ran) if code else Verdict(False, NO_CODE) for code in programs]


def _labels(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """FEVER's prior bias, seen: the share of each label among the answers, and SUPPORTS against REFUTES alone."""
    likelihoods = np.array([[resp[0][0] for resp in sample["resps"]] for sample in samples], dtype=float)
    gold = np.array([int(sample["target"]) for sample in samples])
    chosen = likelihoods.argmax(axis=1)
    decided = gold < 2
    two_way = likelihoods[decided, :2].argmax(axis=1) == gold[decided]
    return {
        "chosen": {label: float(np.mean(chosen == i)) for i, label in enumerate(FEVER_LABELS)},
        "two_way_accuracy": float(np.mean(two_way)) if decided.any() else None,
    }


def _own(name: str, data: dict[str, Any], folder: Path) -> list[Any]:
    """One of the demo's tasks, as lm-eval's task object."""
    from lm_eval.tasks import TaskManager

    if name == PERPLEXITY:
        rows = [{"text": text} for text in data["perplexity"]]
        form: dict[str, Any] = {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": lambda _: "",
            "doc_to_target": itemgetter("text"),
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
        }
    else:
        rows = data["choice"]
        form = {
            "output_type": "multiple_choice",
            "doc_to_text": itemgetter("answer"),  # of a column's name lm-eval makes a template, for each row anew
            "doc_to_choice": itemgetter("choices"),
            "doc_to_target": itemgetter("query"),
            "target_delimiter": "\n",
            "metric_list": [{"metric": "acc"}],
        }
    items = folder / f"{name}.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {
        "task": name,
        "dataset_path": "json",
        # The cache beside the data: nothing of a job outlives it in the user's home.
        "dataset_kwargs": {"data_files": {"test": str(items)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    return list(TaskManager(include_defaults=False).load([{**common, **form}])["tasks"].values())


def _perplexity(lm: Any, result: Any) -> dict[str, Any]:
    scores, samples = result["results"][PERPLEXITY], result["samples"][PERPLEXITY]
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    values = [float(sample["word_perplexity"][0]) for sample in samples]
    tokens = [len(lm.tok_encode(sample["doc"]["text"])) for sample in samples]
    return {
        "score": _finite(math.exp(min(-sum(values) / sum(tokens), 700.0))),
        "metric": "token_perplexity",
        "word_perplexity": _finite(scores["word_perplexity,none"]),
        "byte_perplexity": _finite(scores["byte_perplexity,none"]),
        "items": {"statistic": "perplexity", "parts": [{"values": values, "gold": tokens}]},
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def keyword_fidelity(text: str, rationale: str) -> float | None:
    """Share of the distinct words inside <think></think> that the text itself has; None without such words."""
    thought = re.search(r"<think>(.*?)(</think>|$)", rationale, re.DOTALL)
    words = set(re.findall(r"\w+", thought[1].lower())) if thought else set()
    return len(words & set(re.findall(r"\w+", text.lower()))) / len(words) if words else None

"""Rule `general`: what else one model can still do (table 5), by lm-eval, and whether its rationales are in order."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from grace.config import specs
from grace.config.section import UserError
from grace.encoder import hub
from grace.evaluation import answers, general_tasks
from grace.evaluation.general_tasks import CHOICE, FEVER_LABELS, FEWSHOT_SEED, HUB, PERPLEXITY
from grace.evaluation.sandbox import Sandbox, Verdict
from grace.evaluation.tasks import load
from grace.jobs import manifest, stage
from grace.jobs.reader import read_jsonl
from grace.method.prompt import SWITCHES, clock

NO_CODE = "no code"  # why a sample failed
# Templates print today's date otherwise, and scores would change overnight. A thought would take the answer's room.
TEMPLATE_ARGUMENTS = {"strftime_now": clock, **dict.fromkeys(SWITCHES, False)}
log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """Tasks that are ready to run: per name lm-eval's task objects, and HumanEval's sandbox where it is asked for."""

    tasks: dict[str, list[Any]]
    sandbox: Sandbox | None


def load_tasks(names: list[str], data: dict[str, Any] | None, local: dict[str, str]) -> Loaded:
    """The tasks `names` with their data, so that whatever is missing stops a job before its model is loaded.

    Args:
        names: of HUB, PERPLEXITY or CHOICE.
        data: the parsed task-data file, for the last two.
        local: task -> folder of its data set as JSON lines, instead of the hub.

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
        if name in HUB:
            found[name] = general_tasks.load(name, local.get(name))
        else:
            found[name] = general_tasks.load_own(name, data or {})
    return Loaded(found, sandbox)


def run(
    model: Any, tokenizer: Any, loaded: Loaded, limits: dict[str, int | None], batch_size: int, threads: int = 1
) -> dict[str, Any]:
    """Run tasks on a model.

    Args:
        model, tokenizer: of transformers, a causal LM.
        limits: task -> number of its items, of MMLU and BBH per subject; None for all.
        threads: sandboxes at a time.

    Returns:
        {task: {"score", "metric", "items", ...}}; scores are 0 to 1, but perplexity is per token of the model's
        own tokenizer. Items as in `grace.evaluation.mteb_scores`; of perplexity log-likelihoods (nats) and tokens. Also
        `cut_prompts`, the number of prompts that did not fit the model's context, if any, and what `score` adds.

    Raises:
        UserError: when the model's context is too short for a task, or HumanEval's sandbox stops working.
    """
    from grace.evaluation.likelihood import SharedContexts

    lm = SharedContexts(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, chat_template_args=TEMPLATE_ARGUMENTS
    )
    for name in loaded.tasks.keys() & HUB.keys():
        if lm.max_length <= (longest := HUB[name].generation.get("max_gen_toks", 0)):
            raise UserError(
                f"task {name!r} generates up to {longest} tokens, and the model's context holds {lm.max_length} with "
                "the question; take it out of general.tasks."
            )
    results = {}
    for name, tasks in loaded.tasks.items():
        log.info("general task %s", name)
        result = evaluate(lm, name, tasks, limits[name])
        found = _perplexity(lm, result) if name == PERPLEXITY else score(name, result, loaded.sandbox, threads)
        if name in HUB and (cut := _cut_prompts(lm, result)):
            log.warning("%s: %d prompts do not fit the model's %d tokens and lose examples", name, cut, lm.max_length)
            found["cut_prompts"] = cut
        if none := found.get("no_answer"):
            unfinished = found["unfinished_thoughts"]
            log.warning("%s: %d replies hold no answer, %d of them an unfinished thought", name, none, unfinished)
        log.info("%s: %s %.4f", name, found["metric"], found["score"])
        results[name] = found
    return results


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


def _cut_prompts(lm: Any, result: Any) -> int:
    """Prompts too long for the model. lm-eval drops their beginning, and says so only in its log."""
    cut = set()
    for member, samples in result["samples"].items():
        for sample in samples:
            prompt, rest = sample["arguments"][0][:2]
            room = lm.max_length - (rest["max_gen_toks"] if isinstance(rest, dict) else len(lm.tok_encode(rest)))
            if len(prompt.encode()) > room and len(lm.tok_encode(prompt)) > room:  # a token has at least one byte
                cut.add((member, sample["doc_id"]))
    return len(cut)


# ---- scores --------------------------------------------------------------------------------


def score(name: str, result: Any, sandbox: Sandbox | None = None, threads: int = 1) -> dict[str, Any]:
    """A task's score: the mean over all its items, which weighs the subjects of MMLU and BBH by their size.

    Returns:
        `score`, `metric` and `items`. Of generated answers also `no_answer`, the number of replies without one, and
        `unfinished_thoughts`, how many of these are still in their thought; of HumanEval the number of `failures` by
        reason, of the others `lm_eval_score`, by lm-eval's own filter. Of FEVER the share of each label among the
        answers (`chosen`) and the accuracy between two labels.
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
        verdicts = _verdicts(sandbox, samples, threads)
        values = [float(verdict.passed) for verdict in verdicts]
        reasons = [verdict.reason for verdict in verdicts if not verdict.passed]
        more = _replies(samples, reasons.count(NO_CODE))
        more["failures"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    elif name in answers.JUDGES:
        right = [answers.JUDGES[name](_reply(sample), sample["doc"]) for sample in samples]
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


def _reply(sample: dict[str, Any]) -> str:
    return sample["resps"][0][0]


def _replies(samples: list[dict[str, Any]], no_answer: int) -> dict[str, Any]:
    unfinished = sum(answers.without_thought(_reply(sample)) is None for sample in samples)
    return {"no_answer": no_answer, "unfinished_thoughts": unfinished}


def _verdicts(sandbox: Sandbox, samples: list[dict[str, Any]], threads: int) -> list[Verdict]:
    """HumanEval's verdicts; a reply without code is not run."""
    programs = [answers.program(_reply(sample), sample["doc"]) for sample in samples]
    tests = [f"\n{sample['doc']['test']}\ncheck({sample['doc']['entry_point']})" for sample in samples]
    ran = iter(sandbox.run_all([f"{code}{test}" for code, test in zip(programs, tests, strict=True) if code], threads))
    return [next(ran) if code else Verdict(False, NO_CODE) for code in programs]


def _labels(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The share of each label among FEVER's answers, and SUPPORTS against REFUTES alone: its prior bias."""
    likelihoods = np.array([[resp[0][0] for resp in sample["resps"]] for sample in samples], dtype=float)
    gold = np.array([int(sample["target"]) for sample in samples])
    chosen = likelihoods.argmax(axis=1)
    decided = gold < 2
    two_way = likelihoods[decided, :2].argmax(axis=1) == gold[decided]
    return {
        "chosen": {label: float(np.mean(chosen == i)) for i, label in enumerate(FEVER_LABELS)},
        "two_way_accuracy": float(np.mean(two_way)) if decided.any() else None,
    }


def _perplexity(lm: Any, result: Any) -> dict[str, Any]:
    samples = sorted(result["samples"][PERPLEXITY], key=lambda sample: sample["doc_id"])
    values = [float(sample["word_perplexity"][0]) for sample in samples]
    tokens = [len(lm.tok_encode(sample["doc"]["text"])) for sample in samples]
    found = {
        "score": math.exp(min(-sum(values) / sum(tokens), 700.0)),
        "metric": "token_perplexity",
        "word_perplexity": float(result["results"][PERPLEXITY]["word_perplexity,none"]),
        "byte_perplexity": float(result["results"][PERPLEXITY]["byte_perplexity,none"]),
        "items": {"statistic": "perplexity", "parts": [{"values": values, "gold": tokens}]},
    }
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in found.items()
    }


# ---- rationales ----------------------------------------------------------------------------


def rationale(encoder: Any, texts: list[str]) -> dict[str, Any] | None:
    """Rationales of held-out texts, generated also by a model that is used without them.

    Returns:
        Mean length in tokens, the shares cut off and well formed, the mean `keyword_fidelity` (of the rationales
        that have one), the number of texts, a digest of the token ids (equal where every rationale is), and per text
        whether its rationale is well formed (0 or 1); None without texts.
    """
    if not texts:
        return None
    written = encoder.encode(texts, rationales=True, progress=True).rationales
    fidelity = [keyword_fidelity(text, r.text) for text, r in zip(texts, written, strict=True)]
    known = [value for value in fidelity if value is not None]
    formed = [float(r.well_formed) for r in written]
    return {
        "mean_tokens": float(np.mean([len(r.token_ids) for r in written])),
        "truncated_share": float(np.mean([r.truncated for r in written])),
        "well_formed_share": float(np.mean(formed)),
        "keyword_fidelity": float(np.mean(known)) if known else None,
        "texts": len(texts),
        "digest": hashlib.sha256(json.dumps([r.token_ids for r in written]).encode()).hexdigest(),
        "items": {"statistic": "mean", "parts": [{"values": formed}]},
    }


def keyword_fidelity(text: str, rationale: str) -> float | None:
    """Share of the distinct words inside <think></think> that the text itself has; None without such words."""
    thought = re.search(r"<think>(.*?)(</think>|$)", rationale, re.DOTALL)
    words = set(re.findall(r"\w+", thought[1].lower())) if thought else set()
    return len(words & set(re.findall(r"\w+", text.lower()))) / len(words) if words else None


def held_out(data: dict[str, Any] | None, paths: list[Path], count: int) -> list[str]:
    """Up to `count` held-out texts, the same for every run: those of the demo's task data, else a draw from --texts.

    Raises:
        UserError: naming file and row, for a row without `positive`.
    """
    if data is not None:
        return data["rationale"][:count]
    texts = [row["positive"] for path in paths for row in read_jsonl(path, need=("positive",))]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:count].tolist()]


@stage.entry(specs.GeneralSpec, inputs=("model", "data*", "texts*"), outputs=("out",))
def main(spec: specs.GeneralSpec, paths: SimpleNamespace) -> None:
    from grace.encoder import adapters
    from grace.encoder.encoder import RationaleEncoder

    data = load(paths.data, spec.rows)
    texts = held_out(data, paths.texts, spec.general.rationales)
    loaded = load_tasks(spec.general.tasks, data, spec.general.local)
    encoder = RationaleEncoder.from_spec(paths.model, spec.encode)
    limits = {name: spec.general.limits.get(name, spec.general.limit) for name in spec.general.tasks}
    with adapters.writing(encoder.model) as model:  # not the one that pools
        found = run(model, encoder.tokenizer, loaded, limits, spec.general.batch_size, paths.threads)
    figures = rationale(encoder, texts)
    inputs = [paths.model, *paths.data, *([] if data else paths.texts)]
    record = manifest.make("general", spec, inputs, paths.started)
    manifest.write_result(paths.out, record, tasks=found, rationale=figures)


if __name__ == "__main__":
    main()

"""lm-eval on a model in memory: the tasks of table 5, and the demo's own from local files."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.section import UserError

log = logging.getLogger(__name__)


class Hub(NamedTuple):
    """How a task of table 5 is run: lm-eval's task, its metric and filter, and whether as a chat."""

    task: str
    metric: str
    filter: str
    chat: bool


# The paper prints neither prompts nor numbers of examples; these are lm-eval's own settings. Strict
# matching of GSM8K would count an answer without "####" as wrong, which chat models rarely write.
HUB = {
    "gsm8k": Hub("gsm8k", "exact_match", "flexible-extract", True),
    "mmlu": Hub("mmlu", "acc", "none", True),
    "triviaqa": Hub("triviaqa", "exact_match", "remove_whitespace", True),
    "bbh": Hub("bbh", "exact_match", "get-answer", True),
}
UNAVAILABLE = {
    "fever": "lm-eval has no FEVER task and ours is not written yet",
    "humaneval": "it runs code that a model wrote, and the sandbox for that is not written yet",
}
PERPLEXITY, CHOICE = "docstring_perplexity", "docstring_choice"


def check(names: list[str]) -> None:
    """Raises: UserError for a task that cannot be run, before anything long starts."""
    for name in names:
        if name in UNAVAILABLE:
            raise UserError(
                f"config: general.tasks: {name!r} is not available, {UNAVAILABLE[name]}; take it out of the list."
            )
        if name not in HUB and name not in (PERPLEXITY, CHOICE):
            raise UserError(f"config: general.tasks: unknown task {name!r}.")


def run(
    model: Any, tokenizer: Any, names: list[str], data: dict[str, Any] | None, folder: Path, **settings: Any
) -> dict[str, Any]:
    """Run the tasks `names`.

    Args:
        model, tokenizer: of transformers, a causal LM.
        names: of HUB, `docstring_perplexity` (of `data["perplexity"]`, one text after the other) and
            `docstring_choice` (of `data["choice"]`: the description under which the query is likeliest; what is
            scored is the same query each time, so that the descriptions' lengths do not matter).
        folder: for temporary files.
        settings: `limit` (items per task, or None), `batch_size`, `seed`.

    Returns:
        {task: {"score", "metric", "items", ...}}; scores are 0 to 1, but perplexity is per token of the model's
        own tokenizer. Items as in `grace.evaluation.items`; of perplexity log-likelihoods (nats) and tokens.

    Raises:
        UserError: for a task that is not available, or whose data is missing.
    """
    check(names)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = [name for name in names if name not in HUB]
    if own and data is None:
        raise UserError(f"task {own[0]!r} needs --data with the file that the rule `tasks` makes.")
    for name in own:
        _write_task(name, data or {}, folder)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here: a model in memory
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings["batch_size"])
    manager = TaskManager(include_path=str(folder), include_defaults=len(own) < len(names))
    found = {}
    for name in names:
        log.info("general task %s", name)
        hub = HUB.get(name)
        seed = settings.get("seed", 0)
        try:
            result: Any = simple_evaluate(
                model=lm,
                tasks=[hub.task if hub else name],
                task_manager=manager,
                limit=settings.get("limit"),
                apply_chat_template=bool(hub and hub.chat),
                bootstrap_iters=0,  # our own paired bootstrap makes the intervals
                log_samples=True,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
            )
        except (OSError, ConnectionError) as error:
            if hub is None:
                raise
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"task {name!r}: its data cannot be loaded from the hub ({reason}).") from None
        found[name] = _perplexity(lm, result) if name == PERPLEXITY else _accuracy(result, name)
        log.info("%s: %s %.4f", name, found[name]["metric"], found[name]["score"])
    return found


def _write_task(name: str, data: dict[str, Any], folder: Path) -> None:
    """A local lm-eval task: its items and its YAML."""
    import yaml

    if name == PERPLEXITY:
        rows = [{"text": text} for text in data["perplexity"]]
        form: dict[str, Any] = {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
        }
    else:
        rows = data["choice"]
        form = {
            "output_type": "multiple_choice",
            "doc_to_text": "answer",
            "doc_to_choice": "choices",
            "doc_to_target": "query",
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
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**common, **form}), encoding="utf-8")


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


def _accuracy(result: Any, name: str) -> dict[str, Any]:
    task, metric, filter_name, _ = HUB.get(name, Hub(name, "acc", "none", False))
    values = [
        float(sample[metric])
        for member in sorted(result["samples"])
        for sample in sorted(result["samples"][member], key=lambda sample: sample["doc_id"])
        if sample.get("filter", "none") == filter_name
    ]
    total = result["results"].get(task) or result["groups"][task]
    return {
        "score": float(total[f"{metric},{filter_name}"]),
        "metric": f"{metric},{filter_name}",
        "items": {"statistic": "mean", "parts": [{"values": values}]},
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def keyword_fidelity(text: str, rationale: str) -> float | None:
    """Share of the distinct words inside <think></think> that the text itself has; None without such words."""
    thought = re.search(r"<think>(.*?)(</think>|$)", rationale, re.DOTALL)
    words = set(re.findall(r"\w+", thought[1].lower())) if thought else set()
    return len(words & set(re.findall(r"\w+", text.lower()))) / len(words) if words else None

"""The tasks of table 5: which lm-eval task each is, with which settings, and on whose data.

The prompts are lm-eval's own (FEVER's are in lm_tasks/); what else decides a score is in HUB and, of generated
answers, in `grace.evaluation.answers`. docs/general.md says why.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from grace.config.section import UserError, hint
from grace.evaluation import answers
from grace.jobs import reader
from grace.jobs.stage import refused

OWN_FOLDER = Path(__file__).parent / "lm_tasks"


class Hub(NamedTuple):
    """How a task is run.

    Attributes:
        folder: below lm-eval's tasks; "" for one of ours.
        task: lm-eval's name of the task or group.
        metric, filter: which of its figures lm-eval reports.
        shots: worked examples before the question.
        generation: what is changed in lm-eval's generation settings.
    """

    folder: str
    task: str
    metric: str
    filter: str
    shots: int
    generation: dict[str, Any] = {}  # noqa: RUF012  # never written to


HUB = {
    "gsm8k": Hub("gsm8k", "gsm8k", "exact_match", "flexible-extract", 5, {"max_gen_toks": 512}),
    "mmlu": Hub("mmlu/generative", "mmlu_generative", "exact_match", "get_response", 5, {"max_gen_toks": 16}),
    "triviaqa": Hub("triviaqa", "triviaqa", "exact_match", "remove_whitespace", 5, {"max_gen_toks": 32}),
    "fever": Hub("", "grace_fever", "acc", "none", 0),
    "bbh": Hub("bbh/cot_fewshot", "bbh", "exact_match", "get-answer", 3, {"max_gen_toks": 1024}),
    "humaneval": Hub("humaneval", "humaneval_instruct", "pass@1", "sandbox", 0, {"max_gen_toks": 1024}),
}
# Greedy. The penalty is named because a checkpoint's generation_config.json is obeyed otherwise, and those of the
# Qwen2.5 models hold one of 1.05 to 1.1, which changes greedy answers.
GREEDY = {"do_sample": False, "temperature": 0.0, "repetition_penalty": 1.0}
PERPLEXITY, CHOICE = "docstring_perplexity", "docstring_choice"
FEWSHOT_SEED = 1234  # lm-eval's own; the same examples for every model and every seed of a run


class Local(NamedTuple):
    """A data set as JSON lines: `<split>.jsonl` per split, the fields used, and the field that names a subtask."""

    fields: tuple[str, ...]
    test: str
    examples: str = ""
    subtask: str = ""


LOCAL = {
    "gsm8k": Local(("question", "answer"), "test", "train"),
    "mmlu": Local(("question", "choices", "answer"), "test", "dev", "subject"),
    "triviaqa": Local(("question", "answer"), "validation", "train"),
    "fever": Local(("claim", "label"), "validation"),
    "bbh": Local(("input", "target"), "test", subtask="task"),
    "humaneval": Local(("task_id", "prompt", "test", "entry_point"), "test"),
}
FEVER_LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")

Rows = dict[str, dict[str, list[dict[str, Any]]]]  # subtask -> split -> rows


def load(name: str, folder: str | None = None) -> list[Any]:
    """lm-eval's task objects of a task, one per subtask, with their data loaded.

    Args:
        name: of HUB.
        folder: that holds the data set as JSON lines; None for the hub.

    Raises:
        UserError: naming the task when the hub cannot be reached, or the file or row that is wrong.
    """
    configs = [_settled(name, config) for config in _configs(HUB[name])]
    if folder is not None:
        rows = _read_local(name, Path(folder))
        field = LOCAL[name].subtask
        known = {config["dataset_name"] for config in configs} if field else {""}
        if unknown := [subtask for subtask in rows if subtask not in known]:
            raise UserError(
                f"config: general.local.{name}: {folder} has rows whose {field} is {unknown[0]!r}, which the task "
                f"does not know{hint(unknown[0], known)}."
            )
        for config in configs:
            subtask = config["dataset_name"] if field else ""
            if subtask not in rows:
                raise UserError(
                    f"config: general.local.{name}: {folder} has no rows whose {field} is {subtask!r}; the task "
                    f"consists of {len(configs)} of these."
                )
            config["custom_dataset"] = _data_set(rows[subtask])
    try:
        return _task_objects(configs)
    except Exception as error:
        if folder is not None or isinstance(error, UserError) or refused(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"task {name!r}: its data cannot be loaded from the hub ({type(error).__name__}: {reason}); try again with "
            f"a connection, or name a folder that holds it in general.local.{name} (docs/general.md)."
        ) from None


def load_own(name: str, data: dict[str, Any]) -> list[Any]:
    """One of the demo's tasks, as lm-eval's task object.

    PERPLEXITY is of `data["perplexity"]`, one text after the other; CHOICE of `data["choice"]`: the description under
    which the query is likeliest. The same query is scored each time, so the descriptions' lengths do not matter.
    """
    config: dict[str, Any] = {"task": name, "test_split": "test", "num_fewshot": 0, "metadata": {"version": 1.0}}
    if name == PERPLEXITY:
        config |= {
            "custom_dataset": _data_set({"test": [{"text": text} for text in data["perplexity"]]}),
            "output_type": "loglikelihood_rolling",
            "doc_to_text": lambda _: "",
            "doc_to_target": itemgetter("text"),
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
        }
    else:
        config |= {
            "custom_dataset": _data_set({"test": data["choice"]}),
            "output_type": "multiple_choice",
            "doc_to_text": itemgetter("answer"),  # of a column's name lm-eval makes a template, for each row anew
            "doc_to_choice": itemgetter("choices"),
            "doc_to_target": itemgetter("query"),
            "target_delimiter": "\n",
            "metric_list": [{"metric": "acc"}],
        }
    return _task_objects([config])


def _task_objects(configs: list[dict[str, Any]]) -> list[Any]:
    from lm_eval.tasks import TaskManager

    # An index of these configurations alone: that of all of lm-eval's tasks takes 8 seconds.
    return list(TaskManager(include_defaults=False).load(configs)["tasks"].values())


def _configs(hub: Hub) -> list[dict[str, Any]]:
    """The YAML of a task, or of every task in a group, as dictionaries."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(lm_eval.__file__).parent / "tasks" / hub.folder if hub.folder else OWN_FOLDER
    index = TaskManager(include_path=str(folder), include_defaults=False).task_index

    def leaves(member: Any) -> list[dict[str, Any]]:
        if isinstance(member, str):
            entry = index[member]
            if entry.yaml_path is None:  # a tag: the tasks that carry it
                return [leaf for tagged in sorted(entry.tags) for leaf in leaves(tagged)]
            # Functions stay unresolved: HumanEval's would fetch code from the hub when imported.
            return leaves(load_yaml(entry.yaml_path, resolve_func=False))
        if isinstance(member["task"], list):
            return [leaf for child in member["task"] for leaf in leaves(child)]
        return [member]

    return leaves(hub.task)


def _settled(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A task's configuration with our settings in it."""
    hub = HUB[name]
    config = {key: value for key, value in config.items() if key not in ("tag", "group")}
    config["num_fewshot"] = hub.shots
    if config["output_type"] == "generate_until":
        stops = config["generation_kwargs"]["until"]
        # Stop strings would end a thought, or a reply before its answer; lm-eval's own filters still get what they cut.
        config["generation_kwargs"] = {**config["generation_kwargs"], "until": [], **GREEDY, **hub.generation}
        cut = {"function": "custom", "filter_fn": partial(_stopped, stops)}
        config["filter_list"] = [
            {**entry, "filter": [cut, *entry["filter"]]} for entry in config["filter_list"] if name != "humaneval"
        ] or None
    if name == "humaneval":  # lm-eval only writes the programs; nothing runs outside the sandbox
        config |= {
            "unsafe_code": False,
            "metric_list": [{"metric": "bypass"}],
            "process_results": lambda *_: {"bypass": 0},
        }
    return config


def _stopped(stops: list[str], replies: list[list[str]], docs: Any) -> list[list[str]]:
    return [[answers.cut_at_stops(reply, stops) for reply in several] for several in replies]


def _data_set(splits: dict[str, list[dict[str, Any]]]) -> Any:
    """What lm-eval calls for a task's data."""
    from datasets import Dataset, DatasetDict

    found = DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})
    return lambda **_: found


def _read_local(name: str, folder: Path) -> Rows:
    """A task's data set from `<folder>/<split>.jsonl`, or another kind of file (`grace.jobs.reader`).

    Returns:
        subtask ("" without subtasks) -> split -> rows of the fields that the task uses.

    Raises:
        UserError: naming the folder, the file, or the row and its field.
    """
    local = LOCAL[name]
    if not folder.is_dir():
        raise UserError(f"config: general.local.{name}: {folder} is not a folder; put the data set there.")
    out: Rows = {}
    for split in filter(None, (local.examples, local.test)):
        path = reader.find(folder, split)
        if path is None:
            raise UserError(
                f"config: general.local.{name}: {folder}/{split}.jsonl is missing; {name} needs {split}.jsonl with the "
                f"fields {', '.join(filter(None, (*local.fields, local.subtask)))} (docs/general.md)."
            )
        for number, row in reader.read(path):
            where = f"{path}, row {number}"
            subtask = reader.text(row, local.subtask, where) if local.subtask else ""
            out.setdefault(subtask, {}).setdefault(split, []).append(_checked(name, row, where))
    if not out:
        raise UserError(f"config: general.local.{name}: {folder} holds no rows.")
    shown = HUB[name].shots + (name == "triviaqa")  # of whose rows lm-eval draws one more than it shows
    for subtask, splits in out.items():
        for split, least in ((local.test, 1), (local.examples, shown)):
            if split and len(splits.get(split, [])) < least:
                of, got = f" of {subtask!r}" if subtask else "", len(splits.get(split, []))
                raise UserError(
                    f"config: general.local.{name}: {folder / split}.jsonl holds {got} rows{of}, "
                    f"but {name} needs {least}."
                )
    return out


def _checked(name: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a row that the task uses, in the hub's form."""
    found: dict[str, Any] = {}
    for field in LOCAL[name].fields:
        if (name, field) not in (("mmlu", "choices"), ("mmlu", "answer"), ("triviaqa", "answer")):  # below
            found[field] = reader.text(row, field, where)
            if not found[field].strip():
                raise UserError(f"{where}: the field {field!r} is empty; correct or remove the row.")
    if name == "gsm8k" and answers.last_number(found["answer"].partition("####")[2]) is None:
        raise UserError(f"{where}: the field 'answer' does not end in #### and a number; correct or remove the row.")
    if name == "mmlu":
        letter, choices = row.get("answer"), row.get("choices")
        number = "ABCD".find(letter) if isinstance(letter, str) and letter in {*"ABCD"} else letter
        if not _texts(choices) or len(choices) != 4 or str(number) not in {*"0123"}:  # type: ignore[arg-type]
            raise UserError(f"{where}: needs four 'choices' and an 'answer' of A to D or 0 to 3.")
        found |= {"choices": choices, "answer": int(number)}  # type: ignore[arg-type]
    if name == "triviaqa":
        answer = row.get("answer")
        if not isinstance(answer, dict) or not _texts(answer.get("aliases")) or not "".join(answer["aliases"]).strip():
            raise UserError(f"{where}: the field 'answer' needs a list 'aliases' of the answers that count.")
        found["answer"] = {"aliases": answer["aliases"]}
    if name == "humaneval":
        for field, part in (("test", "def check("), ("prompt", f"def {found['entry_point']}(")):
            if part not in found[field]:
                raise UserError(
                    f"{where}: the field {field!r} does not hold {part + ')'!r}; correct or remove the row."
                )
    if name == "fever" and row["label"] not in FEVER_LABELS:
        raise UserError(f"{where}: unknown label {row['label']!r}{hint(str(row['label']), FEVER_LABELS)}.")
    return found


def _texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)

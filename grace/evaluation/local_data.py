"""A hub task's data from a local folder (`evaluation.local: {task: folder}`), for machines without the hub.

<folder>/README.md                        a copy of the data set's repository: read as from the hub
<folder>/<split>.jsonl                    rows with the task's own columns, for every split that it uses
<folder>/<subset>/<split>.jsonl           the same for a task of several subsets (STS17: en-en)
<folder>/{corpus,queries,qrels}.jsonl     retrieval: _id, title, text; _id, text; query-id, corpus-id, score
<folder>/top_ranked.jsonl                 reranking, besides: query-id, corpus-ids
<folder>/<member>/...                     CQADupstackRetrieval: a folder per forum's task
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value, disable_progress_bars, load_dataset
from datasets.exceptions import DatasetGenerationError
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.abstask import AbsTask

from grace.evaluation.items import leaves
from grace.files import read_jsonl
from grace.section import UserError


def use(task: AbsTask, folder: Path | str) -> None:
    """Make `task` read its data from `folder`; its rows are read by `task.load_data()`.

    Raises:
        UserError: when the folder, or a file that the task needs, is missing.
    """
    folder = Path(folder)
    where = f"evaluation.local.{task.metadata.name}: {folder}"
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder.")
    if (members := leaves(task)) != [task]:
        for member in members:
            use(member, folder / member.metadata.name)
    elif (folder / "README.md").exists():
        dataset = {**task.metadata.dataset, "path": str(folder)}
        task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    else:
        need = _files(task)
        if missing := [name for name in need if not (folder / name).exists()]:
            raise UserError(f"{where}: has no {missing[0]}; this task needs {' and '.join(need)} there.")

        def load_data(*_: Any, **__: Any) -> None:
            if not task.data_loaded:
                task.dataset = (_retrieval if isinstance(task, AbsTaskRetrieval) else _splits)(task, folder)
                try:
                    task.dataset_transform()
                except (ValueError, KeyError) as error:
                    reason = str(error).split("\n")[0]
                    raise UserError(f"{where}: its rows are not as the task reads them ({reason}).") from None
                if not isinstance(task, AbsTaskRetrieval):
                    _check_columns(task, where)
                task.data_loaded = True

        task.load_data = load_data  # type: ignore[method-assign]


def _files(task: AbsTask) -> list[str]:
    if isinstance(task, AbsTaskRetrieval):
        return ["corpus.jsonl", "queries.jsonl", "qrels.jsonl"]
    train = [task.train_split] if isinstance(task, AbsTaskClassification) else []
    splits = [f"{split}.jsonl" for split in [*train, *task.eval_splits]]
    return [f"{subset}/{name}" for subset in task.hf_subsets for name in splits] if _named(task) else splits


def _named(task: AbsTask) -> bool:
    return list(task.hf_subsets) != ["default"]


def _splits(task: AbsTask, folder: Path) -> Any:
    def read(folder: Path) -> DatasetDict:
        return DatasetDict({path.stem: _table(path) for path in sorted(folder.glob("*.jsonl"))})

    return {subset: read(folder / subset) for subset in task.hf_subsets} if _named(task) else read(folder)


def _check_columns(task: Any, where: str) -> None:
    """Raises: UserError when a column that the task reads is missing or has a row without a value."""
    named = [getattr(task, name) for name in dir(type(task)) if name.endswith(("_column_name", "column_names"))]
    needed = [column for value in named for column in ([value] if isinstance(value, str) else value)]
    if isinstance(task, AbsTaskSTS):
        needed.append("score")
    train = [task.train_split] if isinstance(task, AbsTaskClassification) else []
    for subset, splits in task.dataset.items() if _named(task) else [("", task.dataset)]:
        for split in dict.fromkeys([*train, *task.eval_splits]):
            table, file = splits[split], f"{subset}/{split}".strip("/")
            for column in needed:
                if column not in table.column_names:
                    has = ", ".join(table.column_names)
                    raise UserError(f"{where}: rows of {file} have no field {column!r} (they have: {has}).")
                if None in (values := table[column][:]):
                    row = values.index(None) + 1
                    raise UserError(f"{where}: row {row} of {file} has no {column!r}; correct or remove it.")


def _retrieval(task: AbsTask, folder: Path) -> Any:
    """One split, whatever its name, in the form of mteb's loader; queries without judgement are left out."""
    relevant: dict[str, dict[str, int]] = {}
    for number, row in enumerate(read_jsonl(folder / "qrels.jsonl", need=("query-id", "corpus-id")), 1):
        try:
            score = int(row.get("score", 1))
        except (TypeError, ValueError):
            raise UserError(
                f"{folder / 'qrels.jsonl'}, row {number}: the field 'score' is {row['score']!r} and no whole number."
            ) from None
        relevant.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = score
    queries = _texts(folder / "queries.jsonl")
    judged = [i for i, name in enumerate(queries["id"]) if name in relevant]
    if not judged:
        raise UserError(f"{folder / 'qrels.jsonl'}: judges none of the queries of queries.jsonl; its ids are others.")
    top_ranked = None
    if (folder / "top_ranked.jsonl").exists():
        rows = read_jsonl(folder / "top_ranked.jsonl", need=("query-id", "corpus-ids"))
        top_ranked = {str(row["query-id"]): list(map(str, row["corpus-ids"])) for row in rows}
    data = {"queries": queries.select(judged), "relevant_docs": relevant, "top_ranked": top_ranked}
    return {"default": {task.eval_splits[0]: {"corpus": _texts(folder / "corpus.jsonl"), **data}}}


def _texts(path: Path) -> Dataset:
    """Columns id, text and, where there is one, title; a text that is null is empty."""
    table = _table(path)
    if "_id" in table.column_names:
        table = table.rename_column("_id", "id")
    for name in ("id", "text"):
        if name not in table.column_names:
            raise UserError(f"{path}: its rows have no field {'_id' if name == 'id' else name!r}.")
    if None in (ids := table["id"][:]):
        raise UserError(f"{path}, row {ids.index(None) + 1}: the field '_id' is missing.")
    table = table.select_columns([name for name in ("id", "title", "text") if name in table.column_names])
    table = table.cast(Features({name: Value("string") for name in table.column_names}))
    texts = [name for name in table.column_names if name != "id"]
    if any(table.data.column(name).null_count for name in texts):
        table = table.map(lambda rows: {name: [v or "" for v in rows[name]] for name in texts}, batched=True)
    return table


def _table(path: Path) -> Dataset:
    disable_progress_bars()
    try:
        return load_dataset("json", data_files=str(path), split="train")
    except DatasetGenerationError as error:
        for _ in read_jsonl(path):  # names the row, if it is one that is no JSON object
            pass
        raise UserError(f"{path}: its rows do not fit one another ({error.__cause__ or error}).") from None

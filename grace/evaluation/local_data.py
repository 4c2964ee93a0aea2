"""A hub task's data from a local folder (`evaluation.local: {task: folder}`), for machines without the hub.

<folder>/<split>.jsonl                    rows with the task's own columns (FIELDS), for every split that it uses
<folder>/<subset>/<split>.jsonl           the same for a task of several subsets (STS17: en-en)
<folder>/{corpus,queries,qrels}.jsonl     retrieval: _id, title, text; _id, text; query-id, corpus-id, score
<folder>/qrels/<split>.tsv                or so, as in BEIR's own folders
<folder>/top_ranked.jsonl                 reranking, besides: query-id, corpus-ids
<folder>/<member>/...                     CQADupstackRetrieval: a folder per forum's task
<folder>/README.md                        a copy of the data set's repository: read as from the hub

Any file that `grace.jobs.reader` reads does instead of .jsonl. What would be scored wrong is refused with its row.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.abstask import AbsTask

from grace.config.section import UserError
from grace.jobs import reader

MAX_RELEVANCE = 1000  # more can only be a mistake
CHUNK = 10_000  # rows in memory as Python objects
Value = Callable[[reader.Row, str, str], Any]  # (row, field, where) -> the field's value
log = logging.getLogger(__name__)


def leaves(task: AbsTask) -> list[AbsTask]:
    """The tasks that really run: a task itself, or the members of an aggregate (CQADupstackRetrieval)."""
    return list(getattr(task.metadata, "tasks", None) or [task])


def load_with(task: AbsTask, read: Callable[[], Any]) -> None:
    """Make `task.load_data()` take what `read()` returns, unless the data are loaded."""

    def load_data(*_: Any, **__: Any) -> None:
        if not task.data_loaded:
            task.dataset = read()
            task.data_loaded = True

    task.load_data = load_data  # type: ignore[method-assign]


def use(task: AbsTask, folder: Path | str) -> None:
    """Make `task` read its data from `folder`; its rows are read by `task.load_data()`.

    Raises:
        UserError: when the folder, or a file that the task needs, is missing.
    """
    folder = Path(folder)
    where = f"evaluation.local.{task.metadata.name}"
    if not folder.is_dir():
        raise UserError(f"{where}: {folder}: no such folder.")
    if (members := leaves(task)) != [task]:
        for member in members:
            use(member, folder / member.metadata.name)
        return
    if isinstance(task, AbsTaskRetrieval):
        need = ["corpus", "queries", "qrels", *(["top_ranked"] if task.metadata.type == "Reranking" else [])]
    else:
        need = [f"{subset}/{name}" if subset else name for subset in _subsets(task) for name in _split_names(task)]
    missing = [name for name in need if _find(task, folder, name) is None]
    if missing and (folder / "README.md").exists():
        dataset = {**task.metadata.dataset, "path": str(folder)}
        task.metadata = task.metadata.model_copy(update={"dataset": dataset})
        return
    if missing:
        names = " and ".join(f"{name}.jsonl" for name in need)
        raise UserError(f"{where}: {folder}: has no {missing[0]}.jsonl; this task needs {names} there.")

    def read() -> Any:
        try:
            task.dataset = (_retrieval if isinstance(task, AbsTaskRetrieval) else _splits)(task, folder)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(task, AbsTaskPairClassification):  # whose transforms rename columns as `_splits` has
            task.dataset_transform()
        return task.dataset

    load_with(task, read)


def _find(task: AbsTask, folder: Path, name: str) -> Path | None:
    """A file of the task; of qrels, in BEIR's layout, that of the split in a folder of theirs."""
    path = folder / name
    found = reader.find(path.parent, path.name)
    return found or (reader.find(path, task.eval_splits[0]) if name == "qrels" and path.is_dir() else None)


def _found(task: AbsTask, folder: Path, name: str) -> Path:
    path = _find(task, folder, name)
    assert path is not None  # `use` has looked
    return path


def _split_names(task: AbsTask) -> list[str]:
    train = [task.train_split] if isinstance(task, AbsTaskClassification) else []
    return list(dict.fromkeys([*train, *task.eval_splits]))


def _subsets(task: AbsTask) -> list[str]:
    """Names of folders; one "" for a task without subsets."""
    return [""] if list(task.hf_subsets) == ["default"] else list(task.hf_subsets)


# ---- tasks of rows -------------------------------------------------------------------------


class Field(NamedTuple):
    """A column of a task. names: under which it is read; the first is mteb's. listed: a row holds a list of them."""

    names: tuple[str, ...]
    value: Value
    listed: bool = False


def _label(row: reader.Row, field: str, where: str) -> str | int:
    value = row.get(field)
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str) else reader.whole(row, field, where)


def _binary(row: reader.Row, field: str, where: str) -> int:
    value = row[field] if isinstance(row.get(field), bool) else reader.whole(row, field, where)
    if value not in (0, 1):
        raise UserError(f"{where}: the field {field!r} is {value}, and a pair's label is 0 or 1.")
    return int(value)


FIELDS: dict[type[AbsTask], list[Field]] = {
    AbsTaskClassification: [Field(("text",), reader.text), Field(("label",), _label)],
    AbsTaskClusteringLegacy: [Field(("sentences",), reader.text, True), Field(("labels",), _label, True)],
    AbsTaskPairClassification: [
        Field(("sentence1", "sent1"), reader.text),
        Field(("sentence2", "sent2"), reader.text),
        Field(("labels", "label"), _binary),
    ],
    AbsTaskSTS: [
        Field(("sentence1",), reader.text),
        Field(("sentence2",), reader.text),
        Field(("score",), reader.number),
    ],
    AbsTaskSummarization: [
        Field(("text",), reader.text),
        Field(("human_summaries",), reader.text, True),
        Field(("machine_summaries",), reader.text, True),
        Field(("relevance",), reader.number, True),
    ],
}
ALIGNED = ({"sentences", "labels"}, {"machine_summaries", "relevance"})  # lists of a row that are of one length
SCORES = {AbsTaskSTS: "score", AbsTaskPairClassification: "labels", AbsTaskSummarization: "relevance"}


def _splits(task: AbsTask, folder: Path) -> Any:
    kind = next(kind for kind in FIELDS if isinstance(task, kind))
    read = {}
    for subset in _subsets(task):
        paths = {name: _found(task, folder / subset, name) for name in _split_names(task)}
        read[subset] = DatasetDict({name: _table(kind, path) for name, path in paths.items()})
        if isinstance(task, AbsTaskClassification):
            _check_labels(task, read[subset], paths)
    return read.get("", read)


def _table(kind: type[AbsTask], path: Path) -> Dataset:
    made = _dataset(_rows(kind, path), path)
    if name := SCORES.get(kind):
        scores = made[name][:]  # of a summarization a list for each document
        if all(len(set(some)) < 2 for some in (scores if name == "relevance" else [scores])):
            raise UserError(
                f"{path}: all its rows have the same {name!r}, so that no score is defined; give more rows."
            )
    return made


def _rows(kind: type[AbsTask], path: Path) -> Iterator[reader.Row]:
    """Rows of mteb's columns, each field of its type."""
    first: list[Any] = []  # the first label
    for number, row in reader.read(path):
        where = f"{path}, row {number}"
        made: reader.Row = {}
        for field in FIELDS[kind]:
            name = next((name for name in field.names if name in row), field.names[0])
            # Some v1 data sets hold all pairs in one row of lists.
            if field.listed or (kind is AbsTaskPairClassification and isinstance(row.get(name), list)):
                value: Any = [field.value({name: one}, name, where) for one in reader.listed(row, name, where)]
            else:
                value = field.value(row, name, where)
            made[field.names[0]] = value
            if field.value is _label:
                labels = value if field.listed else [value]
                first = first or labels
                if other := [label for label in labels if type(label) is not type(first[0])]:
                    raise UserError(
                        f"{where}: the label {other[0]!r} is not of the type of {first[0]!r} before it; labels are all "
                        "numbers or all text."
                    )
        lengths = {name: len(value) for name, value in made.items() if isinstance(value, list)}
        for names in ALIGNED:
            if len({lengths[name] for name in names if name in lengths}) > 1:
                lengths_found = " and ".join(f"{lengths[name]} {name}" for name in made if name in names)
                raise UserError(f"{where}: holds {lengths_found}; correct the row.")
        if kind is AbsTaskClusteringLegacy and len(set(made["labels"])) in (1, len(made["labels"])):
            raise UserError(
                f"{where}: its labels are all the same or all different, so that any clustering is perfect; correct it."
            )
        if kind is AbsTaskPairClassification and lengths:
            if len(lengths) < len(made) or len(set(lengths.values())) > 1:
                raise UserError(f"{where}: its fields are not lists of one length; correct the row.")
            yield from (dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True))
        else:
            yield made


def _check_labels(task: AbsTaskClassification, found: DatasetDict, paths: dict[str, Path]) -> None:
    """Raises: UserError when a classifier of the training labels could not tell the test's."""
    train = found[task.train_split]["label"][:]
    known, path = set(train), paths[task.train_split]
    if len(known) < 2:
        raise UserError(f"{path}: has the one label {train[0]!r}, and a classifier needs two.")
    for split in task.eval_splits:
        for row, label in enumerate(found[split]["label"][:], 1):
            if label not in known:
                kind = "numbers" if isinstance(train[0], int) else "texts"
                some = ", ".join([*map(repr, sorted(known)[:5]), *["..."] * (len(known) > 5)])
                raise UserError(
                    f"{paths[split]}: the label {label!r} of its text {row} is none of those of {path.name} "
                    f"({kind}: {some}); correct one of the files."
                )


# ---- retrieval and reranking ---------------------------------------------------------------


def _retrieval(task: AbsTask, folder: Path) -> Any:
    """One split, whatever its name, in the form of mteb's loader; queries without judgement are left out."""
    corpus, queries = _texts(_found(task, folder, "corpus")), _texts(_found(task, folder, "queries"))
    documents, asked = set(corpus["id"][:]), queries["id"][:]
    known = {"query-id": ({*asked}, "queries"), "corpus-id": (documents, "corpus")}
    relevant: dict[str, dict[str, int]] = {}
    path = _found(task, folder, "qrels")
    for number, row in reader.read(path):
        where = f"{path}, row {number}"
        query, document = (_reference(row, field, where, *known[field]) for field in known)
        score = 1 if row.keys() == known.keys() else reader.whole(row, "score", where)
        if score > MAX_RELEVANCE:
            raise UserError(
                f"{where}: the field 'score' is {score}, and a relevance is {MAX_RELEVANCE} at most; correct the row."
            )
        if query == document and task.ignore_identical_ids:  # type: ignore[attr-defined]
            raise UserError(
                f"{where}: judges {query!r} for the query of the same id, which this task never finds: its queries are "
                "documents themselves; give them other ids."
            )
        score = max(score, 0)  # TREC marks junk below 0; it is no less relevant than 0
        if relevant.setdefault(query, {}).setdefault(document, score) != score:
            raise UserError(f"{where}: judges {query!r} and {document!r} a second time and otherwise; remove one.")
    judged = [i for i, name in enumerate(asked) if name in relevant]
    if not judged:
        raise UserError(f"{path}: judges none of the queries of {_found(task, folder, 'queries').name}.")
    if none := sum(max(scores.values()) <= 0 for scores in relevant.values()):
        log.warning("%s: %d of %d judged queries have no relevant document, and score 0", path, none, len(relevant))
    if len(judged) < len(asked):
        log.info("%s: %d of %d queries are not judged, and left out", path, len(asked) - len(judged), len(asked))
    data = {"queries": queries.select(judged), "relevant_docs": relevant, "top_ranked": None}
    if task.metadata.type == "Reranking":
        data["top_ranked"] = _top_ranked(_found(task, folder, "top_ranked"), known, relevant)
    return {"default": {task.eval_splits[0]: {"corpus": corpus, **data}}}


def _reference(row: reader.Row, field: str, where: str, known: set[str], file: str) -> str:
    if (name := reader.identifier(row, field, where)) not in known:
        raise UserError(f"{where}: the {field} {name!r} is not in {file}.jsonl; correct or remove the row.")
    return name


def _top_ranked(path: Path, known: dict[str, tuple[set[str], str]], relevant: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, row in reader.read(path):
        where = f"{path}, row {number}"
        query = _reference(row, "query-id", where, *known["query-id"])
        if query in found:
            raise UserError(f"{where}: a second row of the query {query!r}; remove one.")
        every = [
            _reference({"corpus-id": one}, "corpus-id", where, *known["corpus-id"])
            for one in reader.listed(row, "corpus-ids", where)
        ]
        found[query] = list(dict.fromkeys(every))
    if lacking := [query for query in relevant if query not in found]:
        raise UserError(
            f"{path}: has no row of the query {lacking[0]!r}, which is judged ({len(lacking)} lack one); give their "
            "candidates, or remove their judgements."
        )
    none = sum(not any(relevant[query].get(one, 0) > 0 for one in found[query]) for query in relevant)
    if none == len(relevant):
        raise UserError(f"{path}: no query has a relevant document among its candidates; correct one of the files.")
    if none:
        log.warning("%s: %d of %d queries have no relevant candidate, and score 0", path, none, len(relevant))
    return found


def _texts(path: Path) -> Dataset:
    """Columns id, title and text; a text or title that is null is empty. Raises: UserError."""

    def rows() -> Iterator[reader.Row]:
        for number, row in reader.read(path):
            where = f"{path}, row {number}"
            name = next((name for name in ("_id", "id") if name in row), "_id")
            made = {"id": reader.identifier(row, name, where), "title": ""}
            for field in ("title", "text") if "title" in row else ("text",):
                made[field] = "" if row.get(field, "") is None else reader.text(row, field, where)
            yield made

    found = _dataset(rows(), path)
    ids = found["id"][:]
    if len(set(ids)) < len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise UserError(f"{path}: two rows have the id {twice!r}; each needs one of its own.")
    return found


def _dataset(rows: Iterator[reader.Row], path: Path) -> Dataset:
    """All rows, which have the same fields, in Arrow's memory and no cache. Raises: UserError when there is none."""
    import pyarrow as pa

    parts = []
    while chunk := list(islice(rows, CHUNK)):
        parts.append(pa.Table.from_pylist(chunk))
    if not parts:
        raise UserError(f"{path}: holds no row.")
    return Dataset(pa.concat_tables(parts))

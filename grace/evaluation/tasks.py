"""Rule `tasks`: the demo's own evaluation data, from the held-out test and validation splits.

The data depends on the splits and the seed only, never on a model. Texts are stored once, in `test` and `validation`;
the tasks name them by index. The STS task is a proxy that nobody judged: its similarity is how near two texts lie in
the module tree (0: another package, 1: the same package, 2: the same module).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace.config import specs
from grace.config.section import UserError
from grace.jobs import manifest, stage
from grace.jobs.files import write_json
from grace.jobs.reader import read_jsonl

FIELDS = ("id", "query", "positive", "label", "sublabel")
NEGATIVES = 20  # per query of the reranking task
STS_PAIRS = 400  # at most, of each of the three scores
STS_ROWS = 2000  # rows that pairs are drawn from: all pairs of more would not fit in memory
CHOICES = 4  # descriptions to choose from
MAX_SETS, MIN_SETS, SET_ROWS = 10, 5, 100  # clustering: disjoint sets, so that their scores are independent
CHARACTERS = 400  # of a text: beyond the demo's training windows of 128 tokens a score would measure its positions

Row = dict[str, Any]


def build(test: list[Row], validation: list[Row], seed: int) -> dict[str, Any]:
    """The data of all tasks.

    Args:
        test: rows with query, positive, label (package) and sublabel (module), as are those of
        validation: which the classifier is trained on, and whose texts measure generation.
        seed: of every draw.

    Returns:
        `test` and `validation` (query, positive, label, sublabel per row) and the tasks' items: `reranking`
        {row: negative rows}, `pairs` [query row, positive row, 0 or 1], `sts` [row, row, 0 | 1 | 2],
        `clustering` [rows per set], `classification` {train: validation rows, test: test rows, labels},
        `perplexity` [texts], `choice` [{query, choices, answer}], `rationale` [texts].

    Raises:
        UserError: naming `data.test` or `data.validation` when the split is too small for a task.
    """
    labels = [row["label"] for row in test]

    def rng(name: str) -> np.random.Generator:  # one stream per task: a change of one leaves the others alone
        return np.random.default_rng([seed, *name.encode()])

    return {
        "test": [{field: row[field] for field in FIELDS[1:]} for row in test],
        "validation": [{field: row[field] for field in FIELDS[1:]} for row in validation],
        "reranking": _reranking(labels, rng("reranking")),
        "pairs": _pairs(labels, rng("pairs")),
        "sts": _sts(labels, [row["sublabel"] for row in test], rng("sts")),
        "clustering": _clustering(labels, rng("clustering")),
        "classification": _classification(labels, [row["label"] for row in validation]),
        "perplexity": [_cut(row["positive"]) for row in validation],
        "choice": _choice(validation, rng("choice")),
        "rationale": [validation[i]["positive"] for i in rng("rationale").permutation(len(validation)).tolist()],
    }


def _too_small(key: str, need: str) -> UserError:
    return UserError(f"config: data.{key}: the {key} split is too small, {need}; raise data.{key} or data.max_rows.")


def _others(labels: list[str], count: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """For each row up to `count` others of its label, without repetition."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label].append(index)
    for index, label in enumerate(labels):
        others = [other for other in groups[label] if other != index]
        yield rng.permutation(others)[:count].tolist() if others else []


def _reranking(labels: list[str], rng: np.random.Generator) -> dict[str, list[int]]:
    items = {str(i): others for i, others in enumerate(_others(labels, NEGATIVES, rng)) if others}
    if not items:
        raise _too_small("test", "reranking needs two rows of one package")
    return items


def _pairs(labels: list[str], rng: np.random.Generator) -> list[list[int]]:
    pairs: list[list[int]] = []
    for i, others in enumerate(_others(labels, 1, rng)):
        for other in others:
            pairs += [[i, i, 1], [i, other, 0]]
    if not pairs:
        raise _too_small("test", "pair classification needs two rows of one package")
    return pairs


def _sts(labels: list[str], modules: list[str], rng: np.random.Generator) -> list[list[int]]:
    """Pairs of rows, as many of each proximity as there are, up to STS_PAIRS."""
    label, module = np.asarray(labels), np.asarray(modules)
    rows = np.sort(rng.permutation(len(labels))[:STS_ROWS])
    first, second = (rows[side] for side in np.triu_indices(len(rows), k=1))
    same = label[first] == label[second]
    score = same.astype(int) + (same & (module[first] == module[second]))
    items: list[list[int]] = []
    for value in (0, 1, 2):
        where = np.flatnonzero(score == value)
        chosen = rng.choice(where, size=min(STS_PAIRS, len(where)), replace=False) if len(where) else where
        items += [[int(first[k]), int(second[k]), value] for k in chosen]
    if len({item[2] for item in items}) < 2:
        raise _too_small("test", "the STS proxy needs pairs of two proximities")
    return items


def _clustering(labels: list[str], rng: np.random.Generator) -> list[list[int]]:
    """Disjoint random sets of rows. A set of one label would score 1 by definition, so it is refused."""
    count = min(MAX_SETS, max(MIN_SETS, len(labels) // SET_ROWS))
    sets = [part.tolist() for part in np.array_split(rng.permutation(len(labels)), count)]
    if any(len({labels[i] for i in part}) < 2 or len(part) < 4 for part in sets):
        raise _too_small("test", f"clustering needs {count} sets of at least 4 rows from two packages each")
    return sets


def _classification(test: list[str], validation: list[str]) -> dict[str, Any]:
    labels = sorted(set(test) & set(validation))  # an unseen label cannot be learnt
    if len(labels) < 2:
        raise _too_small("validation", "classification needs two packages that are in both test and validation")
    return {
        "labels": labels,
        "train": [i for i, label in enumerate(validation) if label in labels],
        "test": [i for i, label in enumerate(test) if label in labels],
    }


def _choice(rows: list[Row], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Which of four descriptions from one package belongs to the query?"""
    items = []
    for index, others in enumerate(_others([row["label"] for row in rows], CHOICES - 1, rng)):
        if len(others) == CHOICES - 1:
            order = rng.permutation([index, *others]).tolist()
            choices = [_cut(rows[i]["positive"]) for i in order]
            items.append({"query": rows[index]["query"], "choices": choices, "answer": order.index(index)})
    if not items:
        raise _too_small("validation", f"multiple choice needs {CHOICES} rows of one package")
    return items


def _cut(text: str) -> str:
    """The first CHARACTERS characters, ending with a whole word."""
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rsplit(None, 1)[0]


def load(paths: list[Path], rows: int | None = None) -> dict[str, Any] | None:
    """The task data, from none or one file; of a draw of `rows` of each split, the same for all, where given.

    Raises:
        UserError: when it is cut off or not what `tasks` writes, or so few rows make no tasks.
    """
    if not paths:
        return None
    data = manifest.read_result(paths[0])
    if missing := [key for key in ("test", "validation", "sts", "choice") if key not in data]:
        raise UserError(f"{paths[0]}: no task data ({missing[0]!r} is missing); give the file of the rule `tasks`.")
    if rows is None:
        return data
    seed = data["manifest"]["settings"]["seed"]

    def drawn(part: str) -> list[Row]:
        places = np.random.default_rng([seed, *part.encode()]).permutation(len(data[part]))[:rows]
        return [data[part][i] for i in np.sort(places).tolist()]

    try:
        return build(drawn("test"), drawn("validation"), seed)
    except UserError as error:
        reason = str(error).removeprefix("config: ")
        raise UserError(f"config: evaluation.rows: {rows} are too few: {reason}") from None


def by_hash(path: Path | str) -> list[Row]:
    """Held-out rows {id, query, positive} with distinct documents, by the BLAKE2b digest of the document (`positive`).

    Of rows with equal documents the first in the file is taken, so the order depends on the rows alone.

    Raises:
        UserError: naming file and row, for a row that lacks a field; or when there is no row.
    """
    found: dict[bytes, Row] = {}
    for row in read_jsonl(path, need=("id", "query", "positive")):
        found.setdefault(hashlib.blake2b(row["positive"].encode("utf-8", "surrogatepass")).digest(), row)
    if not found:
        raise UserError(f"{path}: holds no rows; raise data.test, so that rows are held out.")
    return [found[digest] for digest in sorted(found)]


@stage.entry(specs.TasksSpec, inputs=("test", "validation"), outputs=("out",))
def main(spec: specs.TasksSpec, paths: SimpleNamespace) -> None:
    test, validation = (list(read_jsonl(path, need=FIELDS)) for path in (paths.test, paths.validation))
    data = build(test, validation, spec.seed)
    record = manifest.make("tasks", spec, [paths.test, paths.validation], paths.started)
    write_json(paths.out, {"manifest": record, **data})


if __name__ == "__main__":
    main()

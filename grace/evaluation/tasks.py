"""Rule `tasks`: the demo's own evaluation data, from the held-out test and validation splits.

The data depends on the splits and the seed only, never on a model, so every run is measured on the
same items. Texts are stored once, in `test` and `validation`; the tasks name them by index.

The STS task is a proxy: no person judged these pairs. Its "similarity" is how near two texts lie in
the module tree (0: another package, 1: the same package, 2: the same module).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, specs, stage
from grace.files import write_json
from grace.reader import read_jsonl
from grace.section import UserError

FIELDS = ("id", "query", "positive", "label", "sublabel")
NEGATIVES = 20  # per query of the reranking task
STS_PAIRS = 400  # at most, of each of the three scores
STS_ROWS = 2000  # rows that pairs are drawn from: all pairs of more would not fit in memory
CHOICES = 4  # descriptions to choose from
MAX_SETS, MIN_SETS, SET_ROWS = 10, 5, 100  # clustering: disjoint sets, so that their scores are independent
# The demo's backbone is trained on windows of 128 tokens; what lies beyond would measure its
# positions and not its language.
CHARACTERS = 400

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
    groups = _groups(labels)

    def rng(name: str) -> np.random.Generator:  # one stream per task: a change of one leaves the others alone
        return np.random.default_rng([seed, *name.encode()])

    keep = FIELDS[1:]
    return {
        "test": [{field: row[field] for field in keep} for row in test],
        "validation": [{field: row[field] for field in keep} for row in validation],
        "reranking": _reranking(labels, groups, rng("reranking")),
        "pairs": _pairs(labels, groups, rng("pairs")),
        "sts": _sts(labels, [row["sublabel"] for row in test], rng("sts")),
        "clustering": _clustering(labels, rng("clustering")),
        "classification": _classification(labels, [row["label"] for row in validation]),
        "perplexity": [_cut(row["positive"]) for row in validation],
        "choice": _choice(validation, rng("choice")),
        "rationale": [validation[i]["positive"] for i in rng("rationale").permutation(len(validation)).tolist()],
    }


def _too_small(key: str, need: str) -> UserError:
    return UserError(f"config: data.{key}: the {key} split is too small, {need}; raise data.{key} or data.max_rows.")


def _groups(labels: list[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label].append(index)
    return dict(groups)


def _others(index: int, members: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` other members of the group, without repetition."""
    others = [other for other in members if other != index]
    return rng.permutation(others)[:count].tolist() if others else []


def _reranking(labels: list[str], groups: dict[str, list[int]], rng: np.random.Generator) -> dict[str, list[int]]:
    items = {str(i): _others(i, groups[label], NEGATIVES, rng) for i, label in enumerate(labels)}
    items = {key: value for key, value in items.items() if value}
    if not items:
        raise _too_small("test", "reranking needs two rows of one package")
    return items


def _pairs(labels: list[str], groups: dict[str, list[int]], rng: np.random.Generator) -> list[list[int]]:
    pairs: list[list[int]] = []
    for i, label in enumerate(labels):
        for other in _others(i, groups[label], 1, rng):
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
    groups = _groups([row["label"] for row in rows])
    items = []
    for index, row in enumerate(rows):
        others = _others(index, groups[row["label"]], CHOICES - 1, rng)
        if len(others) < CHOICES - 1:
            continue
        order = rng.permutation([index, *others]).tolist()
        items.append(
            {
                "query": row["query"],
                "choices": [_cut(rows[i]["positive"]) for i in order],
                "answer": order.index(index),
            }
        )
    if not items:
        raise _too_small("validation", f"multiple choice needs {CHOICES} rows of one package")
    return items


def _cut(text: str) -> str:
    """The first CHARACTERS characters, ending with a whole word."""
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rsplit(None, 1)[0]


def read_split(path: Path) -> list[Row]:
    """Rows of a split. Raises: UserError naming file and row for a missing field."""
    return list(read_jsonl(path, need=FIELDS))


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


@stage.entry(specs.TasksSpec, inputs=("test", "validation"), outputs=("out",))
def main(spec: specs.TasksSpec, paths: SimpleNamespace) -> None:
    data = build(read_split(paths.test), read_split(paths.validation), spec.seed)
    record = manifest.make("tasks", spec, [paths.test, paths.validation], paths.started)
    write_json(paths.out, {"manifest": record, **data})


if __name__ == "__main__":
    main()

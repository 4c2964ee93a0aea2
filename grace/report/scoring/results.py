"""Result files: what they hold, and what is wrong with them, as problems instead of errors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.jobs import manifest
from grace.report.scoring import bootstrap

# To delete the file would not do: snakemake does not miss a result whose table is there.
FORCED = "again with snakemake --force and its path, then run snakemake as before"
AGAIN = f"make it {FORCED}"
HARMLESS = ("unhashed", "tied")  # kinds of problems beside which a difference still counts
WELL_FORMED = "well_formed"  # the well-formed rate of rationales, beside the general tasks
GEOMETRY = ("random_pair_cosine", "uniformity", "alignment", "effective_rank", "width")  # names in a result
Items = dict[str, Any]


class Problem(NamedTuple):
    """What is wrong with a result file, or with one task of it (`task`).

    kind: broken (nothing of it can be used), score (not a number), duplicated, absent, version, edited, unhashed,
    weights, items, answers (most replies hold none) or tied (equal scores decide some of it). text: a
    sentence that says what to do.
    """

    path: str
    task: str | None
    kind: str
    text: str


class Entry(NamedTuple):
    """A task of a result file: its score, and its items as `grace.evaluation.mteb_scores` keeps them."""

    name: str
    score: float
    items: Items | None
    category: str | None = None


class Score(NamedTuple):
    """A task's score of one seed: 0 to 1 (or a perplexity), its resamples [R] if it has items, its file."""

    point: float
    samples: np.ndarray | None
    source: str


@dataclass
class Seed:
    """The results of one trained model.

    scores: also the numbers of a result's geometry, under `geometry(name)`. tokens: per result file, mean length of its
    rationales and their number. files: that could be used; missing: that are not there. limited: whether a general
    result is of some items of its tasks only. samples: MTEB task -> what part of it was drawn, as "500 of 1,379 pairs".
    rationales: hash of those behind a general result.
    """

    seed: int
    scores: dict[str, Score] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[float, int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    limited: bool = False
    samples: dict[str, str] = field(default_factory=dict)
    rationales: str | None = None

    @property
    def unusable(self) -> list[str]:
        """Files that are missing or of no use."""
        return self.missing + [one.path for one in self.problems if one.kind == "broken"]

    @property
    def mean_tokens(self) -> float | None:
        """Mean length of the rationales over all files; None when a file is missing or holds no rationales."""
        total = sum(count for _, count in self.tokens.values())
        if not total or self.unusable:
            return None
        return sum(mean * count for mean, count in self.tokens.values()) / total

    def problems_of(self, names: Iterable[str]) -> list[Problem]:
        """The problems that bear on a number made of the tasks `names`."""
        names = set(names)
        read = {self.scores[name].source for name in names if name in self.scores}
        whole = names <= self.scores.keys()
        return [
            one
            for one in self.problems
            if one.task in names or (one.task is None and (one.path in read or (one.kind == "broken" and not whole)))
        ]


class File(NamedTuple):
    """A result of a model. package, version: what scored it."""

    path: str
    seed: Seed
    entries: list[Entry]
    package: str
    version: str | None
    revision: str | None


def geometry(name: str) -> str:
    """The name under which a number of GEOMETRY stands among a model's scores."""
    return f"geometry.{name}"


def read(path: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """A result file, None when nothing of it can be used, and what is wrong with it as a whole.

    Raises:
        FileNotFoundError: when it is not there.
    """
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    def broken(reason: str) -> tuple[None, list[Problem]]:
        return None, [Problem(path, None, "broken", f"{path} {reason}, so nothing of it is shown: {AGAIN}.")]

    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError):  # also of JSON and UTF-8
        return broken("is not whole (broken JSON)")
    except OSError as error:
        return broken(f"cannot be read ({error.strerror})")
    if not isinstance(result, dict) or not isinstance(result.get("manifest"), dict):
        return broken("has no manifest and is no result of this workflow")
    problems = []
    if not result["manifest"].get("content"):
        text = f"{path} holds no hash of its content, so that an edit by hand would not show: {AGAIN}."
        problems.append(Problem(path, None, "unhashed", text))
    elif _edited(result):
        text = f"{path} was edited after it was made (its manifest's hash is of another content): {AGAIN}."
        problems.append(Problem(path, None, "edited", text))
    for key in dict.fromkeys(repeated):
        task = key if key in _mapping(result.get("tasks")) else None
        text = f"{path} holds {key!r} twice, and which of the two counts cannot be known: {AGAIN}."
        problems.append(Problem(path, task, "duplicated", text))
    return result, problems


def _edited(result: dict[str, Any]) -> bool:
    try:
        return manifest.edited(result)
    except ValueError:  # it holds a NaN, which no stage writes
        return True


def add(one: Seed, path: str) -> File | None:
    """Add what a result of `evaluate` or `general` holds, but its scores, to its model.

    Returns:
        None when nothing of it can be used.
    """
    try:
        result, problems = read(path)
    except FileNotFoundError:
        one.missing.append(path)
        return None
    one.problems += problems
    if result is None:
        return None
    made, rationale, tasks = result["manifest"], _mapping(result.get("rationale")), result.get("tasks")
    entries: list[Entry] = []
    if isinstance(tasks, dict):
        entries, problems = _entries(path, result)
        one.problems += problems
    else:
        text = f"{path} holds no tasks, so nothing of it is shown: {AGAIN}."
        one.problems.append(Problem(path, None, "broken", text))
    one.files.append(path)
    one.categories |= {entry.name: entry.category for entry in entries if entry.category}
    mean, texts = rationale.get("mean_tokens"), rationale.get("texts")
    if "geometry" not in result:  # of `general`
        one.rationales = _text(rationale.get("digest")) or one.rationales
    elif is_number(mean) and is_number(texts) and texts > 0:
        one.tokens[path] = float(mean), int(texts)
    general = _mapping(_mapping(made.get("settings")).get("general"))
    one.limited |= general.get("limit") is not None or bool(general.get("limits"))
    for name, entry in _mapping(tasks).items():
        if drawn := _mapping(_mapping(entry).get("sample")):
            one.samples[name] = " and ".join(f"{part:,} of {of:,} {what}" for what, (part, of) in drawn.items())
    package = "lm_eval" if made.get("stage") == "general" else "mteb"
    version, revision = _text(_mapping(made.get("versions")).get(package)), _text(made.get("revision"))
    return File(path, one, entries, package, version, revision)


def _entries(path: str, result: dict[str, Any]) -> tuple[list[Entry], list[Problem]]:
    found, problems = [], []
    for name, score, items, category in _scores(result):
        about = _mapping(result["tasks"].get(name))
        if not is_number(score):
            shown = repr(score) if len(repr(score)) <= 20 else repr(score)[:19] + "…"
            said = "is undefined" if score is None else f"is not a number ({shown})"
            text = (
                f"{path}: the score of {name} {said} and is not shown: {AGAIN}; if it stays so, see whether all "
                "embeddings of this model are one."
            )
            problems.append(Problem(path, name, "score", text))
            continue
        if items is not None and (reason := _unusable(items)):
            text = f"{path}: the items of {name} {reason}, so that there is no interval: {AGAIN}."
            problems.append(Problem(path, name, "items", text))
            items = None
        silent = about.get("no_answer")
        count = sum(len(part["values"]) for part in items["parts"]) if items is not None else 0
        if items is not None and is_number(silent) and 2 * silent > count:
            text = (
                f"{path}: {silent} of {count} replies to {name} hold no answer, so that its score says nothing of what "
                'the model knows: docs/general.md, "Replies without an answer".'
            )
            problems.append(Problem(path, name, "answers", text))
        tied = about.get("tied")
        if is_number(tied) and tied:
            text = (
                f"{path}: equal scores of documents decide the score of {100 * tied:.3g} % of the queries of {name}, "
                "by the documents' ids: texts occur twice, or embeddings are one."
            )
            problems.append(Problem(path, name, "tied", text))
        found.append(Entry(name, float(score), items, category))
    return found, problems


def _scores(result: dict[str, Any]) -> Iterator[tuple[str, Any, Any, str | None]]:
    """Name, score, items and category of each task, and of the geometry or the well-formed rate beside them."""
    for name, entry in result["tasks"].items():
        entry = _mapping(entry)
        score = entry.get("score" if entry.get("category") is None else "main_score")
        yield name, score, entry.get("items"), _text(entry.get("category"))
    about, rationale = _mapping(result.get("geometry")), _mapping(result.get("rationale"))
    for name in GEOMETRY:
        if name in about:
            values = _mapping(about.get("items")).get(name)
            items = None if values is None else {"statistic": "mean", "parts": [{"values": values}]}
            yield geometry(name), about[name], items, None
    if "geometry" not in result and "well_formed_share" in rationale:
        yield WELL_FORMED, rationale["well_formed_share"], rationale.get("items"), None


def _unusable(items: Any) -> str | None:
    """Why items cannot be resampled."""
    if not isinstance(items, dict) or items.get("statistic") not in bootstrap.STATISTICS:
        return "are of no known statistic"
    parts = items.get("parts")
    if not isinstance(parts, list) or not parts:
        return "are missing"
    for part in map(_mapping, parts):
        values, gold = part.get("values"), part.get("gold")
        for side in (values, gold) if items["statistic"] != "mean" else (values,):
            if not isinstance(side, list) or not side or len(side) != len(values or []):
                return "are not whole"
            if not all(map(is_number, side)):
                return "are not all numbers"
    return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Any:
    """A dictionary, empty where there is none."""
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

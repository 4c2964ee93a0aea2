"""Result files as they lie there: what they hold, and what is wrong with them, said instead of raised."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from grace import manifest

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
    """A task of a result file: its score, and its items as `grace.evaluation.items` keeps them."""

    name: str
    score: float
    items: Items | None
    category: str | None = None


def geometry(name: str) -> str:
    """The name under which a number of GEOMETRY stands among a model's scores."""
    return f"geometry.{name}"


def read(path: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """A result file, None when nothing of it can be used, and what is wrong with it as a whole.

    Raises:
        FileNotFoundError: when it is not there.
    """
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            twice.extend(key for key, times in Counter(key for key, _ in found).items() if times > 1)
        return made

    def broken(reason: str) -> tuple[None, list[Problem]]:
        return None, [Problem(path, None, "broken", f"{path} {reason}, so nothing of it is shown: {AGAIN}.")]

    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError):  # also of JSON and UTF-8
        return broken("is not whole (broken JSON)")
    except OSError as error:
        return broken(f"cannot be read ({error.strerror})")
    if not isinstance(result, dict) or not isinstance(result.get("manifest"), dict):
        return broken("has no manifest and is no result of this workflow")
    problems = [*_hash(path, result)]
    for key in dict.fromkeys(twice):
        task = key if isinstance(result.get("tasks"), dict) and key in result["tasks"] else None
        text = f"{path} holds {key!r} twice, and which of the two counts cannot be known: {AGAIN}."
        problems.append(Problem(path, task, "duplicated", text))
    return result, problems


def _hash(path: str, result: dict[str, Any]) -> Iterator[Problem]:
    if not result["manifest"].get("content"):
        text = f"{path} holds no hash of its content, so that an edit by hand would not show: {AGAIN}."
        yield Problem(path, None, "unhashed", text)
        return
    try:
        edited = manifest.edited(result)
    except ValueError:  # it holds a NaN, which no stage writes
        edited = True
    if edited:
        text = f"{path} was edited after it was made (its manifest's hash is of another content): {AGAIN}."
        yield Problem(path, None, "edited", text)


def entries(path: str, result: dict[str, Any]) -> tuple[list[Entry], list[Problem]]:
    """The tasks of a result of `evaluate` or `general`; those that cannot be shown are problems instead."""
    found, problems = [], []
    tasks = result.get("tasks")
    if not isinstance(tasks, dict):
        text = f"{path} holds no tasks, so nothing of it is shown: {AGAIN}."
        return [], [Problem(path, None, "broken", text)]
    for name, score, items, category in [*_tasks(tasks), *_beside(result)]:
        if not _is_number(score):
            said = "is undefined" if score is None else f"is not a number ({_short(score)})"
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
        if items is not None and (silent := _unanswered(name, tasks.get(name), items)):
            problems.append(Problem(path, name, "answers", f"{path}: {silent}"))
        if share := _tied(tasks.get(name)):
            text = (
                f"{path}: equal scores of documents decide the score of {100 * share:.3g} % of the queries of {name}, "
                "by the documents' ids: texts occur twice, or embeddings are one."
            )
            problems.append(Problem(path, name, "tied", text))
        found.append(Entry(name, float(score), items, category))
    return found, problems


def _unanswered(name: str, entry: Any, items: Items) -> str | None:
    """What a reader must know where most replies of a model hold no answer."""
    said: Any = entry.get("no_answer") if isinstance(entry, dict) else None
    count = sum(len(part["values"]) for part in items["parts"])
    if not _is_number(said) or 2 * said <= count:
        return None
    return (
        f"{said} of {count} replies to {name} hold no answer, so that its score says nothing of what the model knows: "
        'docs/general.md, "Replies without an answer".'
    )


def _tied(entry: Any) -> float:
    share: Any = entry.get("tied") if isinstance(entry, dict) else None
    return float(share) if _is_number(share) else 0.0


def _tasks(tasks: dict[str, Any]) -> Iterator[tuple[str, Any, Any, str | None]]:
    for name, entry in tasks.items():
        entry = entry if isinstance(entry, dict) else {}
        category = entry.get("category")
        score = entry.get("score") if category is None else entry.get("main_score")
        yield name, score, entry.get("items"), category if isinstance(category, str) else None


def _beside(result: dict[str, Any]) -> Iterator[tuple[str, Any, Any, None]]:
    """What stands beside the tasks: the geometry of `evaluate`, the well-formed rate of `general`."""
    about = result.get("geometry")
    if isinstance(about, dict):
        kept = about.get("items") if isinstance(about.get("items"), dict) else {}
        for name in GEOMETRY:
            if name in about:
                values = kept.get(name) if isinstance(kept, dict) else None
                items = None if values is None else {"statistic": "mean", "parts": [{"values": values}]}
                yield geometry(name), about[name], items, None
    said = result.get("rationale")
    if "geometry" not in result and isinstance(said, dict) and "well_formed_share" in said:
        yield WELL_FORMED, said["well_formed_share"], said.get("items"), None


def tokens(result: dict[str, Any]) -> tuple[float, int] | None:
    """Mean length in tokens of the rationales behind a result of `evaluate`, and their number."""
    said = result.get("rationale")
    if "geometry" not in result or not isinstance(said, dict):
        return None
    mean: Any = said.get("mean_tokens")
    texts: Any = said.get("texts")
    return (float(mean), int(texts)) if _is_number(mean) and _is_number(texts) and texts > 0 else None


def writing(result: dict[str, Any]) -> str | None:
    """The hash of the tokens of the rationales behind a result of `general`; None where it has none."""
    said = result.get("rationale")
    found = said.get("digest") if "geometry" not in result and isinstance(said, dict) else None
    return found if isinstance(found, str) else None


def limited(result: dict[str, Any]) -> bool:
    """Whether a result of `general` was made with some items of its tasks only."""
    settings = result["manifest"].get("settings")
    general = settings.get("general") if isinstance(settings, dict) else None
    return isinstance(general, dict) and (general.get("limit") is not None or bool(general.get("limits")))


def samples(result: dict[str, Any]) -> dict[str, str]:
    """Of the tasks of a result of `evaluate` of which a part was drawn: "500 of 1,379 pairs"."""
    tasks: Any = result.get("tasks")
    if not isinstance(tasks, dict):
        return {}
    found = {name: entry.get("sample") for name, entry in tasks.items() if isinstance(entry, dict)}
    return {
        name: " and ".join(f"{part:,} of {of:,} {what}" for what, (part, of) in drawn.items())
        for name, drawn in found.items()
        if isinstance(drawn, dict) and drawn
    }


def scorer(result: dict[str, Any]) -> tuple[str, str | None]:
    """The package that scored a result, and its version."""
    package = "lm_eval" if result["manifest"].get("stage") == "general" else "mteb"
    versions = result["manifest"].get("versions")
    version = versions.get(package) if isinstance(versions, dict) else None
    return package, version if isinstance(version, str) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unusable(items: Any) -> str | None:
    """Why items cannot be resampled."""
    from grace.report.scoring import bootstrap

    if not isinstance(items, dict) or items.get("statistic") not in bootstrap.STATISTICS:
        return "are of no known statistic"
    parts = items.get("parts")
    if not isinstance(parts, list) or not parts:
        return "are missing"
    for part in parts:
        values = part.get("values") if isinstance(part, dict) else None
        gold = part.get("gold") if isinstance(part, dict) else None
        for side in (values, gold) if items["statistic"] != "mean" else (values,):
            if not isinstance(side, list) or not side or len(side) != len(values or []):
                return "are not whole"
            if not all(map(_is_number, side)):
                return "are not all numbers"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else text[:19] + "…"

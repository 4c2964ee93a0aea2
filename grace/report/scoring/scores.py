"""From result files to estimates: a score, its interval, its difference to another run, its seeds.

Every cell of a table is a weighted mean of task scores. Runs are resampled together, item by item
within each task; over seeds the mean is taken after resampling, so seeds share their items too.
What is wrong with a file is no error here: it is a problem of the models that read it (`Models.problems`).
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grace import specs
from grace.report.scoring import bootstrap, results
from grace.report.scoring.models import Models, Score, Seed
from grace.report.scoring.results import WELL_FORMED, Entry, Problem

__all__ = ["WELL_FORMED", "Estimate", "Models", "Problem", "Score", "Seed", "difference", "estimate", "load", "tokens"]
log = logging.getLogger(__name__)


@dataclass
class Estimate:
    """A cell: mean over its seeds; samples [R] or None; `deviation` between seeds when there are two."""

    point: float
    samples: np.ndarray | None
    seeds: int
    deviation: float | None
    sources: list[str]
    problems: list[Problem] = field(default_factory=list)  # of all seeds, also those that it leaves out

    @property
    def interval(self) -> tuple[float, float] | None:
        return _interval(self.samples)


@dataclass
class _Read:
    """A result file that can be used, and the model that it is of."""

    path: str
    seed: Seed
    package: str
    version: str | None
    revision: str | None


def load(cells: list[specs.Cell], resamples: int, seed: int = 0) -> Models:
    """All results of a study, resampled.

    Returns:
        (backbone, run) -> its seeds. A result file that does not exist leaves its tasks out of `scores` and
        stands in `missing`; all else that is wrong stands in `problems`, and what cannot be trusted to be one
        number (not a number, or there twice) is left out of `scores`.
    """
    models, files = Models(), list[_Read]()
    # Of one backbone, since another may be evaluated on part of the rows; the draws are the same where the items are.
    raw: dict[tuple[str, str], list[tuple[Seed, Entry, str]]] = {}
    for cell in cells:
        one = Seed(cell.seed)
        models.setdefault((cell.backbone, cell.run), []).append(one)
        found: dict[str, list[tuple[Entry, str]]] = {}
        read = [_read(one, path, found) for path in dict.fromkeys(cell.results)]
        _mark_weights([file for file in read if file])
        files += [file for file in read if file]
        for name, entries in found.items():
            unusable = [problem.path for problem in one.problems if (problem.kind, problem.task) == ("score", name)]
            paths = list(dict.fromkeys([path for _, path in entries] + unusable))
            if len(paths) > 1:
                one.problems.append(Problem(paths[-1], name, "duplicated", _twice(name, paths)))
            elif not any(problem.kind == "duplicated" and problem.task == name for problem in one.problems):
                raw.setdefault((cell.backbone, name), []).append((one, *entries[0]))
    _mark_versions(files)
    for (_, name), taken in raw.items():
        log.info("resampling %s of %d models", name, len(taken))
        for (one, entry, path), samples in zip(taken, _resampled(name, taken, resamples, seed), strict=True):
            one.scores[name] = Score(entry.score, samples, path)
    return models


def _read(one: Seed, path: str, found: dict[str, list[tuple[Entry, str]]]) -> _Read | None:
    """Adds a file's tasks to `found` and its other content to its model."""
    try:
        result, problems = results.read(path)
    except FileNotFoundError:
        one.missing.append(path)
        return None
    one.problems += problems
    if result is None:
        return None
    entries, problems = results.entries(path, result)
    one.problems += problems
    for entry in entries:
        found.setdefault(entry.name, []).append((entry, path))
        if entry.category:
            one.categories[entry.name] = entry.category
    one.files.append(path)
    one.limited |= results.limited(result)
    one.samples |= results.samples(result)
    if said := results.tokens(result):
        one.tokens[path] = said
    one.writing = results.writing(result) or one.writing
    revision = result["manifest"].get("revision")
    return _Read(path, one, *results.scorer(result), revision if isinstance(revision, str) else None)


def _twice(name: str, paths: list[str]) -> str:
    return (
        f"{name} stands in {' and in '.join(paths)}, and none of them is shown: delete the file that does not belong "
        "there, or list the task in one group only, and run snakemake again."
    )


def _mark_weights(files: list[_Read]) -> None:
    """Files of one model that were made with other weights or settings than most; all where there is no most."""
    counts = Counter(file.revision for file in files).most_common(2)
    if len(counts) < 2:
        return
    usual = counts[0][0] if counts[0][1] > counts[1][1] else object()
    for file in files:
        if file.revision != usual:
            others = next(other.path for other in files if other.revision != file.revision)
            text = (
                f"{file.path} was made with other weights or settings than {others} of the same model: "
                f"make the older of the two {results.FORCED}."
            )
            file.seed.problems.append(Problem(file.path, None, "weights", text))


def _mark_versions(files: list[_Read]) -> None:
    """Files that another version of the scoring library made than most, or the older one where they are even."""
    for package in {file.package for file in files}:
        made = [file for file in files if file.package == package and file.version]
        counts = Counter(str(file.version) for file in made)
        if len(counts) < 2:
            continue
        usual = max(counts, key=lambda version: (counts[version], _order(version)))
        for file in made:
            if file.version != usual:
                text = (
                    f"{file.path} was scored with {package} {file.version}, most of this table with {usual}, so a "
                    f"difference may be one between versions: {results.AGAIN}."
                )
                file.seed.problems.append(Problem(file.path, None, "version", text))


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def _resampled(name: str, entries: list[tuple[Seed, Entry, str]], resamples: int, seed: int) -> list[np.ndarray | None]:
    """Per entry of one task its resampled scores [R]; None for one without items, or with others than most."""
    out: list[np.ndarray | None] = [None] * len(entries)
    items = {i: entry.items for i, (_, entry, _) in enumerate(entries) if entry.items}
    if not items:
        return out
    sizes = {i: tuple(len(part["values"]) for part in kept["parts"]) for i, kept in items.items()}
    parts = Counter(sizes.values()).most_common(1)[0][0]
    like = next(entries[i][2] for i in items if sizes[i] == parts)
    for i in [i for i in items if sizes[i] != parts]:
        one, _, path = entries[i]
        text = (
            f"{path}: {name} has {sum(sizes[i])} items and {like} has {sum(parts)}, so they cannot be paired and there "
            f"is no interval: make the older of the two {results.FORCED}."
        )
        one.problems.append(Problem(path, name, "items", text))
        del items[i]
    for i in items:
        out[i] = np.zeros(resamples)
    for number, size in enumerate(parts):
        start = 0
        prepared = {i: _prepare(kept["parts"][number]) for i, kept in items.items()}
        for drawn in bootstrap.counts(size, resamples, seed, f"{name}/{number}"):
            for i, kept in items.items():
                values, gold = prepared[i]
                score = bootstrap.statistic(kept["statistic"], values, gold, drawn)
                out[i][start : start + len(drawn)] += score / len(parts)  # type: ignore[index]
            start += len(drawn)
    return out


def _prepare(part: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray | None]:
    gold = part.get("gold")
    return np.asarray(part["values"], dtype=float), None if gold is None else np.asarray(gold, dtype=float)


def estimate(seeds: list[Seed], weights: dict[str, float], scale: float = 100.0) -> Estimate | None:
    """The weighted mean of task scores, times `scale`, over the seeds that have all of these tasks.

    Returns:
        None when no seed has them all: an average over fewer tasks would be another quantity.
    """
    whole = [one for one in seeds if weights and weights.keys() <= one.scores.keys()]
    if not whole:
        return None
    total = sum(weights.values())

    def mixed(one: Seed, pick: Any) -> Any:
        return scale * sum(weight * pick(one.scores[name]) for name, weight in weights.items()) / total

    sampled = all(one.scores[name].samples is not None for one in whole for name in weights)
    return over_seeds(
        [mixed(one, lambda score: score.point) for one in whole],
        np.mean([mixed(one, lambda score: score.samples) for one in whole], axis=0) if sampled else None,
        list(dict.fromkeys(one.scores[name].source for one in whole for name in weights)),
        [problem for one in seeds for problem in one.problems_of(weights)],
    )


def tokens(seeds: list[Seed]) -> Estimate | None:
    """Mean length of the rationales in tokens, over the seeds whose files are all there."""
    found = [figure for one in seeds if (figure := one.figure("mean_tokens")) is not None]
    problems = [problem for one in seeds for problem in one.problems if problem.task is None]
    sources = [path for _, paths in found for path in paths]
    return over_seeds([mean for mean, _ in found], None, sources, problems) if found else None


def over_seeds(
    points: list[float], samples: np.ndarray | None, sources: list[str], problems: list[Problem]
) -> Estimate:
    """The mean of what each seed gives; samples [R]: of that mean."""
    deviation = float(np.std(points, ddof=1)) if len(points) > 1 else None
    return Estimate(float(np.mean(points)), samples, len(points), deviation, sources, problems)


def difference(ours: Estimate, other: Estimate) -> tuple[float, tuple[float, float] | None]:
    """ours - other, with the interval of the paired resamples."""
    paired = None if ours.samples is None or other.samples is None else ours.samples - other.samples
    return ours.point - other.point, _interval(paired)


def _interval(samples: np.ndarray | None) -> tuple[float, float] | None:
    return None if samples is None or not np.isfinite(samples).any() else bootstrap.interval(samples)

"""From result files to estimates: a score, its interval, its difference to another run, its seeds.

Every cell of a table is a weighted mean of task scores. Runs are resampled together, item by item within each task; the
mean over seeds is taken after resampling, so seeds share their items too. What is wrong with a file is no error here:
it is a problem of the models that read it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from grace.config import specs
from grace.report.scoring import bootstrap, results
from grace.report.scoring.results import Entry, File, Problem, Score, Seed

log = logging.getLogger(__name__)
Interval = tuple[float, float]


class Models(dict[tuple[str, str], list[Seed]]):
    """(backbone, run) -> its seeds."""

    @property
    def backbones(self) -> list[str]:
        return list(dict.fromkeys(backbone for backbone, _ in self))

    @property
    def seeds(self) -> list[Seed]:
        """Of all models."""
        return [one for seeds in self.values() for one in seeds]

    @property
    def problems(self) -> list[Problem]:
        return list(dict.fromkeys(problem for one in self.seeds for problem in one.problems))

    @property
    def samples(self) -> dict[str, str]:
        """MTEB task -> what part of it was drawn, the same for all models."""
        return {name: part for one in self.seeds for name, part in one.samples.items()}

    @property
    def missing(self) -> list[str]:
        return sorted({path for one in self.seeds for path in one.missing})


@dataclass
class Estimate:
    """A number over seeds: their mean; samples [R] or None; `deviation` between seeds when there are two."""

    point: float
    samples: np.ndarray | None
    seeds: int
    deviation: float | None
    sources: list[str]
    problems: list[Problem] = field(default_factory=list)  # of all seeds, also those that it leaves out

    @property
    def interval(self) -> Interval | None:
        return _interval(self.samples)


# ---- reading --------------------------------------------------------------------------------


class _Taken(NamedTuple):
    """A task of one model."""

    seed: Seed
    entry: Entry
    path: str


def load(cells: list[specs.Cell], resamples: int, seed: int = 0) -> Models:
    """All results of a study, resampled.

    Returns:
        (backbone, run) -> its seeds. A result file that does not exist leaves its tasks out of `scores` and
        stands in `missing`; all else that is wrong stands in `problems`, and what cannot be trusted to be one
        number (not a number, or there twice) is left out of `scores`.
    """
    models, files = Models(), list[File]()
    # Of one backbone, since another may be evaluated on part of the rows; the draws are the same where the items are.
    tasks: dict[tuple[str, str], list[_Taken]] = {}
    for cell in cells:
        one = Seed(cell.seed)
        models.setdefault((cell.backbone, cell.run), []).append(one)
        own = [file for path in dict.fromkeys(cell.results) if (file := results.add(one, path))]
        _mark_weights(own)
        files += own
        held: dict[str, list[_Taken]] = {}
        for file in own:
            for entry in file.entries:
                held.setdefault(entry.name, []).append(_Taken(one, entry, file.path))
        for name, found in held.items():
            told = [problem for problem in one.problems if problem.task == name]
            paths = [taken.path for taken in found] + [problem.path for problem in told if problem.kind == "score"]
            paths = list(dict.fromkeys(paths))
            if len(paths) > 1:
                text = (
                    f"{name} stands in {' and in '.join(paths)}, and none of them is shown: delete the file that does "
                    "not belong there, or list the task in one group only, and run snakemake again."
                )
                one.problems.append(Problem(paths[-1], name, "duplicated", text))
            elif not any(problem.kind == "duplicated" for problem in told):
                tasks.setdefault((cell.backbone, name), []).append(found[0])
    _mark_versions(files)
    for (_, name), taken in tasks.items():
        log.info("resampling %s of %d models", name, len(taken))
        for (one, entry, path), samples in zip(taken, _resampled(name, taken, resamples, seed), strict=True):
            one.scores[name] = Score(entry.score, samples, path)
    return models


def _mark_weights(files: list[File]) -> None:
    """Files of one model that were made with other weights or settings than most; all where there is no most."""
    counts = Counter(file.revision for file in files).most_common(2)
    if len(counts) < 2:
        return
    usual = counts[0][0] if counts[0][1] > counts[1][1] else object()
    for file in files:
        if file.revision != usual:
            other = next(one.path for one in files if one.revision != file.revision)
            text = (
                f"{file.path} was made with other weights or settings than {other} of the same model: "
                f"make the older of the two {results.FORCED}."
            )
            file.seed.problems.append(Problem(file.path, None, "weights", text))


def _mark_versions(files: list[File]) -> None:
    """Files that another version of the scoring library made than most, or the older one where they are even."""

    def order(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())

    for package in {file.package for file in files}:
        made = [(file, file.version) for file in files if file.package == package]
        counts = Counter(version for _, version in made if version)
        usual = max(counts, key=lambda version: (counts[version], order(version)), default=None)
        for file, version in made:
            if version and version != usual:
                text = (
                    f"{file.path} was scored with {package} {version}, most of this table with {usual}, so a "
                    f"difference may be one between versions: {results.AGAIN}."
                )
                file.seed.problems.append(Problem(file.path, None, "version", text))


def _resampled(name: str, taken: list[_Taken], resamples: int, seed: int) -> list[np.ndarray | None]:
    """Per model its resampled scores [R] of one task; None for one without items, or with others than most."""
    sizes = {
        place: tuple(len(part["values"]) for part in entry.items["parts"])
        for place, (_, entry, _) in enumerate(taken)
        if entry.items
    }
    out: list[np.ndarray | None] = [None] * len(taken)
    if not sizes:
        return out
    usual = Counter(sizes.values()).most_common(1)[0][0]
    like = next(taken[place].path for place, size in sizes.items() if size == usual)
    paired: list[tuple[np.ndarray, Any]] = []
    for place, size in sizes.items():
        one, entry, path = taken[place]
        if size == usual:
            samples = out[place] = np.zeros(resamples)
            paired.append((samples, entry.items))
            continue
        text = (
            f"{path}: {name} has {sum(size)} items and {like} has {sum(usual)}, so they cannot be paired and there "
            f"is no interval: make the older of the two {results.FORCED}."
        )
        one.problems.append(Problem(path, name, "items", text))
    for number, count in enumerate(usual):
        arrays = []
        for samples, items in paired:
            values, gold = (items["parts"][number].get(side) for side in ("values", "gold"))
            gold = None if gold is None else np.asarray(gold, dtype=float)
            arrays.append((samples, items["statistic"], np.asarray(values, dtype=float), gold))
        start = 0
        for drawn in bootstrap.counts(count, resamples, seed, f"{name}/{number}"):
            for samples, statistic, values, gold in arrays:
                score = bootstrap.statistic(statistic, values, gold, drawn)
                samples[start : start + len(drawn)] += score / len(usual)
            start += len(drawn)
    return out


# ---- estimates ------------------------------------------------------------------------------


def estimate(seeds: list[Seed], weights: dict[str, float], scale: float = 100.0) -> Estimate | None:
    """The weighted mean of task scores, times `scale`, over the seeds that have all of these tasks.

    Returns:
        None when no seed has them all: an average over fewer tasks would be another quantity.
    """
    whole = [one for one in seeds if weights and weights.keys() <= one.scores.keys()]
    if not whole:
        return None
    total = sum(weights.values())

    def weighted(one: Seed, pick: Callable[[Score], Any]) -> Any:
        return scale * sum(weight * pick(one.scores[name]) for name, weight in weights.items()) / total

    sampled = all(one.scores[name].samples is not None for one in whole for name in weights)
    return over_seeds(
        [weighted(one, lambda score: score.point) for one in whole],
        np.mean([weighted(one, lambda score: score.samples) for one in whole], axis=0) if sampled else None,
        list(dict.fromkeys(one.scores[name].source for one in whole for name in weights)),
        [problem for one in seeds for problem in one.problems_of(weights)],
    )


def tokens(seeds: list[Seed]) -> Estimate | None:
    """Mean length of the rationales in tokens, over the seeds whose files are all there."""
    found = [(one, mean) for one in seeds if (mean := one.mean_tokens) is not None]
    problems = [problem for one in seeds for problem in one.problems if problem.task is None]
    sources = [path for one, _ in found for path in one.tokens]
    return over_seeds([mean for _, mean in found], None, sources, problems) if found else None


def over_seeds(
    points: list[float], samples: np.ndarray | None, sources: list[str], problems: list[Problem]
) -> Estimate:
    """The mean of what each seed gives; samples [R]: of that mean."""
    deviation = float(np.std(points, ddof=1)) if len(points) > 1 else None
    return Estimate(float(np.mean(points)), samples, len(points), deviation, sources, problems)


def difference(ours: Estimate, other: Estimate) -> tuple[float, Interval | None]:
    """ours - other, with the interval of the paired resamples."""
    paired = None if ours.samples is None or other.samples is None else ours.samples - other.samples
    return ours.point - other.point, _interval(paired)


def _interval(samples: np.ndarray | None) -> Interval | None:
    return None if samples is None or not np.isfinite(samples).any() else bootstrap.interval(samples)

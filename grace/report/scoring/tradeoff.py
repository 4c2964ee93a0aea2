"""Embeddings against generation: a run in a mode by each measure, what two runs differ by, what their trainings took.

All measures are shares from 0 to 1, or changes of such: nothing here is in percent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.config import tasks
from grace.config.plan import REFERENCE
from grace.config.specs import Cell, Point, Traded
from grace.paper import numbers
from grace.report.scoring import results
from grace.report.scoring.results import WELL_FORMED, Problem, is_number
from grace.report.scoring.scores import Estimate, Interval, Models, Seed, difference, estimate, load, over_seeds

PERPLEXITY = "docstring_perplexity"
# Measures, in the order of the columns; those of CHANGES are relative to the untrained backbone.
NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE = "ndcg", "embedding_mean", "well_formed", "perplexity_change"
GENERAL_CHANGE, COSINE = "general_change", "random_pair_cosine"
CHANGES = (PERPLEXITY_CHANGE, GENERAL_CHANGE)
FEWEST = 3  # backbones for an interval over them


class Difference(NamedTuple):
    """What two runs differ by on one backbone, or on several, each of which then counts once.

    interval: 95 %. Of one backbone, of the paired resamples; of several, Student's of the mean of their differences, as
    if the backbones were drawn from more of their kind. deviation: between seeds, or between backbones. pairs: the two
    runs on each backbone, over the seeds that both have.
    """

    gap: float
    interval: Interval | None
    deviation: float | None
    pairs: list[tuple[Estimate, Estimate]]

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(path for pair in self.pairs for one in pair for path in one.sources))

    @property
    def problems(self) -> list[Problem]:
        return list(dict.fromkeys(problem for pair in self.pairs for one in pair for problem in one.problems))


class Compute(NamedTuple):
    """What a model took to train; a number that is not known is None.

    seconds: of CPU, or of GPU, of all processes together, with `rationales`, its share of what the backbone took to
    write the rationales that it learnt from. read, written: tokens. device: cpu or gpu, None where nothing was trained.
    problems: sentences.
    """

    seconds: float | None = None
    rationales: float | None = None
    read: int | None = None
    written: int | None = None
    device: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trade:
    """The runs that are compared, each a point with a mode. costs: (backbone, run, seed) -> what its training took."""

    points: list[Point]
    tasks: list[str]
    embedding: Models
    general: Models
    costs: dict[tuple[str, str, int], Compute]

    @property
    def backbones(self) -> list[str]:
        return self.embedding.backbones

    def mode(self, run: str) -> str:
        """direct or reasoning."""
        return next(str(point.at["mode"]) for point in self.points if point.run == run)

    def of(self, run: str) -> str:
        """The run that a point is of: whose model it is."""
        return next(point.of for point in self.points if point.run == run)

    def planned(self, backbone: str, run: str) -> list[int]:
        """Seeds."""
        return [one.seed for one in self.embedding.get((backbone, run), [])]

    # ---- measures -----------------------------------------------------------------------

    @cached_property
    def accuracies(self) -> list[str]:
        """General tasks whose mean is the general average: the paper's six, or what stands in for them."""
        known = {name for one in self.general.seeds for name in one.scores}
        six = list(numbers.GENERAL.values())
        return six if known & {*six} else [name for name in tasks.DEMO_GENERAL if name in known and name != PERPLEXITY]

    @cached_property
    def has_perplexity(self) -> bool:
        return any(PERPLEXITY in one.scores for one in self.general.seeds)

    def value(self, measure: str, backbone: str, run: str, seeds: Iterable[int] | None = None) -> Estimate | None:
        """A run by a measure, over these seeds or all that have it; None when none has."""
        wanted = set(self.planned(backbone, run) if seeds is None else seeds)

        def of(models: Models, name: str) -> list[Seed]:
            return [one for one in models.get((backbone, name), []) if one.seed in wanted]

        if measure in CHANGES:
            return self._change(measure, of(self.general, run), of(self.general, REFERENCE))
        if measure == WRITING:
            return estimate(of(self.general, run), {WELL_FORMED: 1.0}, 1.0)
        names = {
            NDCG: [name for name in self.tasks if tasks.CATEGORY[name] == "Retrieval"],
            EMBEDDING: self.tasks,
            COSINE: [results.geometry(COSINE)],
        }[measure]
        return estimate(of(self.embedding, run), dict.fromkeys(names, 1.0), 1.0)

    def _change(self, measure: str, ours: list[Seed], others: list[Seed]) -> Estimate | None:
        """Of the perplexity its ratio to the untrained backbone's less one, of the general average the difference."""
        ratio = measure == PERPLEXITY_CHANGE
        weights = dict.fromkeys([PERPLEXITY] if ratio else self.accuracies, 1.0)
        pairs = []
        for one in ours:
            mine = estimate([one], weights, 1.0)
            base = estimate([other for other in others if other.seed == one.seed], weights, 1.0)
            if mine and base:
                pairs.append((mine, base))
        if not pairs:
            return None

        def change(mine: Any, base: Any) -> Any:
            return mine / base - 1 if ratio else mine - base

        sampled = all(one.samples is not None for pair in pairs for one in pair)
        return over_seeds(
            [change(mine.point, base.point) for mine, base in pairs],
            np.mean([change(mine.samples, base.samples) for mine, base in pairs], axis=0) if sampled else None,
            list(dict.fromkeys(path for mine, _ in pairs for path in mine.sources)),
            list(dict.fromkeys(problem for pair in pairs for one in pair for problem in one.problems)),
        )

    def effect(self, measure: str, backbone: str, run: str, other: str) -> Difference | None:
        """Two runs by a measure over the seeds that have both; None when none has."""
        gaps = {}
        for seed in self.planned(backbone, run):
            if seed in self.planned(backbone, other):
                one, two = (self.value(measure, backbone, name, [seed]) for name in (run, other))
                if one and two:
                    gaps[seed] = one.point - two.point
        ours, theirs = (self.value(measure, backbone, name, gaps) for name in (run, other))
        if not ours or not theirs:
            return None
        deviation = float(np.std(list(gaps.values()), ddof=1)) if len(gaps) > 1 else None
        return Difference(*difference(ours, theirs), deviation, [(ours, theirs)])

    def across(self, measure: str, run: str, other: str) -> Difference | None:
        """Two runs on all backbones that have both; None for fewer than FEWEST."""
        from scipy import stats

        found = [one for name in self.backbones if (one := self.effect(measure, name, run, other))]
        if len(found) < FEWEST:
            return None
        gaps = [one.gap for one in found]
        gap, deviation = float(np.mean(gaps)), float(np.std(gaps, ddof=1))
        half = float(stats.t.ppf(0.975, len(gaps) - 1)) * deviation / len(gaps) ** 0.5
        return Difference(gap, (gap - half, gap + half), deviation, [pair for one in found for pair in one.pairs])

    # ---- beside scores ------------------------------------------------------------------

    def identical(self, backbone: str, run: str, seed: int) -> bool | None:
        """Whether a run writes the backbone's rationales of the held-out texts, token for token; None: not known."""
        ours, base = (
            next((one.rationales for one in self.general.get((backbone, name), []) if one.seed == seed), None)
            for name in (run, REFERENCE)
        )
        return None if ours is None or base is None else ours == base

    def all_identical(self, backbone: str, run: str) -> list[bool]:
        """`identical` of the seeds of which it is known."""
        found = [self.identical(backbone, run, seed) for seed in self.planned(backbone, run)]
        return [one for one in found if one is not None]

    def compute(self, backbone: str, run: str) -> float | None:
        """Mean seconds over the seeds that have them."""
        costs = [self.costs.get((backbone, run, seed), Compute()) for seed in self.planned(backbone, run)]
        found = [one.seconds for one in costs if one.seconds is not None]
        return float(np.mean(found)) if found else None

    def compute_share(self, backbone: str, run: str, other: str) -> float | None:
        """Of what another run took."""
        ours, theirs = self.compute(backbone, run), self.compute(backbone, other)
        return None if ours is None or not theirs else ours / theirs

    @property
    def missing(self) -> list[str]:
        return sorted({*self.embedding.missing, *self.general.missing})

    @property
    def problems(self) -> list[Problem]:
        return list(dict.fromkeys(self.embedding.problems + self.general.problems))


def trade(traded: Traded, resamples: int) -> Trade:
    """All results of a comparison, resampled."""
    embedding, general = (load(cells, resamples) for cells in (traded.cells, traded.general))
    costs = {(cell.backbone, cell.run, cell.seed): compute(cell) for cell in traded.costs}
    return Trade(traded.points, traded.tasks, embedding, general, costs)


def compute(cell: Cell) -> Compute:
    """Of the model of a cell of `specs.Traded.costs`; without files it was not trained."""
    if not cell.results:
        return Compute(seconds=0.0)
    training, problems = _read(cell.results[0])
    if training is None:
        return Compute(problems=tuple(problems))
    seconds, device = _seconds(training)
    if training.get("resumed_from"):
        problems.append(f"{cell.results[0]}: the training was resumed, and its time is that of the last start alone.")
    share = None
    for path in cell.results[1:]:
        record, more = _read(path)
        problems += more
        share = _share(record, training) if record else None
        texts, written = (_count(record, key) for key in ("texts", "written"))
        if texts and written is not None and written < texts:
            problems.append(
                f"{path}: {texts - written} of {texts} rationales are of an earlier job, whose time is not known."
            )
        seconds = None if seconds is None or share is None else seconds + share
    read, written = (_count(training.get("tokens"), key) for key in ("read", "written"))
    return Compute(seconds, share, read, written, device, tuple(problems))


def _read(path: str) -> tuple[dict[str, Any] | None, list[str]]:
    """A manifest, or the content of a record with its manifest in `manifest`; None where there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, [f"No result: {path}."]
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        return None, [f"{path} cannot be read, so its time is not known: {results.AGAIN}."]
    return value, []


def _seconds(made: dict[str, Any]) -> tuple[float | None, str]:
    """CPU-seconds, or on GPUs seconds x processes, of a manifest."""
    hardware, settings = made.get("hardware"), made.get("settings")
    gpu = isinstance(hardware, dict) and bool(hardware.get("gpus"))
    seconds: Any = made.get("seconds" if gpu else "cpu_seconds")
    sections = [settings.get(key) for key in ("contrastive", "grace")] if isinstance(settings, dict) else []
    processes = max([one.get("processes", 1) for one in sections if isinstance(one, dict)], default=1)
    return float(seconds) * processes if is_number(seconds) else None, "gpu" if gpu else "cpu"


def _share(record: dict[str, Any], training: dict[str, Any]) -> float | None:
    """Seconds of writing the rationales of the rows that a training read, of those that were written for several."""
    made = record.get("manifest")
    seconds = _seconds(made)[0] if isinstance(made, dict) else None
    rows = _count((training.get("settings") or {}).get("rationales"), "rows")
    written = _count(record, "rows")
    return seconds * min(1.0, rows / written) if seconds is not None and rows and written else seconds


def _count(value: Any, key: str) -> int | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None

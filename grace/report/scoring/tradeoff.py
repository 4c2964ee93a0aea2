"""Embeddings against generation: what a run is worth in a mode by each measure, and what two runs differ by.

All measures are shares from 0 to 1, or changes of such: nothing here is in percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grace import tasks
from grace.paper import numbers
from grace.report.scoring import results
from grace.report.scoring.compute import Compute, compute
from grace.report.scoring.models import Models, Seed
from grace.report.scoring.scores import WELL_FORMED, Estimate, difference, estimate, load, over_seeds
from grace.shown import REFERENCE
from grace.specs import Point, Traded

PERPLEXITY = "docstring_perplexity"
# Measures, in the order of the columns; those of CHANGES are relative to the untrained backbone.
NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE = "ndcg", "embedding_mean", "well_formed", "perplexity_change"
GENERAL_CHANGE, COSINE = "general_change", "random_pair_cosine"
CHANGES = (PERPLEXITY_CHANGE, GENERAL_CHANGE)
LOWER = (PERPLEXITY_CHANGE,)  # better when lower
FEWEST = 3  # backbones for an interval over them


@dataclass(frozen=True)
class Across:
    """What two runs differ by on several backbones, each of which counts once: a mean over its seeds.

    interval: Student's, 95 %, of the mean of these differences, as if the backbones were drawn from more of their kind.
    """

    gap: float
    interval: tuple[float, float]
    deviation: float
    pairs: list[tuple[Estimate, Estimate]]


@dataclass(frozen=True)
class Trade:
    """The runs that are compared, each a point with a mode."""

    points: list[Point]
    tasks: list[str]
    embedding: Models
    general: Models
    costs: dict[tuple[str, str, int], Compute]

    @cached_property
    def backbones(self) -> list[str]:
        return list(dict.fromkeys(backbone for backbone, _ in self.embedding))

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
    def retrieval(self) -> list[str]:
        return [name for name in self.tasks if tasks.CATEGORY[name] == "Retrieval"]

    @cached_property
    def accuracies(self) -> list[str]:
        """General tasks whose mean is the general average: the paper's six, or what stands in for them."""
        known = {name for seeds in self.general.values() for one in seeds for name in one.scores}
        six = list(numbers.GENERAL.values())
        return six if known & {*six} else [name for name in tasks.DEMO_GENERAL if name in known and name != PERPLEXITY]

    @cached_property
    def has_perplexity(self) -> bool:
        return any(PERPLEXITY in one.scores for seeds in self.general.values() for one in seeds)

    def value(self, measure: str, backbone: str, run: str, seeds: Iterable[int] | None = None) -> Estimate | None:
        """A run by a measure, over these seeds or all that have it; None when none has."""
        wanted = set(self.planned(backbone, run) if seeds is None else seeds)

        def of(models: Models, name: str) -> list[Seed]:
            return [one for one in models.get((backbone, name), []) if one.seed in wanted]

        if measure in CHANGES:
            return self._change(measure, of(self.general, run), of(self.general, REFERENCE))
        if measure == WRITING:
            return estimate(of(self.general, run), {WELL_FORMED: 1.0}, 1.0)
        weights = {
            NDCG: dict.fromkeys(self.retrieval, 1.0),
            EMBEDDING: dict.fromkeys(self.tasks, 1.0),
            COSINE: {results.geometry(COSINE): 1.0},
        }[measure]
        return estimate(of(self.embedding, run), weights, 1.0)

    def _change(self, measure: str, ours: list[Seed], others: list[Seed]) -> Estimate | None:
        """Of the perplexity its ratio to the untrained backbone's less one, of the general average the difference."""
        names = [PERPLEXITY] if measure == PERPLEXITY_CHANGE else self.accuracies
        backbone, found = {one.seed: one for one in others}, []
        for seed in ours:
            mine, base = (
                estimate([one], dict.fromkeys(names, 1.0), 1.0) if one else None
                for one in (seed, backbone.get(seed.seed))
            )
            if mine and base:
                found.append((mine, base))
        if not found:
            return None
        ratio = measure == PERPLEXITY_CHANGE
        points = [a.point / b.point - 1 if ratio else a.point - b.point for a, b in found]
        sampled = [
            a.samples / b.samples - 1 if ratio else a.samples - b.samples
            for a, b in found
            if a.samples is not None and b.samples is not None
        ]
        samples = np.mean(sampled, axis=0) if len(sampled) == len(found) else None
        sources = list(dict.fromkeys(path for a, _ in found for path in a.sources))
        problems = [problem for pair in found for one in pair for problem in one.problems]
        return over_seeds(points, samples, sources, list(dict.fromkeys(problems)))

    def effect(self, measure: str, backbone: str, run: str, other: str) -> tuple[Estimate, Estimate] | None:
        """Two runs by a measure over the seeds that have both; None when none has."""
        seeds = [
            seed
            for seed in self.planned(backbone, run)
            if seed in self.planned(backbone, other)
            and all(self.value(measure, backbone, name, [seed]) is not None for name in (run, other))
        ]
        ours, theirs = (self.value(measure, backbone, name, seeds) for name in (run, other))
        return (ours, theirs) if seeds and ours and theirs else None

    def deviation(self, measure: str, backbone: str, run: str, other: str) -> float | None:
        """Standard deviation between seeds of the difference of two runs."""
        gaps = []
        for seed in self.planned(backbone, run):
            ours, theirs = (self.value(measure, backbone, name, [seed]) for name in (run, other))
            gaps += [ours.point - theirs.point] if ours and theirs else []
        return float(np.std(gaps, ddof=1)) if len(gaps) > 1 else None

    def across(self, measure: str, run: str, other: str) -> Across | None:
        """Two runs on all backbones that have both; None for fewer than FEWEST."""
        from scipy import stats

        pairs = [pair for name in self.backbones if (pair := self.effect(measure, name, run, other))]
        if len(pairs) < FEWEST:
            return None
        gaps = [ours.point - theirs.point for ours, theirs in pairs]
        gap, deviation = float(np.mean(gaps)), float(np.std(gaps, ddof=1))
        half = float(stats.t.ppf(0.975, len(gaps) - 1)) * deviation / len(gaps) ** 0.5
        return Across(gap, (gap - half, gap + half), deviation, pairs)

    # ---- beside scores ------------------------------------------------------------------

    def identical(self, backbone: str, run: str, seed: int) -> bool | None:
        """Whether a run writes the backbone's rationales of the held-out texts, token for token; None: not known."""
        ours, base = (
            next((one.writing for one in self.general.get((backbone, name), []) if one.seed == seed), None)
            for name in (run, REFERENCE)
        )
        return None if ours is None or base is None else ours == base

    def compute(self, backbone: str, run: str) -> float | None:
        """Mean seconds over the seeds that have them."""
        costs = [self.costs.get((backbone, run, seed)) for seed in self.planned(backbone, run)]
        found = [one.seconds for one in costs if one is not None and one.seconds is not None]
        return float(np.mean(found)) if found else None

    def compute_share(self, backbone: str, run: str, other: str) -> float | None:
        """Of what another run took."""
        ours, theirs = self.compute(backbone, run), self.compute(backbone, other)
        return None if ours is None or not theirs else ours / theirs

    @property
    def missing(self) -> list[str]:
        return sorted({*self.embedding.missing, *self.general.missing})

    @property
    def problems(self) -> list[results.Problem]:
        return list(dict.fromkeys(self.embedding.problems + self.general.problems))


def trade(traded: Traded, resamples: int) -> Trade:
    """All results of a comparison, resampled."""
    return Trade(
        points=traded.points,
        tasks=traded.tasks,
        embedding=load(traded.cells, resamples),
        general=load(traded.general, resamples),
        costs={(cell.backbone, cell.run, cell.seed): compute(cell) for cell in traded.costs},
    )


def paired(pair: tuple[Estimate, Estimate] | None) -> tuple[float, tuple[float, float] | None] | None:
    """The difference of a pair and the interval of its paired resamples."""
    return difference(*pair) if pair else None

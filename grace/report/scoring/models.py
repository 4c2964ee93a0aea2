"""The models that a table reads: their scores, the files these come from, and what is missing or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from grace.report.scoring import results
from grace.report.scoring.results import Problem


class Score(NamedTuple):
    """A task's score of one seed: 0 to 1 (or a perplexity), its resamples [R] if it has items, its file."""

    point: float
    samples: np.ndarray | None
    source: str


@dataclass
class Seed:
    """The results of one trained model. `tokens`: per result file, mean length of its rationales and their number.

    The numbers of a result's geometry are scores too, under `results.geometry(name)`.
    """

    seed: int
    scores: dict[str, Score] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[float, int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)  # that could be used
    missing: list[str] = field(default_factory=list)  # that are not there
    problems: list[Problem] = field(default_factory=list)
    limited: bool = False  # whether a general result is of some items of its tasks only
    samples: dict[str, str] = field(default_factory=dict)  # MTEB task -> what part of it was drawn
    writing: str | None = None  # hash of the rationales behind a general result

    @property
    def lost(self) -> list[str]:
        """Files that are missing or of no use."""
        return self.missing + [one.path for one in self.problems if one.kind == "broken"]

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

    def figure(self, name: str) -> tuple[float, list[str]] | None:
        """`mean_tokens` of the rationales over all files, or `random_pair_cosine`, and the files behind it."""
        if name != "mean_tokens":
            score = self.scores.get(results.geometry(name))
            return (score.point, [score.source]) if score else None
        total = sum(count for _, count in self.tokens.values())
        whole = total and not self.lost
        return (sum(mean * count for mean, count in self.tokens.values()) / total, list(self.tokens)) if whole else None


class Models(dict[tuple[str, str], list[Seed]]):
    """(backbone, run) -> its seeds."""

    @property
    def problems(self) -> list[Problem]:
        return list(dict.fromkeys(one for seeds in self.values() for seed in seeds for one in seed.problems))

    @property
    def samples(self) -> dict[str, str]:
        """MTEB task -> what part of it was drawn, the same for all models."""
        return {name: part for seeds in self.values() for one in seeds for name, part in one.samples.items()}

    @property
    def missing(self) -> list[str]:
        return sorted({path for seeds in self.values() for seed in seeds for path in seed.missing})

"""What a figure shows, as rows of its csv (`Mark`), and the results that it reads (`Plot`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from grace.config.section import UserError
from grace.config.specs import FiguresSpec, Point
from grace.paper import numbers
from grace.report.scoring import results
from grace.report.scoring.results import AGAIN, Problem
from grace.report.scoring.scores import Estimate, Models, Seed, estimate

PAPER = "paper"  # series of what the paper prints
PARTS = ("encode", "generate", "match")  # of the time of a text


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A row of the csv. A number that is None is missing, never zero.

    panel, series: where it stands, and with which others. x, y: its place, in the unit of the panel's axis; text where
    the axis has no numbers. ours, low, high: the value and its 95 % interval. paper: the value that is printed.
    """

    panel: str
    series: str
    backbone: str | None = None
    run: str | None = None
    x: float | str | None = None
    x_low: float | None = None
    x_high: float | None = None
    y: float | str | None = None
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    seed_sd: float | None = None
    paper: float | None = None
    note: str | None = None
    source: str | None = None
    planned: bool = True  # whether the study is to have a result of it; not in the csv

    @property
    def drawn(self) -> bool:
        return self.x is not None and (self.ours is not None or self.paper is not None)

    @property
    def left_out(self) -> bool:
        """Whether it is one of ours that should have a result and has none."""
        return self.planned and self.series != PAPER and not self.drawn

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def value(self) -> float:
        """Of a mark that is drawn: ours, or else the paper's."""
        return float((self.paper if self.ours is None else self.ours) or 0)

    @property
    def xy(self) -> tuple[float, float]:
        """Of a mark that is drawn and whose x is a number."""
        return float(self.x or 0), self.value

    def with_value(self, found: Estimate, scale: float = 1.0) -> Mark:
        """The mark with an estimate as our value."""
        low, high = (scale * end for end in found.interval) if found.interval else (None, None)
        deviation = None if found.deviation is None else scale * found.deviation
        mark = replace(self, ours=scale * found.point, low=low, high=high, seeds=found.seeds)
        return replace(mark, seed_sd=deviation, source=";".join(found.sources))

    def with_x(self, found: Estimate, scale: float = 1.0) -> Mark:
        """The mark with an estimate as its x."""
        low, high = (scale * end for end in found.interval) if found.interval else (None, None)
        source = ";".join(filter(None, [self.source, *found.sources]))
        return replace(self, x=scale * found.point, x_low=low, x_high=high, source=source)


class TimedSystem(NamedTuple):
    """budget: most tokens of its rationale, None without one; parts: seconds per text of PARTS and `total`, each as the
    10th, 50th and 90th percentile."""

    name: str
    budget: int | None
    parts: dict[str, list[float]]


@dataclass
class Times:
    """Latency results: backbone -> its systems, and the files that are missing or wrong."""

    systems: dict[str, list[TimedSystem]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def load_times(files: dict[str, str]) -> Times:
    """The latency results of some backbones: backbone -> file."""
    times = Times()
    for backbone, path in files.items():
        try:
            result, problems = results.read(path)
        except FileNotFoundError:
            times.missing.append(path)
            continue
        times.problems += problems
        try:
            if result is not None:
                times.systems[backbone] = [_timed(entry) for entry in result["systems"]]
        except (KeyError, TypeError, ValueError) as error:
            text = f"{path} is no whole latency result (field {error}), so nothing of it is shown: {AGAIN}."
            times.problems.append(Problem(path, None, "broken", text))
    return times


def _timed(entry: dict[str, Any]) -> TimedSystem:
    parts = {part: [float(entry[part][key]) for key in ("p10", "p50", "p90")] for part in (*PARTS, "total")}
    budget = entry["budget"]
    return TimedSystem(str(entry["system"]), None if budget is None else int(budget), parts)


@dataclass(frozen=True)
class Plot:
    """A figure: its settings, MTEB results, general results and times. A subclass is a kind of figure."""

    spec: FiguresSpec
    models: Models
    general: Models
    times: Times

    def marks(self) -> list[Mark]:
        """The rows of the csv.

        Raises:
            UserError: for an ablation that does not vary what this kind of figure shows.
        """
        raise NotImplementedError

    def notes(self, marks: list[Mark]) -> list[str]:
        """What a reader of the figure must know."""
        raise NotImplementedError

    def draw(self, marks: list[Mark]) -> Figure:
        """Draws the marks and nothing else; at least one of them is `drawn`."""
        raise NotImplementedError

    @property
    def backbones(self) -> list[str]:
        return list(dict.fromkeys(cell.backbone for cell in self.spec.cells))

    @property
    def score_label(self) -> str:
        count = len(self.spec.tasks)
        return f"score: mean over\n{count} task{'s' * (count != 1)} (%)"

    def score(self, mark: Mark) -> Estimate | None:
        """Of the mark's run: mean over the figure's tasks in percent; None when a task is missing."""
        return estimate(self._seeds(mark), dict.fromkeys(self.spec.tasks, 1.0))

    def scored(self, mark: Mark) -> Mark:
        """`mark` with the score of its run, or with the reason why there is none."""
        return measured(mark, self.score(mark), self._seeds(mark), self.spec.tasks)

    def _seeds(self, mark: Mark) -> list[Seed]:
        return self.models.get((str(mark.backbone), str(mark.run)), [])

    def points(self, *need: str) -> list[tuple[str, Point]]:
        """(backbone, point) of the figure's ablations, without the backbones that have no run of a point.

        Raises:
            UserError: for a point that does not say what it varies among `need`.
        """
        for point in self.spec.points:
            if lacking := [key for key in need if key not in point.at]:
                name, kind = self.spec.name, self.spec.figure.kind
                raise UserError(
                    f"config: figures.{name}.ablations: a figure of kind {kind!r} shows {' and '.join(need)}, and "
                    f"ablation {point.ablation!r} does not vary {lacking[0]}; name another."
                )
        planned = {(cell.backbone, cell.run) for cell in self.spec.cells}
        return [(name, point) for name in self.backbones for point in self.spec.points if (name, point.run) in planned]


def measured(mark: Mark, found: Estimate | None, seeds: list[Seed], tasks: Iterable[str]) -> Mark:
    """`mark` with an estimate of these tasks, or with the reason why there is none."""
    if not seeds:
        return replace(mark, planned=False, note="not part of this study")
    if found is None:
        return replace(mark, note=_reason(seeds, tasks))
    notes = [f"{found.seeds} of {len(seeds)} seeds"] * (found.seeds < len(seeds))
    notes += [problem.text for problem in found.problems]
    return replace(mark.with_value(found), note=" ".join(dict.fromkeys(notes)) or None)


def _reason(seeds: list[Seed], tasks: Iterable[str]) -> str:
    if missing := [path for one in seeds for path in one.missing]:
        return f"no result: {', '.join(missing)}"
    if problems := [problem.text for one in seeds for problem in one.problems]:
        return " ".join(dict.fromkeys(problems))
    lacking = [name for name in tasks if all(name not in one.scores for one in seeds)]
    return f"no score of {', '.join(lacking)}" if lacking else "no result"


def label(backbone: str | None) -> str:
    """A backbone as it is printed."""
    return numbers.BACKBONES.get(str(backbone), str(backbone))


def among(marks: Iterable[Mark], **wanted: Any) -> list[Mark]:
    """The marks whose fields have these values."""
    return [one for one in marks if all(getattr(one, key) == value for key, value in wanted.items())]


def names(marks: Iterable[Mark], field: str) -> list[Any]:
    """The values of a field, each once, in their order."""
    return list(dict.fromkeys(getattr(one, field) for one in marks))


def drawn(marks: Iterable[Mark]) -> list[Mark]:
    return [mark for mark in marks if mark.drawn]

"""What a figure shows, as rows of its csv; a figure draws these rows and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from grace.paper import numbers
from grace.report.plots.times import Times
from grace.report.scoring.scores import Estimate, Models, Seed, estimate
from grace.section import UserError
from grace.specs import FiguresSpec, Point

PAPER = "paper"  # series of what the paper prints


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

    def row(self, figure: str) -> dict[str, Any]:
        """Its row in the csv; numbers with four decimals."""
        cells = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {"figure": figure, **{key: cells[key] for key in FIELDS[1:]}}


FIELDS = ["figure", *(one.name for one in fields(Mark) if one.name != "planned")]


@dataclass(frozen=True)
class Results:
    """What a figure is made of: its settings, MTEB results, general results and times."""

    spec: FiguresSpec
    models: Models
    general: Models
    times: Times

    @property
    def backbones(self) -> list[str]:
        return list(dict.fromkeys(cell.backbone for cell in self.spec.cells))

    def score(self, backbone: str, run: str) -> Estimate | None:
        """Mean over the figure's tasks in percent; None when a task is missing."""
        return estimate(self.models.get((backbone, run), []), self._weights)

    @property
    def _weights(self) -> dict[str, float]:
        return dict.fromkeys(self.spec.tasks, 1.0)

    def scored(self, mark: Mark) -> Mark:
        """`mark` with the score of its run, or with the reason why there is none."""
        found = self.score(str(mark.backbone), str(mark.run))
        return measured(mark, found, self.models.get((str(mark.backbone), str(mark.run)), []), self.spec.tasks)

    def points(self, *need: str) -> list[tuple[str, Point]]:
        """(backbone, point) of the figure's ablations, those backbones left out that a point's run is not of.

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
    """`mark` with an estimate, or with the reason why there is none."""
    if not seeds:
        return replace(mark, planned=False, note="not part of this study")
    if found is None:
        return replace(mark, note=_why(seeds, tasks))
    low, high = found.interval or (None, None)
    notes = [f"{found.seeds} of {len(seeds)} seeds"] * (found.seeds < len(seeds))
    notes += [problem.text for problem in found.problems]
    return replace(
        mark,
        ours=found.point,
        low=low,
        high=high,
        seeds=found.seeds,
        seed_sd=found.deviation,
        source=";".join(found.sources),
        note=" ".join(dict.fromkeys(notes)) or None,
    )


def _why(seeds: list[Seed], tasks: Iterable[str]) -> str:
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

"""From an ablation to its points, and from a point to its run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, cast

from grace.config import Run
from grace.exhibits import Ablation, Scalar
from grace.section import UserError, merge


def points(name: str, entry: Ablation) -> Iterator[tuple[str, dict[str, Scalar], dict[str, Any]]]:
    """Each point's suffix of a run's name, what is varied -> its value there, and its settings.

    Raises:
        UserError: for a key of `grid` that names no setting.
    """
    for key in entry.grid:
        if key.count(".") != 1:
            raise UserError(f"config: ablations.{name}.grid.{key}: name a setting as section.key.")
    keys = [key.split(".") for key in entry.grid]
    for values in product(*entry.grid.values()) if keys else ():
        at = {key: value for (_, key), value in zip(keys, values, strict=True)}
        settings: dict[str, Any] = {}
        for (section, key), value in zip(keys, values, strict=True):
            settings = merge(settings, {section: {key: value}})
        yield "".join(f".{key}-{_text(value)}" for key, value in at.items()), at, settings
    for point, settings in entry.points.items():
        yield f".{name}-{point}", {name: point}, settings
    for step in entry.steps:
        yield f".step-{step}", {"step": step}, {}
    for mode in entry.modes:
        yield f".{mode}", {"mode": mode}, {}


def run_of(entry: Ablation, base: str, run: Run, at: dict[str, Scalar], settings: dict[str, Any]) -> Run:
    """The run of a point of `run`, whose name is `base`."""
    shared = run.trained and not (entry.train and not entry.steps and not entry.modes)
    return Run(
        method=run.method,
        data=run.data,
        settings=merge(merge(run.settings, entry.settings), settings),
        backbones=entry.backbones or run.backbones,
        model=(run.model or base) if shared else None,
        step=int(at["step"]) if entry.steps else run.step,
        mode=cast(Any, at["mode"]) if entry.modes else run.mode,
        ablation=True,
    )


def _text(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

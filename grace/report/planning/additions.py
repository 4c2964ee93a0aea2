"""What each ablation adds to a study, so that one can be dropped."""

from __future__ import annotations

from dataclasses import dataclass

from grace.exhibits import Figure, Table
from grace.report.planning import costs
from grace.report.planning.costs import Work
from grace.report.planning.estimates import Estimates

ALL = "all of them"


@dataclass(frozen=True)
class Addition:
    """The runs of an ablation that are not another run themselves, for all backbones and seeds."""

    ablation: str
    shown_in: list[str]  # tables and figures
    counted: bool  # whether the plan's totals hold it
    runs: int
    trainings: int
    evaluations: int
    training: Work
    evaluation: Work
    gpu_hours: float
    disk: float  # bytes
    sized: bool  # whether a task of its evaluations, if any, has a known size


def additions(e: Estimates) -> list[Addition]:
    """Each ablation alone, then all of them together if there are several: a run of two counts once there."""
    exhibits: dict[str, Table | Figure] = {**e.study.tables, **e.study.figures}
    shown = {name: [key for key, entry in exhibits.items() if name in entry.ablations] for name in e.points}
    found = [_addition(e, name, shown[name], list(runs)) for name, runs in e.points.items()]
    if len(found) > 1:
        every = dict.fromkeys(run for runs in e.points.values() for run in runs)
        found.append(_addition(e, ALL, [], list(every)))
    return found


def _addition(e: Estimates, name: str, shown_in: list[str], runs: list[str]) -> Addition:
    seeds, trainings, evaluations = len(e.study.seeds), 0, 0
    training, evaluation, disk, sized = Work(), Work(), 0.0, not runs
    for run, backbone in ((name, backbone) for name in runs for backbone in e.backbones_of(name)):
        entry, weights = e.study.runs[run], costs.SAVED * costs.parameters(e.spec.backbones[backbone])
        groups = e.groups(backbone, run)
        evaluations += len(groups) * seeds
        sized |= any(e.sizes[group] for group in groups)
        for group in groups:
            evaluation += e.evaluation(backbone, run, group) * e.encodings(run)
        disk += e.store(backbone, run)
        if entry.trains:
            trainings += seeds
            training += e.training(backbone, run).work * seeds
        if entry.trains or (entry.step and entry.step in e.reached(e.training(backbone, e.owner(run)))):
            disk += weights * seeds
    gpu = {rule: e.study.resources[rule].gpu > 0 for rule in ("train", "evaluate")}
    seconds = training.seconds * gpu["train"] + evaluation.seconds * gpu["evaluate"]
    return Addition(
        name, shown_in, all(run in e.used for run in runs), len(runs), trainings, evaluations, training, evaluation,
        seconds / 3600, disk, sized,
    )  # fmt: skip

"""A study's jobs, rule by rule: how many, how long, what they read, write and keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from grace.config import Hardware
from grace.report import costs
from grace.report.costs import Work
from grace.report.estimates import ROW_BYTES, Estimates, Training
from grace.specs import PlanSpec

TOKEN_BYTES = 4  # of a token id in the store
STORED = {"float32": 4, "float16": 2}
STEPS = 1000  # where the paper's figure 5 ends


@dataclass(frozen=True)
class Rule:
    """All jobs of a rule. `longest`: wall seconds of its longest job; `runtime`: minutes that a job is given."""

    name: str
    jobs: int
    gpus: int  # of a job
    gpu_hours: float
    longest: float
    runtime: int
    work: Work
    disk: float  # bytes that stay


@dataclass(frozen=True)
class Plan:
    """A study's estimates."""

    estimates: Estimates
    rules: list[Rule]
    trainings: list[Training]
    evaluations: dict[tuple[str, str, str], Work]  # of one model, by backbone, run and group of tasks
    disk: dict[str, float]  # bytes by what they hold
    checkpoints: float  # bytes that a training needs while it runs

    @property
    def gpu_hours(self) -> float:
        return sum(rule.gpu_hours for rule in self.rules)

    @property
    def work(self) -> Work:
        return sum((rule.work for rule in self.rules), Work())

    @property
    def chain(self) -> float:
        """Wall seconds of the longest training and, after it, its longest evaluation; all else can run beside it."""
        gpus = {rule.name: rule.gpus for rule in self.rules}
        if not gpus.get("evaluate"):
            return 0.0
        before = {(job.backbone, job.run): job.wall for job in self.trainings} if gpus.get("train") else {}
        return max(
            before.get((backbone, run), 0.0) + work.seconds / gpus["evaluate"]
            for (backbone, run, _), work in self.evaluations.items()
        )

    @property
    def wall_hours(self) -> float:
        """With every GPU busy, but no shorter than the longest chain of jobs."""
        return max(self.gpu_hours / self.estimates.h.gpus, self.chain / 3600)


def plan(spec: PlanSpec, kept: dict[str, int] | None = None) -> Plan:
    """Estimate a study.

    Args:
        kept: rows of a source after `pairs`, where it has run; otherwise the number that the paper names is taken.
    """
    e, seeds, backbones = Estimates(spec, kept), len(spec.study.seeds), list(spec.backbones)
    trainings = [e.training(backbone, run) for backbone in backbones for run in e.trained]
    evaluations = {
        (backbone, run, group): e.evaluation(backbone, run, group)
        for backbone in backbones for run in spec.evaluated for group in spec.study.evaluation.groups
    }  # fmt: skip
    encoded = [work for (_, run, _), work in evaluations.items() for _ in range(e.encodings(run))]
    general = [e.general(backbone, run) for backbone in backbones for run in spec.general]
    disk = _disk(e, trainings)

    def rule(name: str, jobs: int, works: Iterable[Work] = (), gpus: int | None = None, *holds: str) -> Rule:
        at = spec.study.resources["source" if name == "download" else name]
        gpus = at.gpu if gpus is None else gpus
        works = list(works)
        total = sum(works, Work())
        longest = max((work.seconds for work in works), default=0.0) / gpus if gpus else 0.0
        hours = total.seconds / 3600 if gpus else 0.0
        return Rule(name, jobs, gpus, hours, longest, at.runtime, total, sum(disk[name] for name in holds))

    own = [name for name, backbone in spec.backbones.items() if backbone.kind == "trained"]
    sources = len(used_sources(e))
    needs_triples = "supervised" in e.kinds
    shared = max((job.gpus for job in trainings), default=0) if spec.study.resources["train"].gpu else 0
    rules = [
        rule("source", sources, (), None, "raw text"),
        rule("pairs", sources, (), None, "pairs"),
        rule("split", sources, (), None, "splits"),
        rule("triples", int(needs_triples), (), None, "triples"),
        rule("lengths", len(backbones) * len(e.kinds), (), None, "rows"),
        rule("tasks", int(spec.own_tasks)),
        rule("backbone", len(own)),
        rule("download", len(backbones) - len(own), (), 0, "backbones"),
        rule("train", len(trainings) * seeds, [job.work for job in trainings] * seeds, shared, "models"),
        rule("evaluate", len(evaluations) * seeds, encoded, None, "store", "MTEB data sets"),
        rule("general", len(general) * seeds, general * seeds),
        rule("tables", len(spec.study.tables)),
        rule("report", 1),
    ]
    # Trainings of different width: the longest job by the wall.
    walls = {"train": max((job.wall for job in trainings), default=0.0) if shared else 0.0}
    rules = [replace(r, longest=walls.get(r.name, r.longest)) for r in rules if r.jobs]
    checkpoints = [
        2 * costs.checkpoint_bytes(spec.backbones[job.backbone], e.settings(job.run).lora) for job in trainings
    ]
    return Plan(e, rules, trainings, evaluations, disk, max(checkpoints, default=0.0))


def used_sources(e: Estimates) -> list[str]:
    """Sources that the study reads: of its trainings, and of what the workflow makes from held-out text."""
    made = e.spec.own_tasks or any(backbone.kind == "trained" for backbone in e.spec.backbones.values())
    kinds = {*e.kinds, *(["supervised"] if made else [])}
    return sorted({e.source(kind) for kind in kinds})


def _disk(e: Estimates, trainings: list[Training]) -> dict[str, float]:
    """Bytes by what they hold, without what is removed again."""
    seeds, backbones = len(e.study.seeds), e.spec.backbones

    def text(source: str) -> float:
        known, form = e.texts(source), e.spec.sources[source].form
        passages = {"texts": 1, "pairs": 1, "triples": 1 + e.negatives()}[form]
        return known.rows * (known.query * (form != "texts") + known.passage * passages + ROW_BYTES)

    def trained_on(kind: str) -> float:
        known = e.texts(e.source(kind))
        supervised = known.query + known.passage * (1 + e.negatives())
        return e.rows(kind) * ((supervised if kind == "supervised" else known.passage) + ROW_BYTES)

    raw = sum(map(text, used_sources(e)))
    parameters = {name: costs.parameters(backbone) for name, backbone in backbones.items()}
    texts = [field for group in e.sizes for field in e.fields(group)]
    distinct = sum(field.distinct for field in texts)

    def store(backbone: str, run: str) -> float:
        at = e.sections[run].evaluation
        reasons = e.study.runs[run].rationales
        rationale = TOKEN_BYTES * e.rationale(at.max_new_tokens) if reasons else 0
        return distinct * (backbones[backbone].width * STORED[at.store] + rationale) * e.encodings(run)

    return {
        "raw text": raw,
        "pairs": raw,
        "splits": raw,
        "triples": trained_on("supervised") if "supervised" in e.kinds else 0.0,
        "rows": sum(map(trained_on, e.kinds)) * len(backbones),
        "backbones": sum(
            costs.WEIGHT * count for name, count in parameters.items() if backbones[name].kind != "trained"
        ),
        "models": sum(costs.SAVED * parameters[job.backbone] for job in trainings) * seeds,
        "store": sum(store(backbone, run) for backbone in backbones for run in e.spec.evaluated),
        "MTEB data sets": 2 * sum(field.distinct * field.mean for field in texts),  # as fetched, and as read
    }


def variations(spec: PlanSpec, kept: dict[str, int]) -> list[tuple[str, float]]:
    """GPU-hours of the study with one assumption changed at a time."""
    h, g = spec.study.hardware, spec.study.grace

    def hours(change: Callable[[], dict[str, Any]]) -> float:
        return plan(spec.model_copy(update={"study": spec.study.model_copy(update=change())}), kept).gpu_hours

    def hardware(**values: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"hardware": Hardware(**{**h.model_dump(), **values})}

    found = [
        (f"hardware.{key}: {value:g}", hours(hardware(**{key: value})))
        for key, value in (
            ("rationale_tokens", h.rationale_tokens // 2 or 1),
            ("rationale_tokens", h.rationale_tokens * 2),
            ("compute_share", h.compute_share / 2),
            ("decode_share", h.decode_share / 2),
            ("decode_batch", h.decode_batch * 2),
            ("characters_per_token", h.characters_per_token - 1),
        )
        if value > 0
    ]
    if g.max_steps is None or g.max_steps > STEPS:
        short = spec.study.grace.model_copy(update={"max_steps": STEPS})
        found.append((f"grace.max_steps: {STEPS}", hours(lambda: {"grace": short})))
    return found

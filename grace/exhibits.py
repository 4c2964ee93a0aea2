"""What is shown: tables and figures, the ablations behind them, and what they measure beside scores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grace.section import Name, Natural, Positive, Section

Scalar = bool | int | float | str
Mode = Literal["direct", "reasoning"]  # whether a text is embedded as it is or after a rationale
AT_ONCE = ("tradeoff", "effects", "pareto")  # kinds that show embeddings and generation together


class Effect(Section):
    """What one gradient does: `run` minus `other`, each a run or a point of an ablation."""

    gradient: Annotated[str, Field(min_length=1)]  # which one, in words; those of one name stand together
    run: Name
    other: Name


class Table(Section):
    """A table, ours beside what is printed; adding one is adding an entry."""

    title: str
    caption: str
    kind: Literal["mteb", "general", "tasks", "geometry", "progress", "samples", "tradeoff", "effects"]
    rows: dict[Name, str | None] = Field(default_factory=dict)  # our run -> the paper's row; null: not in the paper
    quoted: bool = False  # the paper also quotes models of others here
    rest: bool = False  # runs that no table names are listed too
    subset: bool = False  # of the subset's tasks (table 3) instead of all
    ablations: list[Name] = Field(default_factory=list)  # needs their runs
    seeds: list[Natural] | None = None  # null: the study's
    effects: list[Effect] = Field(default_factory=list)  # of kind effects

    @model_validator(mode="after")
    def _compared(self) -> Table:
        if self.effects and self.kind != "effects":
            raise ValueError(f"effects: a table of kind {self.kind!r} compares no runs; leave this key out")
        return self


class Figure(Section):
    """A figure; adding one is adding an entry."""

    title: str
    caption: str
    kind: Literal["scatter", "heatmap", "latency", "progression", "bars", "lines", "pareto"]
    rows: dict[Name, str | None] = Field(default_factory=dict)  # as in a table
    ablations: list[Name] = Field(default_factory=list)  # whose points it shows, of the subset's tasks
    seeds: list[Natural] | None = None  # null: the study's


class Ablation(Section):
    """Runs that differ from another in what is varied: settings, named points, checkpoints of its training, or whether
    texts are embedded directly or after reasoning.

    A point that changes nothing is the run itself, and is not trained twice.
    """

    runs: list[Name]
    backbones: list[Name] | None = None  # those of them that the study has; all when it has none of them, or at null
    grid: dict[str, list[Scalar]] = Field(default_factory=dict)  # setting, as "reward.lambda1" -> its values, crossed
    points: dict[Name, dict[str, dict[str, Any]]] = Field(default_factory=dict)  # name -> settings
    steps: list[Positive] = Field(default_factory=list)  # checkpoints; the end of training is the run itself
    modes: list[Mode] = Field(default_factory=list)  # of the run's own model
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)  # that all its runs share
    train: bool = True  # false: the run's own model, evaluated in another way

    @model_validator(mode="after")
    def _one_kind(self) -> Ablation:
        if sum(map(bool, (self.grid, self.points, self.steps, self.modes))) != 1:
            raise ValueError("grid: give exactly one of grid, points, steps and modes")
        if (self.steps or self.modes) and self.settings:
            raise ValueError("settings: a checkpoint or a mode has those of its run; leave this key out")
        return self


class Latency(Section):
    """Figure 4: time per text, one text at a time."""

    run: Name  # the trained model beside the backbone
    budgets: Annotated[list[Positive], Field(min_length=1)]  # tokens of a rationale
    texts: Positive  # held-out documents
    repeats: Positive
    corpus: Positive  # embeddings that a text is matched with
    top: Positive  # of them that are wanted

    @model_validator(mode="after")
    def _fits(self) -> Latency:
        if self.top > self.corpus:
            raise ValueError(f"top: {self.top} of {self.corpus} embeddings cannot be found; lower it or raise corpus")
        return self


class Cases(Section):
    """Tables 6 and 7: rationales of held-out texts, chosen by a hash."""

    progress: Name  # the run whose training is followed
    also: list[Name]  # runs whose end is shown beside
    documents: Positive
    queries: Natural
    max_new_tokens: Positive

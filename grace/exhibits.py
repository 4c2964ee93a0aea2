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

    gradient: Annotated[str, Field(min_length=1)]
    """Which one, in words. Those of one name stand together."""
    run: Name
    """A run, or a point of an ablation."""
    other: Name
    """What is subtracted."""


class Table(Section):
    """A table, ours beside what is printed; adding one is adding an entry."""

    title: str
    """As it is shown."""
    caption: str
    """Markdown."""
    kind: Literal["mteb", "general", "tasks", "geometry", "progress", "samples", "tradeoff", "effects"]
    """What the columns are."""
    rows: dict[Name, str | None] = Field(default_factory=dict)
    """Our run -> the paper's row. Null: the paper has no such run."""
    quoted: bool = False
    """The paper also quotes models of others here."""
    rest: bool = False
    """List runs that no table names too."""
    subset: bool = False
    """Of the subset's tasks instead of all."""
    ablations: list[Name] = Field(default_factory=list)
    """Whose runs it needs."""
    seeds: list[Natural] | None = None
    """Null: the study's."""
    effects: list[Effect] = Field(default_factory=list)
    """Of kind `effects`: what is compared."""

    @model_validator(mode="after")
    def _compared(self) -> Table:
        if self.effects and self.kind != "effects":
            raise ValueError(f"effects: a table of kind {self.kind!r} compares no runs; leave this key out")
        return self


class Figure(Section):
    """A figure; adding one is adding an entry."""

    title: str
    """As it is shown."""
    caption: str
    """Markdown."""
    kind: Literal["scatter", "heatmap", "latency", "progression", "bars", "lines", "pareto"]
    """What is drawn."""
    rows: dict[Name, str | None] = Field(default_factory=dict)
    """As in a table."""
    ablations: list[Name] = Field(default_factory=list)
    """Whose points it shows, of the subset's tasks."""
    seeds: list[Natural] | None = None
    """Null: the study's."""


class Ablation(Section):
    """Runs that differ from another in what is varied: settings, named points, checkpoints of its training, or whether
    texts are embedded directly or after reasoning.

    A point that changes nothing is the run itself, and is not trained twice.
    """

    runs: list[Name]
    """That are varied."""
    backbones: list[Name] | None = None
    """Those of them that the study has; all when it has none of them, or at null."""
    grid: dict[str, list[Scalar]] = Field(default_factory=dict)
    """Setting, as `reward.lambda1` -> its values. Several settings are crossed."""
    points: dict[Name, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    """Name -> settings."""
    steps: list[Positive] = Field(default_factory=list)
    """Checkpoints of the training. Its end is the run itself."""
    modes: list[Mode] = Field(default_factory=list)
    """Of the run's own model."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """That all its runs share."""
    train: bool = True
    """False: the run's own model, evaluated in another way."""

    @model_validator(mode="after")
    def _one_kind(self) -> Ablation:
        if sum(map(bool, (self.grid, self.points, self.steps, self.modes))) != 1:
            raise ValueError("grid: give exactly one of grid, points, steps and modes")
        if (self.steps or self.modes) and self.settings:
            raise ValueError("settings: a checkpoint or a mode has those of its run; leave this key out")
        return self


class Latency(Section):
    """Figure 4: time per text, one text at a time."""

    run: Name
    """The trained model beside the backbone."""
    budgets: Annotated[list[Positive], Field(min_length=1)]
    """Most tokens of a rationale."""
    texts: Positive
    """Held-out documents."""
    repeats: Positive
    """Of each text."""
    corpus: Positive
    """Embeddings that a text is compared with."""
    top: Positive
    """Of these that are wanted."""

    @model_validator(mode="after")
    def _fits(self) -> Latency:
        if self.top > self.corpus:
            raise ValueError(f"top: {self.top} of {self.corpus} embeddings cannot be found; lower it or raise corpus")
        return self


class Cases(Section):
    """Tables 6 and 7: rationales of held-out texts, chosen by a hash."""

    progress: Name
    """The run whose training is followed."""
    also: list[Name]
    """Runs whose end is shown beside it."""
    documents: Positive
    """Held-out, chosen by a hash."""
    queries: Natural
    """Held-out, chosen by a hash."""
    max_new_tokens: Positive
    """Most tokens of a rationale."""

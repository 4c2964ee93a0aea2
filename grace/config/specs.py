"""What each stage is told: its slice of the study, passed as JSON on the command line.

A slice holds only what changes the stage's output, so an edit of the configuration replans
exactly the jobs it touches. `version` is raised when a stage's meaning changes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from grace.config.schema import (
    Backbone,
    Contrastive,
    DirectPrompt,
    Encoder,
    Figure,
    General,
    Generation,
    Grace,
    Latency,
    Mining,
    Offline,
    Pooling,
    Prompt,
    RewardConfig,
    Rounds,
    Scalar,
    Source,
    Table,
)
from grace.config.section import Natural, Positive, Section


class SourceSpec(Section):
    version: int = 3
    name: str
    source: Source
    max_rows: Positive | None


class PairsSpec(Section):
    version: int = 1
    form: Literal["pairs", "triples", "texts"]
    near_duplicate_cosine: float | None


class SplitSpec(Section):
    version: int = 1
    test: float
    validation: float
    split: Literal["first", "random"]
    near_duplicate_cosine: float | None
    seed: int


class TriplesSpec(Section):
    version: int = 1
    mining: Mining


class LengthsSpec(Section):
    version: int = 2
    prompt: Prompt
    data: Literal["supervised", "unsupervised"]
    too_long: Literal["drop", "truncate"]


class TasksSpec(Section):
    version: int = 1
    seed: int


class BackboneSpec(Section):
    version: int = 2  # 2: Muon in float32
    backbone: Backbone
    prompt: Prompt


class EncoderSpec(Section):
    version: int = 1
    encoder: Encoder


class EncodeSpec(Section):
    """How a run's model turns texts into embeddings."""

    prompt: Prompt
    pooling: Pooling
    engine: Literal["transformers", "vllm"] = "transformers"
    rationales: bool
    direct_prompt: DirectPrompt
    max_new_tokens: int
    sampling_temperature: float
    batch_size: int
    compile: bool = False
    seed: int


class RationalesSpec(Section):
    """Rationales that the frozen backbone writes once, for every training that learns from them.

    rows: of the training rows, in the order of `grace.training.rationales.sample`; None: all.
    """

    version: int = 1
    data: Literal["supervised", "unsupervised"]
    rows: int | None
    store: Literal["float32", "float16"]
    encode: EncodeSpec


class TrainSpec(Section):
    """`grace` with generation and reward, `offline` with these and instances, or `contrastive`, by method;
    `adapter+grace` has the first and the last, and `rounds`."""

    version: int = 3
    run: str
    method: Literal["cl", "simcse", "grace", "best-of", "adapter", "kl_fence", "adapter+grace"]
    data: Literal["supervised", "unsupervised"]
    seed: Natural
    prompt: Prompt
    pooling: Pooling
    direct_prompt: DirectPrompt | None = None
    generation: Generation | None = None
    reward: RewardConfig | None = None
    grace: Grace | None = None
    contrastive: Contrastive | None = None
    rounds: Rounds | None = None
    offline: Offline | None = None
    instances: Positive | None = None  # of best-of: rows that are rewarded together
    rationales: RationalesSpec | None = None  # whose rationales it learns from
    keep_steps: list[int] = Field(
        default_factory=list
    )  # checkpoints that are kept as models, in step<n> beside the final weights

    @model_validator(mode="after")
    def _whole(self) -> TrainSpec:
        alone = self.method in ("grace", "best-of")  # without a contrastive loss
        need = [] if alone else ["contrastive", "direct_prompt"]
        need += ["offline", "instances", "generation", "reward"] if self.method == "best-of" else []
        need += ["grace", "generation", "reward"] if "grace" in self.method else []
        need += ["rounds"] if self.method == "adapter+grace" else []
        if self.contrastive and self.contrastive.rationales and not self.rounds:
            need.append("rationales")
        if missing := [name for name in need if getattr(self, name) is None]:
            raise ValueError(f"{missing[0]}: method {self.method!r} needs this section")
        if (self.method == "kl_fence") != bool(self.contrastive and self.contrastive.fence):
            raise ValueError("contrastive.fence: kl_fence needs it, and no other method takes it")
        if not alone and (self.method == "simcse") != (self.data == "unsupervised"):
            raise ValueError(f"data: method {self.method!r} does not train on {self.data!r} rows")
        return self


class EvaluateSpec(Section):
    version: int = 4  # 4: `tied`
    run: str
    group: str
    tasks: list[str]
    local: dict[str, str]
    sample: dict[str, int] = Field(default_factory=dict)
    store: Literal["float32", "float16"]
    encode: EncodeSpec | None  # None: an encoder-only model, which embeds as its folder says
    rationales_of: EncodeSpec | None = None  # what wrote them is this model's generator: they lie in the store
    layers: list[int] = Field(default_factory=list)  # that are pooled in the same pass, for runs that wait for this one
    rows: int | None = None  # held-out rows that the demo's tasks are made of; None: all
    standardize: int | None = None  # training texts by whose embeddings each dimension is standardised
    pairs: int = 0  # held-out pairs whose geometry is measured


class EvaluationsSpec(Section):
    """Runs of one model, evaluated one after another."""

    runs: list[EvaluateSpec]


class GeneralSpec(Section):
    version: int = 4
    run: str
    general: General
    encode: EncodeSpec
    rows: int | None = None  # as of `EvaluateSpec`


class LatencySpec(Section):
    version: int = 2  # 2: a real encoder-only model
    latency: Latency
    encode: EncodeSpec  # of a run with rationales
    seed: int


class CaseModel(Section):
    """A model whose rationales are shown. step: training steps; None: the end of training, 0: the backbone."""

    run: str
    step: int | None


class CasesSpec(Section):
    version: int = 1
    models: list[CaseModel]  # as their folders on the command line
    documents: int
    queries: int
    encode: EncodeSpec


class Cell(Section):
    """Where the results of one model lie that a table reads."""

    backbone: str
    run: str
    seed: int
    results: list[str]


class Point(Section):
    """A point of an ablation: the run `run` is `of` with `at` (what is varied -> its value)."""

    ablation: str
    run: str
    of: str
    at: dict[str, Scalar]


class Traded(Section):
    """What embeddings and generation of runs are compared by.

    cells, general: their MTEB and general results; costs: per model the manifest of its training and, where it learnt
    from them, the record of the rationales that the backbone wrote. points: which run each is, and in which mode.
    """

    tasks: list[str]
    cells: list[Cell]
    general: list[Cell]
    costs: list[Cell]
    points: list[Point]


class TablesSpec(Section):
    version: int = 3
    study: str
    bootstrap: int
    name: str
    table: Table
    tasks: list[str]  # every MTEB task that a model of this table is evaluated on
    cells: list[Cell]
    encoders: list[str] = Field(default_factory=list)  # runs of an encoder-only model
    cases: dict[str, str] = Field(default_factory=dict)  # backbone -> file of its rationales
    traded: Traded | None = None  # of the kinds tradeoff and effects, which have no cells of their own


class FiguresSpec(Section):
    version: int = 1
    study: str
    bootstrap: int
    name: str
    figure: Figure
    tasks: list[str]  # every MTEB task that a model of this figure is evaluated on
    cells: list[Cell]
    general: list[Cell]  # general results, where the figure has a generative score
    points: list[Point]
    ends: dict[str, int]  # run -> its training steps, where the configuration fixes them
    latency: dict[str, str]  # backbone -> file


class AuditSpec(Section):
    """lambda1, lambda2: what the study trains with."""

    version: int = 1
    study: str
    lambda1: float
    lambda2: float


class ClaimsSpec(Section):
    version: int = 1
    study: str
    bootstrap: int
    tasks: list[str]
    cells: list[Cell]  # MTEB results
    general: list[Cell]
    baselines: list[str] = Field(default_factory=list)  # runs of one forward pass without training, of `cells`
    subset: list[str] = Field(default_factory=list)  # the tasks that those are evaluated on
    traded: Traded | None = None  # where the trade-off was asked for


class Exhibit(Section):
    """A table or figure of the page. shown: whether it was asked for, or else stands there as not made."""

    name: str
    form: Literal["table", "figure"]
    title: str
    caption: str
    shown: bool


class PageSpec(Section):
    """The page shows everything, so it gets the whole configuration."""

    version: int = 2
    study: str
    title: str
    exhibits: list[Exhibit]
    config: dict[str, Any]


class PlanSpec(Section):
    """The plan is of the whole study, so it gets the whole configuration."""

    version: int = 3
    config: dict[str, Any]

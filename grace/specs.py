"""What each stage is told: its slice of the study, passed as JSON on the command line.

A slice holds only what changes the stage's output, so an edit of the configuration replans
exactly the jobs it touches. `version` is raised when a stage's meaning changes.
"""

from __future__ import annotations

from typing import Any, Literal

from grace.config import Backbone, General, Mining, Source, Study, Table
from grace.section import Section
from grace.settings import Contrastive, Generation, Grace, Pooling, Prompt, RewardConfig


class SourceSpec(Section):
    version: int = 2
    name: str
    source: Source
    max_rows: int | None


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
    version: int = 1
    backbone: Backbone
    prompt: Prompt


class TrainSpec(Section):
    """`grace` with generation and reward, or `contrastive`, by method."""

    version: int = 1
    run: str
    method: Literal["cl", "simcse", "grace"]
    data: Literal["supervised", "unsupervised"]
    seed: int
    prompt: Prompt
    pooling: Pooling
    direct_prompt: Literal["chat", "plain"] | None = None
    generation: Generation | None = None
    reward: RewardConfig | None = None
    grace: Grace | None = None
    contrastive: Contrastive | None = None


class EncodeSpec(Section):
    """How a run's model turns texts into embeddings."""

    prompt: Prompt
    pooling: Pooling
    engine: Literal["transformers", "vllm"] = "transformers"
    rationales: bool
    direct_prompt: Literal["chat", "plain"]
    max_new_tokens: int
    sampling_temperature: float
    batch_size: int
    seed: int


class EvaluateSpec(Section):
    version: int = 2
    run: str
    group: str
    tasks: list[str]
    local: dict[str, str]
    store: Literal["float32", "float16"]
    encode: EncodeSpec


class GeneralSpec(Section):
    version: int = 2
    run: str
    general: General
    encode: EncodeSpec


class Cell(Section):
    """Where the results of one model lie that a table reads."""

    backbone: str
    run: str
    seed: int
    results: list[str]


class TablesSpec(Section):
    version: int = 2
    study: str
    bootstrap: int
    name: str
    table: Table
    tasks: list[str]  # every MTEB task that a model is evaluated on
    cells: list[Cell]


class PageSpec(Section):
    """The page shows everything, so it gets the whole configuration."""

    version: int = 1
    config: dict[str, Any]


class PlanSpec(Section):
    """The whole study, with the models whose results its tables read."""

    version: int = 1
    name: str
    study: Study
    backbones: dict[str, Backbone]
    sources: dict[str, Source]
    evaluated: list[str]  # runs with MTEB results
    general: list[str]  # runs with general results; "backbone": the untrained runs together
    own_tasks: bool  # whether the rule `tasks` makes data

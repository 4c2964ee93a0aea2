"""GRACE on TRL's GRPOTrainer, from top to bottom: settings, rows, rollouts, rewards, advantages, loss.

The loop, the optimizer and the clipped loss are TRL's. GraceTrainer overrides the methods around them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler

from grace.config.schema import Generation
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder import reads
from grace.encoder.adapters import embedding, separate, writing
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.vllm import per_request
from grace.encoder.sampling import text_key
from grace.method.advantages import group_advantages, within_group_deviation
from grace.method.prompt import PromptTemplate, is_well_formed
from grace.method.rewards import RewardBreakdown, compute_rewards
from grace.training import hardware
from grace.training.log_probabilities import log_probabilities
from grace.training.run import check_finite, check_negatives, trainer_arguments

log = logging.getLogger(__name__)

LOSS = {"sequence_sum": "dr_grpo", "token_mean": "dapo", "sequence_mean": "grpo"}  # ours -> TRL's
TERMS = ("contrastive", "consistency", "hard", "rule")  # one reward column each
FIRST = 5  # generations; if none of them has a signal, that is not chance
EQUAL = 1e-6  # deviation of rewards by rounding, relative to the largest


def grpo_config(spec: TrainSpec, output_dir: str, rows: int) -> GRPOConfig:
    """TRL's arguments for a GRACE run.

    A process's share of a generation is whole groups (`instances` is a multiple of `processes`), so any number of
    rollouts may go through the model together. `sequence_sum` is eq. 19 up to a constant: TRL's `dr_grpo` divides the
    sum of token losses by rollouts x max_new_tokens.

    Raises:
        UserError: when there are fewer rows than instances in a batch.
    """
    assert spec.grace is not None and spec.generation is not None and spec.reward is not None
    g, r = spec.grace, spec.reward
    if rows < g.instances:
        raise UserError(f"config: grace.instances: {g.instances} instances do not fit the {rows} training rows.")
    per_update = g.instances * g.rollouts // g.updates_per_generation
    accumulate = per_update // (g.processes * g.rollouts_per_forward)
    dapo = g.estimator == "dapo"
    return GRPOConfig(
        **trainer_arguments(spec, output_dir),
        per_device_train_batch_size=g.rollouts_per_forward,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * g.updates_per_generation,
        num_generations=g.rollouts,
        num_iterations=1,
        max_steps=g.max_steps or -1,
        max_completion_length=spec.generation.max_new_tokens,
        temperature=spec.generation.sampling_temperature,
        lr_scheduler_type="constant",
        adam_beta1=g.adam_betas[0],
        adam_beta2=g.adam_betas[1],
        weight_decay=g.weight_decay,
        max_grad_norm=g.max_grad_norm,
        loss_type="dapo" if dapo else LOSS[g.loss],
        epsilon=g.clip_range,
        epsilon_high=0.28 if dapo else None,  # DAPO's clip-higher
        scale_rewards="none",  # eq. 18; our estimators replace the advantages anyway
        beta=0.0,  # no KL term, so no reference model either
        reward_weights=[r.scale, r.scale * r.lambda1, r.scale * r.lambda2, 1.0],
        gradient_checkpointing=g.gradient_checkpointing,
        use_vllm=g.engine == "vllm",
        vllm_mode="colocate",
        vllm_tensor_parallel_size=g.vllm_tensor_parallel,
        vllm_gpu_memory_utilization=g.vllm_memory,
        vllm_max_model_length=spec.prompt.max_prompt_tokens + spec.generation.max_new_tokens,
        vllm_importance_sampling_correction=False,  # eq. 19 has no ratio, and the released code corrects nothing
        logging_steps=1,
    )


def training_set(rows: list[dict[str, Any]], data: str) -> Dataset:
    """Rows as TRL wants them: `prompt` is d+ itself, the other texts are further columns.

    Unsupervised, the anchor is the text itself and there are no negatives (eqs. 20-21). Raises: as `check_negatives`.
    """
    if data == "unsupervised":
        return Dataset.from_list(
            [{"id": r["id"], "prompt": r["text"], "query": r["text"], "negatives": []} for r in rows]
        )
    check_negatives(rows)
    return Dataset.from_list(
        [
            {"id": r["id"], "prompt": r["positive"], "query": r["query"], "negatives": r.get("negatives") or []}
            for r in rows
        ]
    )


def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `training_set` with q and d+ exchanged, so that rollouts are written of q."""
    return [{**row, "id": f"{row['id']}/q", "prompt": row["query"], "query": row["prompt"]} for row in rows]


class Embeddings(NamedTuple):
    """Embeddings of b instances, each [b, ., d] but query [b, d]; `greedy` [b, 1, d] for ReMax only."""

    query: Tensor
    positives: Tensor
    negatives: Tensor | None
    greedy: Tensor | None

    @classmethod
    def split(cls, pooled: Tensor, instances: int, rollouts: int, anchors: int) -> Embeddings:
        """Of [n, d]: K rollouts of each instance, then the anchors of each (q and the d-), then greedy rollouts."""
        parts = [instances * rollouts, instances * anchors, len(pooled) - instances * (rollouts + anchors)]
        positives, others, greedy = pooled.split(parts)
        others = others.unflatten(0, (instances, anchors))
        return cls(
            query=others[:, 0],
            positives=positives.unflatten(0, (instances, rollouts)),
            negatives=others[:, 1:] if anchors > 1 else None,
            greedy=greedy.unsqueeze(1) if len(greedy) else None,
        )


def requests(
    prompt_ids: list[list[int]], instances: list[dict[str, Any]], template: PromptTemplate, at: Generation, *seed: int
) -> tuple[list[list[int]], list[float], list[int]]:
    """Prompts, sampling temperatures and random keys of K rollouts of each d+, then of one rationale of q and each d-.

    `prompt_ids` has the prompt of each instance's d+, K times in a row. Keys name the instance, not the process, so a
    batch is the same however it is spread.
    """
    anchors = [text for row in instances for text in (row["query"], *row["negatives"])]
    k, per_row = len(prompt_ids) // len(instances), len(anchors) // len(instances)
    temperatures = [at.sampling_temperature] * len(prompt_ids) + [at.anchor_sampling_temperature] * len(anchors)
    keys = [text_key(*seed, "rollout", row["id"], i) for row in instances for i in range(k)]
    keys += [text_key(*seed, "anchor", row["id"], m) for row in instances for m in range(per_row)]
    return prompt_ids + template.ids(anchors), temperatures, keys


def failures(
    token_ids: list[list[int]], ends: list[int], template: PromptTemplate, form: bool
) -> dict[str, list[bool]]:
    """Which rationales were truncated and, if `form` is asked for, which were truncated or are ill-formed."""
    truncated = [ids[-1] not in ends for ids in token_ids]
    if not form:
        return {"truncated": truncated}
    bare = [ids if cut else ids[:-1] for ids, cut in zip(token_ids, truncated, strict=True)]
    tokenizer: Any = template.tokenizer
    texts = tokenizer.batch_decode(bare, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    wrong = [cut or not is_well_formed(template.opening + text) for text, cut in zip(texts, truncated, strict=True)]
    return {"truncated": truncated, "ill_formed": wrong}


class GraceTrainer(GRPOTrainer):
    """Policy-gradient training of rationales with contrastive rewards, of a causal LM and its tokenizer.

    Args:
        spec: a `grace` run's settings.
        rows: training rows: supervised {id, query, positive, negatives}, unsupervised {id, text}.
        args: of `grpo_config`.

    Raises:
        UserError: when rows disagree in their number of negatives.
    """

    def __init__(
        self, model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], args: GRPOConfig, **kwargs: Any
    ) -> None:
        assert spec.grace is not None and spec.generation is not None and spec.reward is not None
        self.spec, self.algorithm, self.generation, self.reward = spec, spec.grace, spec.generation, spec.reward
        # Rollouts of a group that go through the model in one forward pass.
        self.together = math.gcd(spec.grace.rollouts, spec.grace.rollouts_per_forward)
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.ends = engine.end_tokens(model, tokenizer)
        self.silent: set[str] = set()  # terms already reported as teaching nothing
        # With an adapter that is not trained here, or at a closing that is read after the rationale.
        self.pools_apart = separate(model) or spec.pooling.closing is not None
        reads.check(spec.pooling, True)
        reads.closing_ids(self.template, spec.pooling)
        _freeze(model, self.algorithm.frozen)  # nothing with adapters, which freeze all else themselves
        hardware.configure_sharding(args, model)
        super().__init__(
            model=model,
            reward_funcs=[_named(name) for name in TERMS],
            args=args,
            train_dataset=training_set(rows, spec.data),
            processing_class=tokenizer,
            **kwargs,
        )
        self.eos_token_ids = self.ends  # by which TRL counts truncated rollouts
        self.shell = hardware.without_weights(model) if self.is_fsdp_enabled else None

    def _get_train_sampler(self, dataset: Dataset | None = None) -> GroupSampler:
        args: Any = self.args
        return GroupSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.algorithm.rollouts,
            batch_size=self.algorithm.instances,
            repeat_count=args.num_iterations * args.steps_per_generation,
            seed=args.seed,
            trainer=self,
        )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        k = self.algorithm.rollouts
        return [list(ids) for ids in self.template.ids(prompts[::k]) for _ in range(k)], None, {}

    # ---- rollouts -----------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Write this process's rollouts and score them with those of all processes."""
        generation = self.state.global_step // self.algorithm.updates_per_generation
        if self.algorithm.credit == "all" and generation % 2:
            inputs = exchanged(inputs)
        self.rows = inputs  # this process's b instances, each K times in a row
        output = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        output["advantages"] = self.advantages.flatten()[first : first + len(inputs)]
        return in_groups(output, self.together)

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        """K rollouts of each d+, one rationale of each q and d-; returns the rollouts and stores all embeddings."""
        k, instances = self.algorithm.rollouts, self.rows[:: self.algorithm.rollouts]
        prompts, temperatures, keys = requests(
            prompt_ids, instances, self.template, self.generation, self.spec.seed, self.state.global_step
        )
        anchors = (len(prompts) - len(prompt_ids)) // len(instances)
        if self.algorithm.estimator == "remax":
            prompts = prompts + prompt_ids[::k]
            temperatures, keys = temperatures + [0.0] * len(instances), keys + [0] * len(instances)

        logprobs = None
        if self.algorithm.engine == "transformers":
            with self.policy() as model, writing(model) as writer:
                made = engine.generate(
                    writer,
                    prompts,
                    pool_from=reads.pooled_from(self.template, self.spec.pooling),
                    pooling=None if self.pools_apart else self.spec.pooling,
                    keys=keys,
                    temperatures=temperatures,
                    max_new_tokens=self.generation.max_new_tokens,
                    ends=self.ends,
                    batch_size=self.generation.batch_size,
                    compile=self.generation.compile,
                )
            token_ids, pooled = made.token_ids, made.pooled
        else:
            token_ids, logprobs = self._write_with_vllm(prompts, len(prompt_ids), temperatures, keys)
        if self.algorithm.engine == "vllm" or self.pools_apart:
            pooled = self.embed(prompts, token_ids)
        written = torch.tensor(sum(map(len, token_ids)), device=self.accelerator.device)
        self._metrics["train"]["tokens_written"].append(int(gather(written).sum()))
        self.embeddings = Embeddings.split(pooled.to(self.accelerator.device), len(instances), k, anchors)
        return token_ids[: len(prompt_ids)], logprobs

    @contextmanager
    def policy(self) -> Iterator[Any]:
        """The policy as one plain model that writes and embeds: whole on this process, dropout off."""
        device, bf16 = self.accelerator.device, bool(self.args.bf16)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            if self.shell is not None:
                dtype = torch.bfloat16 if bf16 else torch.float32
                with hardware.with_weights(self.shell, self.model, dtype, device) as whole:
                    sharded, self.model = self.model, whole
                    try:
                        yield whole
                    finally:
                        self.model = sharded
                return
            with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
                training = model.training
                try:
                    yield model.eval()
                finally:
                    model.train(training)

    def _write_with_vllm(
        self, prompts: list[list[int]], rollouts: int, temperatures: list[float], keys: list[int]
    ) -> tuple[list[list[int]], Any]:
        """Rationales of all `prompts` in one call of TRL's vLLM generation, which takes the policy's weights first.

        TRL has one temperature and one random stream for all; `per_request` gives each prompt its own.

        Returns:
            Token ids of every prompt; log-probabilities of the first `rollouts`, those that are trained on.
        """
        vllm = self.vllm_generation
        if vllm.tensor_parallel_size > 1:  # processes that share an engine give it all their prompts, in this order
            gathered: list[Any] = [None] * vllm.tensor_parallel_size
            torch.distributed.all_gather_object(gathered, (temperatures, keys), group=vllm.tp_group)
            temperatures = [value for mine, _ in gathered for value in mine]
            keys = [value for _, mine in gathered for value in mine]
        with per_request(vllm.llm, temperatures, keys, self.ends):
            written, logprobs = super()._generate_single_turn(prompts, None, {}, 1)
        return written, logprobs[:rollouts]

    def embed(self, prompts: list[list[int]], token_ids: list[list[int]]) -> Tensor:
        """[N, d] embeddings of rationales that were written elsewhere, equal to those pooled while writing."""
        given = reads.written(self.template, prompts, token_ids, self.spec.pooling, self.ends)
        with self.policy() as model, embedding(model) as pools:
            return forward.embed(pools, given, pooling=self.spec.pooling)

    # ---- rewards ------------------------------------------------------------------------

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """[N over all processes, terms] unweighted rewards; (nan, nan, nan, penalty) where a rollout has failed."""
        self.failed = failed = self.failed_rollouts(completion_ids_list)
        at = Embeddings(*(e if e is None else gather(e.contiguous()) for e in self.embeddings))  # type: ignore[arg-type]
        rewards = self.score(at, at.positives, failed)
        self.advantages = self.advantages_of(rewards.total, at, failed)
        numbers = [rewards.total, self.advantages]  # of an infinite reward TRL would make advantages of 0
        check_finite("a reward or an advantage", numbers, "grace", self.state.global_step + 1)
        self._log_terms(rewards)
        self._check_signal()
        terms = torch.stack((rewards.contrastive, rewards.consistency, rewards.hard), -1)
        columns = torch.cat((terms, torch.zeros_like(terms[..., :1])), -1)
        if self.reward.gamma is None:
            return columns.flatten(0, 1)
        penalty = torch.full_like(columns, torch.nan)
        penalty[..., -1] = rewards.total
        return torch.where(failed.unsqueeze(-1), penalty, columns).flatten(0, 1)

    def failed_rollouts(self, token_ids: list[list[int]]) -> Tensor:
        """[B, K] bool of all processes: truncated, or ill-formed where `reward.form` asks for the form."""
        failed = torch.zeros(0)
        for name, flags in failures(token_ids, self.ends, self.template, self.reward.form).items():
            failed = gather(torch.tensor(flags, device=self.accelerator.device)).view(-1, self.algorithm.rollouts)
            self._metrics["train"][name].append(failed.float().mean().item())
        return failed  # the last kind contains the first

    def score(self, at: Embeddings, positives: Tensor, failed: Tensor) -> RewardBreakdown:
        """Rewards of rollouts with the embeddings `positives` [B, K, d], of all processes; `failed` [B, K] bool."""
        # The control's randomness, equal in every process and after a resume.
        dice = torch.Generator().manual_seed(text_key(self.spec.seed, self.state.global_step, "random") % (1 << 62))
        return compute_rewards(at.query, positives, at.negatives, failed, self.reward, dice)

    def _log_terms(self, rewards: RewardBreakdown) -> None:
        metrics = self._metrics["train"]
        for name in ("contrastive", "negative", "consistency", "hard", "total"):
            if name == "negative" and self.embeddings.negatives is None:
                continue
            term = getattr(rewards, name)
            deviation = within_group_deviation(term)
            metrics[f"{name}/mean"].append(term.mean().item())
            metrics[f"{name}/within_group_std"].append(deviation)
            if deviation < 1e-7 and name not in self.silent and self.accelerator.is_main_process:
                self.silent.add(name)
                log.warning("the %s term is the same for all rollouts of a group: it teaches nothing", name)

    # ---- advantages ---------------------------------------------------------------------

    def advantages_of(self, total: Tensor, at: Embeddings, failed: Tensor) -> Tensor:
        """Advantages [B, K] of all processes' total rewards [B, K]."""
        baseline = None
        if at.greedy is not None:  # the greedy rollout is scored as one more of its group
            extended = torch.cat((at.positives, at.greedy), 1)
            spared = torch.cat((failed, torch.zeros_like(failed[:, :1])), 1)
            baseline = self.score(at, extended, spared).total[:, -1]
        return group_advantages(total, self.algorithm.estimator, baseline)

    def _check_signal(self) -> None:
        """Raises: UserError in the last of the FIRST generations, or of the training, when none had a signal."""
        updates, logged, metrics = self.algorithm.updates_per_generation, self.state.log_history, self._metrics["train"]
        number = self.state.global_step // updates + 1
        if not self.algorithm.stop_without_signal or number != min(FIRST, math.ceil(self.state.max_steps / updates)):
            return
        name, gamma = "total/within_group_std", self.reward.gamma
        deviations = [entry[name] for entry in logged if name in entry] + metrics[name][-1:]
        if max(deviations) > EQUAL * max(self.reward.scale, abs(gamma or 0)):
            return
        reason = "the rollouts of every group were rewarded alike"
        if gamma is not None and metrics["truncated"][-1] == 1:
            reason = f"no rollout ended within generation.max_new_tokens ({self.generation.max_new_tokens})"
        elif gamma is not None and self.reward.form and metrics["ill_formed"][-1] == 1:
            reason = "no rollout was well formed, which reward.form asks for"
        raise UserError(
            f"config: grace: in the first {number} generations {reason}, so there is nothing to learn from; raise the "
            "limit or the temperature, see that the backbone's eos_token is what ends its turns, or set reward.gamma: "
            "null (grace.stop_without_signal: false trains on)."
        )

    # ---- loss ---------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, in_rows(inputs))
        check_finite("the loss", [loss], "grace", self.state.global_step + 1)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[N, L] log-probabilities and entropies of the last L tokens; TRL's own on a GPU."""
        if self.accelerator.device.type != "cpu":
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        policy: Any = self.model
        with self.accelerator.autocast():
            logps, entropies = log_probabilities(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                config=policy.config,
                size=self.together,
                batch_size=batch_size or len(input_ids),
                temperature=self.temperature,
                entropy=compute_entropy,
            )
        return logps, entropies, None


def grace_trainer(
    model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], output_dir: str, **kwargs: Any
) -> GraceTrainer:
    """The trainer of a `grace` run, with TRL's arguments for it."""
    return GraceTrainer(model, tokenizer, spec, rows, grpo_config(spec, output_dir, len(rows)), **kwargs)


# ---- batches ----------------------------------------------------------------------------


class GroupSampler(RepeatSampler):
    """TRL's sampler with an order that follows from (seed, epoch), not from how often it was asked."""

    def __init__(self, *args: Any, trainer: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0.0) + 1e-6)
        self.generator.manual_seed((self.seed or 0) * 1_000_003 + epoch)
        return super().__iter__()


def in_groups(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """A batch of rows [N, ...] as groups [N / size, size, ...]: TRL shuffles and splits along the first dimension."""
    return {
        name: value.unflatten(0, (-1, size)) if isinstance(value, Tensor) and value.ndim else value
        for name, value in batch.items()
    }


def in_rows(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of groups, or of rows, as rows without the columns in which all of them are padded.

    TRL pads all rollouts of a generation to its longest; those that go through the model together rarely need it.
    """
    grouped = batch["prompt_ids"].ndim == 3
    batch = {
        name: value.flatten(0, 1) if grouped and isinstance(value, Tensor) and value.ndim else value
        for name, value in batch.items()
    }
    first = int(batch["prompt_mask"].any(0).int().argmax())
    padded = batch["completion_mask"].shape[1]
    last = int(batch["completion_mask"].sum(1).max())
    for name, value in batch.items():
        if name in ("prompt_ids", "prompt_mask"):
            batch[name] = value[:, first:]
        elif isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == padded:
            batch[name] = value[:, :last]
    return batch


def _freeze(model: Any, parts: list[str]) -> None:
    """Raises: UserError when no parameter's name contains one of `parts`, or nothing is left to train."""
    named = list(model.named_parameters(remove_duplicate=False))  # a tied head by both of its names
    for part in parts:
        found = [parameter for name, parameter in named if part in name]
        if not found:
            raise UserError(f"config: grace.frozen: the backbone has no parameter whose name contains {part!r}.")
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for _, parameter in named):
        raise UserError("config: grace.frozen: nothing is left to train; freeze less.")


def _named(name: str) -> Any:
    """TRL names its reward columns after functions; `_calculate_rewards` never calls them."""

    def reward(**_: Any) -> list[float]:
        raise NotImplementedError(name)

    reward.__name__ = name
    return reward

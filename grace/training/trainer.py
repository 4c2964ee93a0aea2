"""GraceTrainer: GRACE on TRL's GRPOTrainer. The RL loop stays TRL's, these seams are ours:

- `_tokenize_prompts`: the prompt P(x) with the text cut by tokens;
- `_generate_single_turn`: K rollouts of d+ and one rationale each of q and d-, with embeddings;
- `_calculate_rewards`: embeddings are gathered from all ranks, then scored together;
- `_generate_and_score_completions`: the advantages of our estimators;
- `_get_train_sampler`: an order of the data that a resumed run repeats;
- `_compute_loss` and `_get_per_token_logps_and_entropies`: the same values with less work: nothing on padding, and
  on a CPU each group's prompt once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from grace.encoder import reads
from grace.encoder.adapters import embedding, separate, writing
from grace.encoder.engines import packed
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.vllm import per_request
from grace.encoder.sampling import text_key
from grace.method.advantages import group_advantages, within_group_deviation
from grace.method.prompt import PromptTemplate
from grace.method.rewards import RewardBreakdown, compute_rewards
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import sharding
from grace.training.batches import Embeddings, GroupSampler, exchanged, failures, in_groups, in_rows, training_set
from grace.training.finite import check
from grace.training.log_probabilities import log_probabilities

log = logging.getLogger(__name__)

FIRST = 5  # generations, after which one without any signal is not due to chance
ALIKE = 1e-6  # deviation of rewards by rounding, in units of the largest
TERMS = ("contrastive", "consistency", "hard", "rule")  # one reward column each


class GraceTrainer(GRPOTrainer):
    """Policy-gradient training of rationales with contrastive rewards.

    Args:
        model: causal LM.
        tokenizer: its tokenizer.
        spec: a `grace` run's settings.
        rows: training rows: supervised {id, query, positive, negatives}, unsupervised {id, text}.
        args: from `arguments.grpo_config`.

    Raises:
        UserError: when rows disagree in their number of negatives.
    """

    def __init__(
        self, model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], args: GRPOConfig, **kwargs: Any
    ) -> None:
        assert spec.grace is not None and spec.generation is not None and spec.reward is not None
        self.spec, self.algorithm, self.generation, self.reward = spec, spec.grace, spec.generation, spec.reward
        self.k = spec.grace.rollouts
        self.together = math.gcd(self.k, spec.grace.rollouts_per_forward)  # rollouts of a group in one forward pass
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.ends = engine.end_tokens(model, tokenizer)
        self.grpo = args
        self.silent: set[str] = set()  # terms already reported as teaching nothing
        # With an adapter that is not trained here, or at a closing that is read after what was written.
        self.pools_apart = separate(model) or spec.pooling.closing is not None
        reads.check(spec.pooling, True)
        reads.closing_ids(self.template, spec.pooling)
        _freeze(model, self.algorithm.frozen)  # nothing with adapters, which freeze all else themselves
        sharding.configure(args, model)
        super().__init__(
            model=model,
            reward_funcs=[_named(name) for name in TERMS],
            args=args,
            train_dataset=training_set(rows, spec.data),
            processing_class=tokenizer,
            **kwargs,
        )
        self.eos_token_ids = self.ends  # by which TRL counts what was cut off
        self.shell = sharding.hollow(model) if self.is_fsdp_enabled else None

    # ---- data ---------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> GroupSampler:
        return GroupSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.k,
            batch_size=self.algorithm.instances,
            repeat_count=self.grpo.num_iterations * (self.grpo.steps_per_generation or 1),
            seed=self.grpo.seed,
            trainer=self,
        )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        ids = self.template.ids(prompts[:: self.k])
        return [list(one) for one in ids for _ in range(self.k)], None, {}

    # ---- rationales and embeddings ------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        generation = self.state.global_step // self.algorithm.updates_per_generation
        if self.algorithm.credit == "all" and generation % 2:
            inputs = exchanged(inputs)
        self.rows = inputs  # this rank's b instances, each K times in a row
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
        """Write this rank's rationales; returns the rollouts of d+, and keeps the embeddings of all."""
        k = self.k
        instances = self.rows[::k]
        step, seed = self.state.global_step, self.spec.seed
        anchors = [text for row in instances for text in (row["query"], *row["negatives"])]
        greedy = prompt_ids[::k] if self.algorithm.estimator == "remax" else []
        prompts = prompt_ids + self.template.ids(anchors) + greedy
        hot, warm = self.generation.sampling_temperature, self.generation.anchor_sampling_temperature
        temperatures = [hot] * len(prompt_ids) + [warm] * len(anchors) + [0.0] * len(greedy)
        # Keys name the instance, not the rank, so the same batch is written however it is spread.
        per_row = len(anchors) // max(1, len(instances))
        keys = [text_key(seed, step, "rollout", row["id"], i % k) for i, row in enumerate(self.rows)]
        keys += [text_key(seed, step, "anchor", row["id"], m) for row in instances for m in range(per_row)]
        keys += [0] * len(greedy)

        if self.algorithm.engine == "transformers":
            with self.policy() as model, writing(model) as writer:
                made = engine.generate(
                    writer, prompts, pool_from=reads.pooled_from(self.template, self.spec.pooling),
                    pooling=None if self.pools_apart else self.spec.pooling, keys=keys, temperatures=temperatures,
                    max_new_tokens=self.generation.max_new_tokens, ends=self.ends,
                    batch_size=self.generation.batch_size, compile=self.generation.compile,
                )  # fmt: skip
            token_ids, pooled, logprobs = made.token_ids, made.pooled, None
        else:
            token_ids, logprobs = self._write_with_vllm(prompts, len(prompt_ids), temperatures, keys)
        if self.algorithm.engine == "vllm" or self.pools_apart:
            pooled = self.embed(prompts, token_ids)
        written = torch.tensor(sum(map(len, token_ids)), device=self.accelerator.device)
        self._metrics["train"]["tokens_written"].append(int(gather(written).sum()))
        self.embeddings = Embeddings.split(pooled.to(self.accelerator.device), len(instances), k, per_row)
        return token_ids[: len(prompt_ids)], logprobs

    @contextmanager
    def policy(self) -> Iterator[Any]:
        """The policy as one plain model that writes and embeds: whole on this rank, dropout off."""
        device, bf16 = self.accelerator.device, bool(self.args.bf16)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            if self.shell is not None:
                kind = torch.bfloat16 if bf16 else torch.float32
                with sharding.filled(self.shell, self.model, kind, device) as whole:
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

        TRL has one temperature and one random stream for all; `per_request` gives each prompt its own, so rollouts
        of a group differ and a resumed run, or one spread over other ranks, samples the same.

        Returns:
            Token ids of every prompt; log-probabilities of the first `rollouts`, those that are trained on.
        """
        vllm = self.vllm_generation
        if vllm.tensor_parallel_size > 1:  # the ranks that share an engine hand it all their prompts, in this order
            gathered: list[Any] = [None] * vllm.tensor_parallel_size
            torch.distributed.all_gather_object(gathered, (temperatures, keys), group=vllm.tp_group)
            temperatures = [value for mine, _ in gathered for value in mine]
            keys = [value for _, mine in gathered for value in mine]
        with per_request(vllm.llm, temperatures, keys, self.ends):
            written, logprobs = super()._generate_single_turn(prompts, None, {}, 1)
        return written, logprobs[:rollouts]

    def embed(self, prompts: list[list[int]], token_ids: list[list[int]]) -> Tensor:
        """[N, d] embeddings of rationales that were written elsewhere, equal to the fused ones."""
        given = reads.written(self.template, prompts, token_ids, self.spec.pooling, self.ends)
        with self.policy() as model, embedding(model) as pools:
            return packed.embed(pools, given, pooling=self.spec.pooling)

    # ---- the policy's log-probabilities -------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, in_rows(inputs))
        check("the loss", [loss], "grace", self.state.global_step + 1)
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
                model, input_ids, attention_mask, logits_to_keep, config=policy.config, size=self.together,
                batch_size=batch_size or len(input_ids), temperature=self.temperature, entropy=compute_entropy,
            )  # fmt: skip
        return logps, entropies, None

    # ---- rewards and advantages ---------------------------------------------------------

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """[N over all ranks, terms] unweighted rewards; (nan, nan, nan, penalty) where a rollout has failed."""
        self.failed = failed = self._failed(completion_ids_list)
        at = Embeddings(*(e if e is None else gather(e.contiguous()) for e in self.embeddings))  # type: ignore[arg-type]
        rewards = self.score(at, at.positives, failed)
        self.advantages = self.advantages_of(rewards.total, at, failed)
        numbers = [rewards.total, self.advantages]  # of an infinite reward TRL would make advantages of 0
        check("a reward or an advantage", numbers, "grace", self.state.global_step + 1)
        self._log_terms(rewards)
        self._check_signal()
        terms = torch.stack((rewards.contrastive, rewards.consistency, rewards.hard), -1)
        columns = torch.cat((terms, torch.zeros_like(terms[..., :1])), -1)
        if self.reward.gamma is None:
            return columns.flatten(0, 1)
        ruled = torch.full_like(columns, torch.nan)
        ruled[..., -1] = rewards.total
        return torch.where(failed.unsqueeze(-1), ruled, columns).flatten(0, 1)

    def _failed(self, token_ids: list[list[int]]) -> Tensor:
        """[B, K] bool of all ranks: what the rule for failed rollouts applies to."""
        found = torch.zeros(0)
        kinds = failures(token_ids, self.ends, self.template, self.reward.form)
        for name, flags in kinds.items():  # the last holds all
            found = gather(torch.tensor(flags, device=self.accelerator.device)).view(-1, self.k)
            self._metrics["train"][name].append(found.float().mean().item())
        return found

    def advantages_of(self, total: Tensor, at: Embeddings, failed: Tensor) -> Tensor:
        """Advantages [B, K] of all ranks' total rewards [B, K]."""
        baseline = None
        if at.greedy is not None:  # the greedy rollout is scored as one more of its group
            extended = torch.cat((at.positives, at.greedy), 1)
            spared = torch.cat((failed, torch.zeros_like(failed[:, :1])), 1)
            baseline = self.score(at, extended, spared).total[:, -1]
        return group_advantages(total, self.algorithm.estimator, baseline)

    def score(self, at: Embeddings, positives: Tensor, failed: Tensor) -> RewardBreakdown:
        """Rewards of rollouts with the embeddings `positives` [B, K, d], of all ranks; `failed` [B, K] bool."""
        # The control's randomness, equal on every rank and after a resume.
        dice = torch.Generator().manual_seed(text_key(self.spec.seed, self.state.global_step, "random") % (1 << 62))
        return compute_rewards(at.query, positives, at.negatives, failed, self.reward, dice)

    def _check_signal(self) -> None:
        """Raises: UserError in the last of the FIRST generations, or of the training, when none had a signal."""
        updates, logged, metrics = self.algorithm.updates_per_generation, self.state.log_history, self._metrics["train"]
        number = self.state.global_step // updates + 1
        if not self.algorithm.stop_without_signal or number != min(FIRST, math.ceil(self.state.max_steps / updates)):
            return
        name, gamma = "total/within_group_std", self.reward.gamma
        deviations = [entry[name] for entry in logged if name in entry] + metrics[name][-1:]
        if max(deviations) > ALIKE * max(self.reward.scale, abs(gamma or 0)):
            return
        said = "the rollouts of every group were rewarded alike"
        if gamma is not None and metrics["truncated"][-1] == 1:
            said = f"no rollout ended within generation.max_new_tokens ({self.generation.max_new_tokens})"
        elif gamma is not None and self.reward.form and metrics["ill_formed"][-1] == 1:
            said = "no rollout was well formed, which reward.form asks for"
        raise UserError(
            f"config: grace: in the first {number} generations {said}, so there is nothing to learn from; raise the "
            "limit or the temperature, see that the backbone's eos_token is what ends its turns, or set reward.gamma: "
            "null (grace.stop_without_signal: false trains on)."
        )

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

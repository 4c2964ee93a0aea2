"""A GRACE run's settings as TRL's arguments: what each of the paper's values is called there."""

from __future__ import annotations

import torch
from trl import GRPOConfig

from grace.section import UserError
from grace.specs import TrainSpec

LOSS = {"sequence_sum": "dr_grpo", "token_mean": "dapo", "sequence_mean": "grpo"}  # ours -> TRL's


def grpo_config(spec: TrainSpec, output_dir: str, rows: int) -> GRPOConfig:
    """TRL's arguments for a GRACE run.

    A rank's share of a generation is whole groups (`instances` is a multiple of `processes`), so how many rollouts
    go through the model together is free. `sequence_sum` is eq. 19 up to a constant: TRL's `dr_grpo` divides the
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
    cuda = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=output_dir,
        per_device_train_batch_size=g.rollouts_per_forward,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * g.updates_per_generation,
        num_generations=g.rollouts,
        num_iterations=1,
        num_train_epochs=g.epochs,
        max_steps=g.max_steps or -1,
        max_completion_length=spec.generation.max_new_tokens,
        temperature=spec.generation.sampling_temperature,
        learning_rate=g.learning_rate,
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
        bf16=g.precision == "bf16",
        use_cpu=not cuda,
        gradient_checkpointing=g.gradient_checkpointing,
        use_vllm=g.engine == "vllm",
        vllm_mode="colocate",
        vllm_tensor_parallel_size=g.vllm_tensor_parallel,
        vllm_gpu_memory_utilization=g.vllm_memory,
        vllm_max_model_length=spec.prompt.max_prompt_tokens + spec.generation.max_new_tokens,
        vllm_importance_sampling_correction=False,  # eq. 19 has no ratio, and the released code corrects nothing
        save_strategy="steps",
        save_steps=g.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite stops the training (`grace.training.finite`)
        report_to=[],
        seed=spec.seed,
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
    )

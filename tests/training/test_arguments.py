"""The paper's values in TRL's words, and what the two presets make of them."""

from pathlib import Path

import pytest

from grace.merging import read_config
from grace.specs import TrainSpec
from grace.study import Plan
from grace.training.arguments import grpo_config

ROOT = Path(__file__).parents[2]


def plan(preset, study="paper"):
    return Plan({**read_config(ROOT / "config.yaml"), "study": study, "preset": preset})


def spec(preset, run="grace", study="paper"):
    return TrainSpec.model_validate_json(plan(preset, study).spec_train(run, 0))


def arguments(preset, tmp_path, monkeypatch, **changes):
    at = spec(preset)
    # vLLM's and bf16's own checks of the machine are not what is looked at here.
    grace = at.grace.model_copy(update={"engine": "transformers", "precision": "fp32", "processes": 1, **changes})
    return at, grpo_config(at.model_copy(update={"grace": grace}), str(tmp_path), 1000)


@pytest.mark.parametrize(("preset", "updates"), [("as_printed", 1), ("as_released", 4)])
def test_updates_per_generation(tmp_path, monkeypatch, preset, updates):
    """64 instances x 8 rollouts are one step of the optimizer, or four of 16 x 8."""
    at, args = arguments(preset, tmp_path, monkeypatch)
    assert at.grace.updates_per_generation == updates
    per_update = args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert per_update == 512 // updates
    assert args.steps_per_generation == updates * args.gradient_accumulation_steps
    assert args.generation_batch_size == 512 and args.num_iterations == 1
    # TRL keeps the log-probabilities of the policy that sampled, for a ratio, only if it is not the one that is
    # trained: here, when a generation outlives an update.
    on_policy = args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0
    assert on_policy == (updates == 1)
    assert args.epsilon == 0.2 and args.loss_type == {1: "dr_grpo", 4: "dapo"}[updates]


def test_the_paper_s_values(tmp_path, monkeypatch):
    at, args = arguments("as_printed", tmp_path, monkeypatch)
    assert (args.learning_rate, args.lr_scheduler_type.value, args.warmup_steps) == (1e-6, "constant", 0)
    assert (args.beta, args.scale_rewards, args.temperature) == (0.0, "none", 1.0)
    assert args.reward_weights == [10.0, 2.0, 2.0, 1.0]
    assert (args.num_train_epochs, args.max_completion_length, args.num_generations) == (2, 2048, 8)
    assert at.grace.vllm_tensor_parallel == args.vllm_tensor_parallel_size == 2
    assert args.vllm_gpu_memory_utilization == 0.5 and args.vllm_max_model_length == 1024 + 2048
    assert not args.vllm_importance_sampling_correction and args.gradient_checkpointing


def test_what_else_the_presets_change():
    printed, released = spec("as_printed"), spec("as_released")
    assert printed.generation.anchor_sampling_temperature == 1.0
    assert released.generation.anchor_sampling_temperature == 0.5
    assert (printed.grace.loss, released.grace.loss) == ("sequence_sum", "token_mean")
    assert spec("as_printed", "grace-unsup").reward.negatives == "anchor"
    assert spec("as_released", "grace-unsup").reward.negatives == "rollout"
    assert released.reward == printed.reward  # supervised, the reward is the same


@pytest.mark.parametrize("study", ["paper", "single-gpu", "demo"])
def test_every_study_plans_as_released(study):
    made = plan("as_released", study)
    for run in made.trained_runs():
        TrainSpec.model_validate_json(made.spec_train(run, 0))
        assert made.launcher(run)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_rank_s_share_is_whole_groups(tmp_path, monkeypatch, processes):
    for rows in (1, 2, 4, 8, 16):
        _, args = arguments("as_printed", tmp_path, monkeypatch, rollouts_per_forward=rows, processes=processes)
        share = args.per_device_train_batch_size * args.steps_per_generation
        assert share * processes == 512 and share % 8 == 0

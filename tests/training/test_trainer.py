"""GraceTrainer: its settings in TRL's words, its rewards, advantages and steps, however a batch is spread."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from grace.config.plan import Plan
from grace.config.schema import RewardConfig
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.config.studies import read_config
from grace.method.rewards import compute_rewards
from grace.training.run import load
from grace.training.trainer import Embeddings, GraceTrainer, exchanged, grpo_config, in_groups, in_rows
from tests.training.settings import grace_spec, rows

ROOT = Path(__file__).parents[2]


def trainer_of(folder, out, spec, data=None, kind=GraceTrainer):
    model, tokenizer = load(folder, spec)
    data = rows(16, spec.data) if data is None else data
    return kind(model, tokenizer, spec, data, grpo_config(spec, str(out), len(data)))


def trained(folder, out, spec, data=None):
    trainer = trainer_of(folder, out, spec, data)
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


class Recorder(GraceTrainer):
    """Keeps what each generation saw and made."""

    def __init__(self, *args, **kwargs):
        self.kept = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.kept.append((inputs, output, self.embeddings, self.advantages))
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.columns = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.completions = completion_ids_list
        return self.columns


@pytest.mark.parametrize(
    ("data", "rule"),
    [("supervised", {"gamma": 2.0}), ("unsupervised", {"gamma": 2.0}), ("supervised", {"gamma": None}),
     ("supervised", {"gamma": 2.0, "gamma_unit": "deviation"})],
)  # fmt: skip
def test_columns_weighted_are_the_reward(tiny_folder, tmp_path, data, rule):
    reward = RewardConfig(lambda1=0.3, lambda2=0.5, scale=7.0, **rule)
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(data, reward, max_steps=1), kind=Recorder)
    trainer.train()
    _, _, at, advantages = trainer.kept[0]
    truncated = torch.tensor([ids[-1] not in trainer.ends for ids in trainer.completions]).view(-1, 4)
    assert truncated.any() and not truncated.all()
    expected = compute_rewards(at.query, at.positives, at.negatives, truncated, reward).total
    got = (trainer.columns * trainer.reward_weights).nansum(1).view(-1, 4)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(advantages, expected - expected.mean(1, keepdim=True))


@pytest.mark.parametrize("form", [False, True])
def test_what_the_rule_for_failed_rollouts_applies_to(tiny_folder, tmp_path, form):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(reward=RewardConfig(form=form)))
    tokenizer = trainer.processing_class
    thought, none = (tokenizer(text)["input_ids"] for text in ("<think>sum</think> a matrix", "a matrix"))
    failed = trainer.failed_rollouts([[*thought, trainer.ends[0]], [*none, trainer.ends[0]], thought, none])
    assert failed.tolist() == [[False, form, True, True]]
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert metrics == {"truncated": 0.5} | ({"ill_formed": 0.75} if form else {})


def test_a_thought_that_the_template_opens_is_well_formed_when_it_is_closed(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    chat = folder / "chat_template.jinja"
    chat.write_text(chat.read_text().replace("assistant\n{% endif", "assistant\n<think>{% endif"))
    trainer = trainer_of(folder, tmp_path / "out", grace_spec(reward=RewardConfig(form=True)))
    said = ("sum</think> a matrix", "<think>sum</think> a matrix", "sum</think>", "sum")
    failed = trainer.failed_rollouts([[*trainer.processing_class(text)["input_ids"], trainer.ends[0]] for text in said])
    assert failed.tolist() == [[False, True, True, True]]


def test_trl_counts_what_ends_with_the_turn_as_ended(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    base = {"generation_config.json": {"eos_token_id": 0}, "tokenizer_config.json": {"eos_token": "<|endoftext|>"}}
    for name, edit in base.items():
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **edit}))
    trainer = trainer_of(folder, tmp_path / "out", grace_spec())
    assert trainer.eos_token_ids == trainer.ends == [0, 2]


def test_advantages_equal_trls_own(tiny_folder, tmp_path, monkeypatch):
    """For plain GRPO, TRL computes the same from our reward columns."""
    from trl import GRPOTrainer

    seen = {}
    original = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        output = original(self, inputs)
        seen["trl"] = output["advantages"].clone()
        return output

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=1), kind=Recorder)
    trainer.train()
    torch.testing.assert_close(seen["trl"], trainer.kept[0][3].flatten(), atol=1e-5, rtol=1e-4)


def test_fused_embeddings_equal_a_separate_forward(tiny_folder, tmp_path):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=1), kind=Recorder)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    inputs, _, at, _ = trainer.kept[0]
    with torch.no_grad():  # the embeddings are of the policy that sampled
        for name, p in trainer.model.named_parameters():
            p.copy_(before[name])
    prompts = trainer.template.ids([row["prompt"] for row in inputs])
    again = trainer.embed(prompts, trainer.completions)
    torch.testing.assert_close(again, at.positives.flatten(0, 1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("changes", "passes"), [({}, 0), ({"updates_per_generation": 4, "save_steps": 4}, 4)])
def test_no_forward_pass_is_repeated(tiny_folder, tmp_path, changes, passes):
    """Of the default settings, on-policy, and of the preset as_released, whose clipping needs the old probabilities:
    beside writing, each rollout goes through the decoder once, and there once more, without gradients."""
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(rollouts_per_forward=8, max_steps=4, **changes))
    writes, counts = trainer._generate_single_turn, {"writing": 0, True: 0, False: 0}
    writing = []

    def write(*args, **kwargs):
        writing.append(1)
        made = writes(*args, **kwargs)
        writing.pop()
        return made

    def count(*_):
        counts["writing" if writing else torch.is_grad_enabled()] += 1

    trainer._generate_single_turn = write
    trainer.model.get_decoder().register_forward_pre_hook(count)
    trainer.train()
    generations = 1 if changes else 4
    assert counts["writing"] > 0
    assert (counts[True], counts[False]) == (generations * 32 // 8, generations * passes)


def test_metrics_are_logged_and_a_term_that_teaches_nothing_is_reported_once(tiny_folder, tmp_path, caplog):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=3))
    with caplog.at_level(logging.WARNING, "grace.training.trainer"):
        trainer.train()
    said = [record.getMessage() for record in caplog.records if "teaches nothing" in record.getMessage()]
    assert sorted(text.split()[1] for text in said) == ["hard", "negative"]
    entry = trainer.state.log_history[0]
    for term in ("contrastive", "negative", "consistency", "hard", "total"):
        assert f"{term}/mean" in entry and f"{term}/within_group_std" in entry
    assert entry["hard/within_group_std"] == 0 and entry["contrastive/within_group_std"] > 0


def test_only_what_is_not_frozen_moves(tiny_folder, tmp_path):
    spec = grace_spec()
    before = {name: p.clone() for name, p in load(tiny_folder, spec)[0].named_parameters()}
    after = trained(tiny_folder, tmp_path, spec)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and not any("embed_tokens" in name or "norm" in name for name in moved)
    assert len(moved) == sum("proj" in name for name in before)


@pytest.mark.parametrize(("data", "parts"), [("supervised", 4), ("supervised", 1), ("unsupervised", 2)])
def test_accumulating_equals_one_batch(tiny_folder, tmp_path, data, parts):
    """Four rollouts share their prompt in a pass, two do, or none."""
    whole = trained(tiny_folder, tmp_path / "a", grace_spec(data, rollouts_per_forward=32))
    parts = trained(tiny_folder, tmp_path / "b", grace_spec(data, rollouts_per_forward=parts))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-5, rtol=0)


def test_one_rank_equals_two(tiny_folder, tmp_path):
    kept = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += ["-m", "tests.training.replay", str(tiny_folder), str(out), str(processes)]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        kept.append(torch.load(out / "kept.pt"))
    one, two = kept
    assert one["total"].shape == (64, 4)
    assert torch.equal(one["failed"], two["failed"])
    torch.testing.assert_close(one["total"], two["total"], atol=1e-4, rtol=0)
    torch.testing.assert_close(one["advantages"], two["advantages"], atol=1e-4, rtol=0)
    for name in one["weights"]:
        torch.testing.assert_close(one["weights"][name], two["weights"][name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", [{"estimator": "grpo_std"}, {"estimator": "dapo"}, {"estimator": "reinforce++"},
                                    {"estimator": "remax"}, {"loss": "token_mean"}, {"updates_per_generation": 2,
                                    "rollouts_per_forward": 16, "save_steps": 2}])  # fmt: skip
def test_algorithms_run_and_move_weights(tiny_folder, tmp_path, change):
    spec = grace_spec(**change)
    before = dict(load(tiny_folder, spec)[0].named_parameters())
    after = trained(tiny_folder, tmp_path, spec)
    assert all(torch.isfinite(p).all() for p in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_random_reward_trains_on_other_advantages(tiny_folder, tmp_path):
    real = trainer_of(tiny_folder, tmp_path / "a", grace_spec(max_steps=1), kind=Recorder)
    control = trainer_of(
        tiny_folder, tmp_path / "b", grace_spec(reward=RewardConfig(reward="random"), max_steps=1), kind=Recorder
    )
    real.train(), control.train()
    mine, theirs = real.kept[0][3], control.kept[0][3]
    assert not torch.allclose(mine, theirs)
    torch.testing.assert_close(mine.sort(1).values, theirs.sort(1).values)


def test_credit_for_queries_too_takes_turns(tiny_folder, tmp_path):
    """Every second generation has rollouts of q, judged by d+."""
    seen = []

    class Turns(GraceTrainer):
        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            seen.append((prompt_ids, self.rows))
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    spec = grace_spec(max_steps=4, credit="all", updates_per_generation=2, rollouts_per_forward=8, save_steps=2)
    trainer = trainer_of(tiny_folder, tmp_path, spec, kind=Turns)
    trainer.train()
    of = {row["positive"]: row["query"] for row in rows(16)}
    (first, documents), (second, queries) = seen
    assert all(of[row["prompt"]] == row["query"] for row in documents)
    assert all(of[row["query"]] == row["prompt"] for row in queries)
    for ids, given in ((first, documents), (second, queries)):
        assert ids == trainer.template.ids([row["prompt"] for row in given])


def test_two_negatives(tiny_folder, tmp_path):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=1), rows(16, negatives=2), Recorder)
    trainer.train()
    assert trainer.kept[0][2].negatives.shape == (8, 2, 32)


def ended(trainer, *generations):
    """Let rollouts end in these generations, numbered from 1, and in no other."""
    written = trainer.failed_rollouts

    def failed(token_ids):
        if trainer.state.global_step // trainer.algorithm.updates_per_generation + 1 not in generations:
            token_ids = [[5] * len(ids) for ids in token_ids]
        return written(token_ids)

    trainer.failed_rollouts = failed
    return trainer


FEWER = {"updates_per_generation": 2, "rollouts_per_forward": 16, "save_steps": 2}
THREE = {"rollouts": 3, "rollouts_per_forward": 24, "estimator": "grpo_std"}


@pytest.mark.parametrize(
    ("reward", "changes", "steps", "last"),
    [({}, {}, 8, 5), ({"form": True}, {}, 1, 1), ({"reward": "random"}, {}, 2, 2),
     ({"gamma_unit": "deviation"}, {}, 1, 1),
     ({"gamma": 0.7}, {"estimator": "remax"}, 1, 1), ({"gamma": 0.7}, THREE, 2, 2), ({}, FEWER, 3, 2)],
)  # fmt: skip
def test_a_training_without_any_signal_stops(tiny_folder, tmp_path, reward, changes, steps, last):
    spec = grace_spec(reward=RewardConfig(**reward), max_steps=steps, **changes)
    trainer = ended(trainer_of(tiny_folder, tmp_path, spec))
    with pytest.raises(UserError, match=rf"^config: grace: in the first {last} generations no rollout ended within "):
        trainer.train()
    assert trainer.state.global_step == (last - 1) * spec.grace.updates_per_generation


def test_a_training_without_any_signal_goes_on_when_told_to(tiny_folder, tmp_path):
    ended(trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=2, stop_without_signal=False))).train()


def test_rollouts_that_are_all_the_same_are_no_signal(tiny_folder, tmp_path):
    spec = grace_spec(reward=RewardConfig(gamma=None), max_steps=3)
    cold = spec.generation.model_copy(update={"sampling_temperature": 1e-9})
    with pytest.raises(UserError, match="in the first 3 generations the rollouts of every group were rewarded alike"):
        trainer_of(tiny_folder, tmp_path, spec.model_copy(update={"generation": cold})).train()


def test_ill_formed_rollouts_are_named(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("grace.training.trainer.is_well_formed", lambda _: False)
    with pytest.raises(UserError, match="no rollout was well formed, which"):
        trainer_of(tiny_folder, tmp_path, grace_spec(reward=RewardConfig(form=True))).train()


@pytest.mark.parametrize(("generations", "gamma"), [((2,), 1.0), ((), None)])
def test_one_signal_is_enough_and_without_a_rule_nothing_fails(tiny_folder, tmp_path, generations, gamma):
    """Also where the training goes on from a checkpoint."""
    spec = grace_spec(reward=RewardConfig(gamma=gamma), max_steps=7)
    ended(trainer_of(tiny_folder, tmp_path, spec), *generations).train()
    ended(trainer_of(tiny_folder, tmp_path, spec)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_what_had_no_signal_before_a_kill_still_counts(tiny_folder, tmp_path):
    spec = grace_spec(max_steps=8, epochs=4.0)
    with pytest.raises(UserError):
        ended(trainer_of(tiny_folder, tmp_path, spec)).train()
    for step in (4, 3):
        again = ended(trainer_of(tiny_folder, tmp_path, spec))
        with pytest.raises(UserError, match="in the first 5 generations"):
            again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert again.state.global_step == 4


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        (["embed_tokens", "nrom"], "has no parameter whose name contains 'nrom'"),
        (["model"], "nothing is left to train"),
    ],
)
def test_what_is_frozen_exists_and_is_not_all(tiny_folder, tmp_path, frozen, said):
    with pytest.raises(UserError, match=rf"^config: grace\.frozen: .*{said}"):
        trainer_of(tiny_folder, tmp_path, grace_spec(frozen=frozen))


def test_a_tied_head_is_frozen_with_the_table(tiny_folder, tmp_path):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(frozen=["lm_head"]))
    assert not trainer.model.get_input_embeddings().weight.requires_grad


ROOT = Path(__file__).parents[2]


def plan(preset, study="paper"):
    return Plan({**read_config(ROOT / "config.yaml"), "study": study, "preset": preset})


def preset_spec(preset, run="grace", study="paper"):
    return TrainSpec.model_validate_json(plan(preset, study).spec_train(run, 0))


def arguments(preset, tmp_path, monkeypatch, **changes):
    at = preset_spec(preset)
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
    printed, released = preset_spec("as_printed"), preset_spec("as_released")
    assert printed.generation.anchor_sampling_temperature == 1.0
    assert released.generation.anchor_sampling_temperature == 0.5
    assert (printed.grace.loss, released.grace.loss) == ("sequence_sum", "token_mean")
    assert preset_spec("as_printed", "grace-unsup").reward.negatives == "anchor"
    assert preset_spec("as_released", "grace-unsup").reward.negatives == "rollout"
    assert released.reward == printed.reward  # supervised, the reward is the same


@pytest.mark.parametrize("study", ["paper", "single-gpu", "demo"])
def test_every_study_plans_as_released(study):
    made = plan("as_released", study)
    for run in made.runs.trained_runs():
        TrainSpec.model_validate_json(made.spec_train(run, 0))
        assert made.runs.launcher(run)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_rank_s_share_is_whole_groups(tmp_path, monkeypatch, processes):
    for count in (1, 2, 4, 8, 16):
        _, args = arguments("as_printed", tmp_path, monkeypatch, rollouts_per_forward=count, processes=processes)
        share = args.per_device_train_batch_size * args.steps_per_generation
        assert share * processes == 512 and share % 8 == 0


def batch():
    """6 rows of 2 groups: prompts of 2 and 4 tokens, padded to 5; rollouts of 1 to 3, padded to 7."""
    prompts, rollouts = torch.tensor([2, 2, 2, 4, 4, 4]), torch.tensor([1, 3, 2, 2, 1, 1])
    prompt_mask = (torch.arange(5) >= 5 - prompts.unsqueeze(1)).long()
    completion_mask = (torch.arange(7) < rollouts.unsqueeze(1)).long()
    row = torch.arange(1, 7).unsqueeze(1)
    return {
        "prompt_ids": row * 10 * prompt_mask, "prompt_mask": prompt_mask,
        "completion_ids": row * completion_mask, "completion_mask": completion_mask,
        "old_per_token_logps": -row * completion_mask.float(), "advantages": row.squeeze(1).float(),
        "num_items_in_batch": completion_mask.sum(), "nothing": None,
    }  # fmt: skip


def test_trl_shuffles_and_splits_whole_groups():
    torch.manual_seed(0)
    parts = split_tensor_dict(shuffle_sequence_dict(in_groups(batch(), 3)), 2)
    seen = [in_rows(part)["advantages"].tolist() for part in parts]
    assert sorted(seen) == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_rows_come_back_without_common_padding():
    whole = batch()
    before = {name: value if value is None else value.clone() for name, value in whole.items()}
    for some, prompt, rollout in ((slice(0, 3), 2, 3), (slice(3, 6), 4, 2)):
        part = {k: v[some] if isinstance(v, torch.Tensor) and v.ndim else v for k, v in whole.items()}
        for given in (part, in_groups(part, 3)):
            made = in_rows(given)
            assert made["prompt_ids"].shape == made["prompt_mask"].shape == (3, prompt)
            for name in ("completion_ids", "completion_mask", "old_per_token_logps"):
                assert made[name].shape == (3, rollout)
                assert made[name].sum() == part[name].sum()  # what is cut off is zero
            assert made["prompt_ids"].sum() == part["prompt_ids"].sum()
            assert torch.equal(made["advantages"], part["advantages"])
            assert made["num_items_in_batch"] == 10 and made["nothing"] is None
    assert all(value is None or torch.equal(value, before[name]) for name, value in whole.items())


def test_embeddings_are_split_as_their_texts_were_written():
    """Two instances: rollouts a0 a1 a2 b0 b1 b2, then q and two d- of a, of b, then a greedy rollout of each."""
    pooled = torch.arange(6 + 6 + 2).float().unsqueeze(1)
    at = Embeddings.split(pooled, 2, 3, 3)
    assert at.positives.squeeze(2).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert at.query.squeeze(1).tolist() == [6, 9]
    assert at.negatives is not None and at.negatives.squeeze(2).tolist() == [[7, 8], [10, 11]]
    assert at.greedy is not None and at.greedy.squeeze(2).tolist() == [[12], [13]]
    bare = Embeddings.split(pooled[:8], 2, 3, 1)
    assert bare.negatives is None and bare.greedy is None and bare.query.squeeze(1).tolist() == [6, 7]


def test_exchanged_rows_have_the_query_where_the_document_was():
    row = {"id": "a", "prompt": "document", "query": "query", "negatives": ["other"]}
    (made,) = exchanged([row])
    assert (made["prompt"], made["query"], made["negatives"]) == ("query", "document", ["other"])
    assert made["id"] != "a"  # its noise is its own
    assert exchanged([made])[0]["prompt"] == "document"

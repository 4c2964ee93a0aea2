"""GraceTrainer: what it scores, what it trains, and that nothing depends on how the batch is spread."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grace.method.rewards import compute_rewards
from grace.section import UserError
from grace.settings import RewardConfig
from grace.training.arguments import grpo_config
from grace.training.train import load
from grace.training.trainer import GraceTrainer
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
    failed = trainer._failed([[*thought, trainer.ends[0]], [*none, trainer.ends[0]], thought, none])
    assert failed.tolist() == [[False, form, True, True]]
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert metrics == {"truncated": 0.5} | ({"ill_formed": 0.75} if form else {})


def test_a_thought_that_the_template_opens_is_well_formed_when_it_is_closed(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    chat = folder / "chat_template.jinja"
    chat.write_text(chat.read_text().replace("assistant\n{% endif", "assistant\n<think>{% endif"))
    trainer = trainer_of(folder, tmp_path / "out", grace_spec(reward=RewardConfig(form=True)))
    said = ("sum</think> a matrix", "<think>sum</think> a matrix", "sum</think>", "sum")
    failed = trainer._failed([[*trainer.processing_class(text)["input_ids"], trainer.ends[0]] for text in said])
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


def test_log_probabilities_equal_trls_kernel(tiny_folder, tmp_path):
    from trl import GRPOTrainer

    trainer = trainer_of(tiny_folder, tmp_path, grace_spec())
    ids = torch.randint(5, 400, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :6] = 0  # left padding
    mine = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 8, compute_entropy=True)
    theirs = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, 8, compute_entropy=True)
    torch.testing.assert_close(mine[0], theirs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine[1], theirs[1], atol=1e-3, rtol=1e-3)


def test_a_term_that_teaches_nothing_is_said_once(tiny_folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "grace.training.trainer"):
        trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=3)).train()
    said = [record.getMessage() for record in caplog.records if "teaches nothing" in record.getMessage()]
    assert sorted(text.split()[1] for text in said) == ["hard", "negative"]


def test_metrics_are_logged(tiny_folder, tmp_path):
    trainer = trainer_of(tiny_folder, tmp_path, grace_spec(max_steps=1))
    trainer.train()
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


def test_unequal_negatives_are_refused(tiny_folder, tmp_path):
    data = rows(16)
    data[3]["negatives"] = []
    with pytest.raises(UserError, match="between 0 and 1 negatives"):
        trainer_of(tiny_folder, tmp_path, grace_spec(), data)


def test_too_few_rows(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"grace\.instances"):
        trainer_of(tiny_folder, tmp_path, grace_spec(), rows(7))


def ended(trainer, *generations):
    """Let rollouts end in these generations, numbered from 1, and in no other."""
    written = trainer._failed

    def failed(token_ids):
        if trainer.state.global_step // trainer.algorithm.updates_per_generation + 1 not in generations:
            token_ids = [[5] * len(ids) for ids in token_ids]
        return written(token_ids)

    trainer._failed = failed
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
    monkeypatch.setattr("grace.training.batches.is_well_formed", lambda _: False)
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

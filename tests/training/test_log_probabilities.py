"""Log-probabilities of rollouts that share their prompt's pass equal TRL's of rows of their own, gradients too."""

from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from grace.training import log_probabilities as module
from grace.training.run import load
from grace.training.trainer import GraceTrainer, grpo_config
from tests.training.settings import LORA, grace_spec, rows

PROMPTS, LENGTHS, NEW = [5, 17, 1], [[3, 8, 1, 6], [8, 8, 8, 8], [1, 1, 2, 1]], 8


def made(vocabulary=400):
    """Three groups of four rollouts, and the mask of their tokens."""
    draw = torch.Generator().manual_seed(0)
    width = max(PROMPTS)
    ids = torch.zeros(12, width + NEW, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for group, prompt in enumerate(PROMPTS):
        ids[group * 4 : group * 4 + 4, width - prompt : width] = torch.randint(5, vocabulary, (prompt,), generator=draw)
        mask[group * 4 : group * 4 + 4, width - prompt : width] = 1
        for k, length in enumerate(LENGTHS[group]):
            ids[group * 4 + k, width : width + length] = torch.randint(5, vocabulary, (length,), generator=draw)
            mask[group * 4 + k, width : width + length] = 1
    return ids, mask


def trainer_of(folder, out, **changes):
    spec = grace_spec(**{"frozen": [], **changes})
    assert spec.generation is not None
    spec = spec.model_copy(update={"generation": spec.generation.model_copy(update={"sampling_temperature": 1.3})})
    torch.manual_seed(0)
    model, tokenizer = load(folder, spec)
    data = rows(16)
    return GraceTrainer(model, tokenizer, spec, data, grpo_config(spec, str(out), len(data)))


def loss_and_gradients(trainer, kind, ids, mask):
    """A policy-gradient loss of made advantages over the tokens that count, and the entropies of these."""
    trainer.model.zero_grad()
    logps, entropies, _ = kind._get_per_token_logps_and_entropies(
        trainer, trainer.model, ids, mask, NEW, compute_entropy=True
    )
    counts = mask[:, -NEW:]
    loss = (logps * torch.arange(-6.0, 6.0).unsqueeze(1) * counts).sum() / counts.sum()
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss, (logps * counts).detach(), entropies * counts, gradients


def widths_of(trainer):
    seen = []
    trainer.model.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize(
    "changes", [{}, {"lora": LORA}, {"gradient_checkpointing": True}], ids=["all weights", "adapters", "checkpointing"]
)
def test_shared_prompts_equal_trls_rows(tiny_folder, tmp_path, changes):
    trainer = trainer_of(tiny_folder, tmp_path, **changes)
    ids, mask = made()
    seen = widths_of(trainer)
    mine = loss_and_gradients(trainer, GraceTrainer, ids, mask)
    assert seen[0] == (3, max(PROMPTS) - 1 + 32)
    plain = trainer_of(tiny_folder, tmp_path, **changes)
    theirs = loss_and_gradients(plain, GRPOTrainer, ids, mask)
    torch.testing.assert_close(mine[0], theirs[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mine[1], theirs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine[2], theirs[2], atol=1e-4, rtol=1e-4)
    assert mine[3].keys() == theirs[3].keys() and mine[3]
    for name, gradient in mine[3].items():
        torch.testing.assert_close(gradient, theirs[3][name], atol=1e-5, rtol=1e-4, msg=name)


def test_old_probabilities_take_few_rows_at_a_time(tiny_folder, tmp_path):
    trainer = trainer_of(tiny_folder, tmp_path)
    ids, mask = made()
    seen = widths_of(trainer)
    whole = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, NEW)[0]
    parts, entropies, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, NEW, batch_size=4)
    assert [rows for rows, _ in seen] == [3, 1, 1, 1] and entropies is None
    counts = mask[:, -NEW:]
    torch.testing.assert_close(whole * counts, parts * counts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("why", ["another prompt", "not whole groups", "long rollouts", "eager"])
def test_rows_of_their_own_where_sharing_is_wrong_or_more_work(tiny_folder, tmp_path, why):
    trainer = trainer_of(tiny_folder, tmp_path)
    ids, mask = made()
    new = NEW
    if why == "another prompt":
        ids[2, 10] += 1
    elif why == "not whole groups":
        ids, mask = ids[:10], mask[:10]
    elif why == "long rollouts":
        draw = torch.Generator().manual_seed(1)
        ids = torch.cat((ids[:4], torch.randint(5, 400, (4, 400), generator=draw)), 1)
        mask, new = torch.ones_like(ids), 408
    else:
        trainer.model.set_attn_implementation("eager")
    seen = widths_of(trainer)
    with torch.no_grad():
        mine, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, new)
        assert seen == [tuple(ids.shape)]
        theirs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, new)
    counts = mask[:, -new:]
    torch.testing.assert_close(mine * counts, theirs * counts, atol=1e-4, rtol=1e-4)


def test_sliding_attention_and_unknown_architectures_take_no_mask_of_ours():
    known = {"model_type": "qwen2", "_attn_implementation": "sdpa", "layer_types": ["full_attention"] * 2}
    assert module.attends_by_mask(SimpleNamespace(**known))
    for change in ({"layer_types": ["full_attention", "sliding_attention"]}, {"model_type": "bloom"}):
        assert not module.attends_by_mask(SimpleNamespace(**known | change))


def test_less_work_counts_what_attention_wastes():
    config = SimpleNamespace(hidden_size=128, intermediate_size=384)
    assert module.less_work(config, torch.Size((128, 112)), torch.Size((16, 71 + 8 * 40)))
    assert not module.less_work(config, torch.Size((8, 32 + 2000)), torch.Size((1, 31 + 8 * 2000)))

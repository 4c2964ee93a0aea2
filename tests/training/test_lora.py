"""Adapters: alone trained, merged into an ordinary model."""

import pytest
import torch

from grace.section import UserError
from grace.settings import Lora
from grace.training import lora
from grace.training.checkpoints import last_checkpoint
from grace.training.train import build_trainer, load
from tests.training.settings import LORA, contrastive_spec, grace_spec, rows

ADAPTED = {
    "grace": grace_spec(lora=LORA, frozen=[], max_steps=1),
    "grace, checkpointing": grace_spec(lora=LORA, frozen=[], max_steps=1, gradient_checkpointing=True),
    "cl": contrastive_spec("cl", lora=LORA, max_steps=2, warmup_ratio=0.0),
    "simcse": contrastive_spec("simcse", lora=LORA, max_steps=2, warmup_ratio=0.0),
}


def trained(folder, out, spec, **more):
    torch.manual_seed(spec.seed)
    model, tokenizer = load(folder, spec)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = build_trainer(model, tokenizer, spec, rows(16, spec.data), out)
    trainer.train(**more)
    return model, before


@pytest.mark.parametrize("case", ADAPTED)
def test_only_adapters_change_and_merging_changes_nothing(tiny_folder, tmp_path, case):
    model, before = trained(tiny_folder, tmp_path, ADAPTED[case])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    model.eval()
    ids = torch.randint(5, 400, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            assert (model(input_ids=ids).logits - adapted).abs().max() > 1e-4
        merged = lora.merged(model)
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted, atol=1e-5, rtol=0)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_rationales_are_written_without_dropout(tiny_folder, tmp_path):
    """The policy that writes is the one without dropout, whatever the adapters' dropout."""
    spec = grace_spec(lora={**LORA, "dropout": 0.5}, frozen=[], max_steps=1)
    model, tokenizer = load(tiny_folder, spec)
    trainer = build_trainer(model, tokenizer, spec, rows(16), tmp_path)
    model.train()
    with trainer.policy() as policy:
        assert not policy.training and not any(module.training for module in policy.modules())
    assert model.training


@pytest.mark.parametrize("case", ["grace", "cl"])
def test_resume_is_exact(tiny_folder, tmp_path, case):
    spec = ADAPTED[case]
    part = "grace" if spec.grace else "contrastive"
    changes = {"max_steps": 4, "epochs": 2.0, "lora": Lora(**{**LORA, "dropout": 0.1})}
    spec = spec.model_copy(update={part: getattr(spec, part).model_copy(update=changes)})
    whole, _ = trained(tiny_folder, tmp_path / "whole", spec)
    folder = tmp_path / "again"
    short = spec.model_copy(update={part: getattr(spec, part).model_copy(update={"save_steps": 3})})

    class Stop(Exception):
        pass

    torch.manual_seed(spec.seed)
    model, tokenizer = load(tiny_folder, short)
    trainer = build_trainer(model, tokenizer, short, rows(16), folder)
    original = trainer.training_step

    def step(*arguments, **keywords):
        if trainer.state.global_step == 3:
            raise Stop
        return original(*arguments, **keywords)

    trainer.training_step = step
    with pytest.raises(Stop):
        trainer.train()
    checkpoint = last_checkpoint(folder)
    assert checkpoint and checkpoint.endswith("checkpoint-3")
    again, _ = trained(tiny_folder, folder, short, resume_from_checkpoint=checkpoint)
    expected = dict(whole.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in again.named_parameters())


def test_saved_model_needs_no_peft(tiny_folder, tmp_path):
    import subprocess
    import sys

    model, _ = trained(tiny_folder, tmp_path / "run", ADAPTED["grace"])
    merged = lora.merged(model)
    merged.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/adapter_config.json").exists()
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path / 'saved')!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "Qwen2ForCausalLM", done.stderr[-500:]


def test_unknown_targets(tiny_folder):
    with pytest.raises(UserError, match=r"config: cl\.lora\.targets: the backbone has no modules named"):
        load(tiny_folder, contrastive_spec("cl", lora={**LORA, "targets": ["nowhere"]}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frozen": ["norm"], "lora": LORA}, "frozen: with lora"),
        ({"lora": {**LORA, "targets": ["lm_head"]}}, "lm_head"),
    ],
)
def test_settings_that_exclude_each_other(changes, said):
    with pytest.raises(ValueError, match=said):
        grace_spec(**{"frozen": [], **changes})

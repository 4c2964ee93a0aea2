"""Adapters: alone trained, merged into an ordinary model, but for one that only pools."""

import importlib.util

import pytest
import torch

from grace.config.schema import Lora
from grace.config.section import UserError
from grace.encoder.adapters import EMBEDDING, writing
from grace.encoder.loading import load_model
from grace.training import hardware, lora
from grace.training.run import last_checkpoint, load
from tests.training.settings import LORA, contrastive_spec, grace_spec, model_of, trainer_of

ADAPTED = {
    "grace": grace_spec(lora=LORA, frozen=[], max_steps=1),
    "grace, checkpointing": grace_spec(lora=LORA, frozen=[], max_steps=1, gradient_checkpointing=True),
    "cl": contrastive_spec("cl", lora=LORA, max_steps=2, warmup_ratio=0.0),
    "simcse": contrastive_spec("simcse", lora=LORA, max_steps=2, warmup_ratio=0.0),
    "kl_fence": contrastive_spec("kl_fence", loss="half", max_steps=2, warmup_ratio=0.0),
    "adapter": contrastive_spec("adapter", loss="half", max_steps=2, warmup_ratio=0.0),
}


def trained(folder, out, spec, **more):
    trainer = trainer_of(folder, out, spec)
    model = model_of(trainer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train(**more)
    return model, before


@pytest.mark.parametrize("case", [case for case in ADAPTED if case != "adapter"])
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
    trainer = trainer_of(tiny_folder, tmp_path, spec)
    model = model_of(trainer)
    model.train()
    with trainer.policy() as policy:
        assert not policy.training and not any(module.training for module in policy.modules())
    assert model.training


def test_an_adapter_that_pools_has_a_table_of_its_own_and_stays_apart(tiny_folder, tmp_path):
    model, before = trained(tiny_folder, tmp_path, ADAPTED["adapter"])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name and f".{EMBEDDING}" in name for name in moved)
    assert any("embed_tokens.lora_embedding_A" in name for name in moved)
    assert any("down_proj" in name for name in moved) and not any(
        "lm_head" in name for name in before if "lora" in name
    )
    assert lora.merged(model) is model
    ids = torch.tensor([[5, 9, 60]])
    with torch.no_grad(), writing(model.eval()) as writer:
        assert torch.equal(writer(input_ids=ids).logits, load_model(tiny_folder, "cpu")[0](input_ids=ids).logits)


def test_a_table_of_embeddings_moves_no_faster_than_layers(tiny_folder):
    """After one step of equal size in every trained number, tokens' vectors have moved about as far as weights have."""
    torch.manual_seed(0)
    model, _ = load(tiny_folder, contrastive_spec("adapter", lora={**LORA, "rank": 16, "embeddings": True}))
    size = {}
    for name, first in (("embed_tokens", "lora_embedding_B"), ("layers.0.self_attn.q_proj", "lora_A")):
        layer = model.get_submodule(f"base_model.model.model.{name}")
        drawn = getattr(layer, first)[EMBEDDING]
        size[name] = getattr(drawn, "weight", drawn).std().item()
    assert 0.3 < size["embed_tokens"] / size["layers.0.self_attn.q_proj"] < 3


def test_a_tied_table_is_not_adapted_where_it_would_be_merged(tiny_folder):
    with pytest.raises(
        UserError, match=r"config: kl_fence\.lora\.embeddings: the backbone's table .* is also its head"
    ):
        load(tiny_folder, contrastive_spec("kl_fence", lora={**LORA, "embeddings": True}))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ".*q_proj"])
def test_a_table_is_adapted_beside_any_targets(tiny_folder, targets):
    spec = contrastive_spec("adapter", lora={**LORA, "targets": targets, "embeddings": True})
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in load(tiny_folder, spec)[0].named_parameters()
             if "lora_" in name}  # fmt: skip
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert names == {"embed_tokens", *(linear if targets == "all-linear" else {"q_proj"})}


@pytest.mark.parametrize("spec", [ADAPTED["cl"], ADAPTED["adapter"], ADAPTED["grace"]], ids=lambda spec: spec.method)
def test_missing_peft_is_one_sentence(monkeypatch, spec):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(
        UserError, match=rf"config: {spec.method}\.lora: .* peft, which is not installed; .* pip install"
    ):
        hardware.check(spec)


@pytest.mark.parametrize("case", ["grace", "cl", "kl_fence", "adapter"])
def test_resume_is_exact(tiny_folder, tmp_path, case):
    spec = ADAPTED[case]
    part = "grace" if spec.grace else "contrastive"
    changes = {"max_steps": 4, "epochs": 2.0, "lora": Lora(**{**LORA, "dropout": 0.1, "embeddings": case == "adapter"})}
    spec = spec.model_copy(update={part: getattr(spec, part).model_copy(update=changes)})
    whole, _ = trained(tiny_folder, tmp_path / "whole", spec)
    folder = tmp_path / "again"
    short = spec.model_copy(update={part: getattr(spec, part).model_copy(update={"save_steps": 3})})

    class Stop(Exception):
        pass

    trainer = trainer_of(tiny_folder, folder, short)
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

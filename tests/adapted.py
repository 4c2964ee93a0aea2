"""Adapters with random weights over the tiny model."""

from pathlib import Path

import torch


def save_adapted(backbone: Path, folder: Path, generator: bool) -> Path:
    from grace.encoder import adapters
    from grace.encoder.loading import load_tokenizer
    from grace.encoder.saved import Encode, write_modules, write_settings

    known = adapters.write_model(folder, adapted(backbone, generator), load_tokenizer(backbone))
    write_settings(folder, encode=Encode(rationales=False, max_new_tokens=24), **known)
    write_modules(folder)
    return folder


def adapted(backbone: Path, generator: bool = False):
    """A peft model over `backbone` whose adapters change what it computes."""
    from peft import get_peft_model

    from grace.encoder.adapters import EMBEDDING, GENERATOR
    from grace.encoder.loading import load_model

    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model, _ = load_model(backbone, "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(model, _lora([*linear, "embed_tokens"]), adapter_name=EMBEDDING)
        if generator:
            model.add_adapter(GENERATOR, _lora(linear))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _lora(targets: list[str]):
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", ensure_weight_tying=False)

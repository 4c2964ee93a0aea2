"""Peak memory and seconds of a GRACE training step on one device, with random weights in a backbone's true shape.

    python bench/train_step.py --backbone qwen3-4b --prompt 1024 --new 2048 --rows 8 --steps 5
    python bench/train_step.py --backbone qwen3-4b --lora 64 --rows 8
    python bench/train_step.py --backbone tiny --prompt 48 --new 16 --rows 4     (a CPU will do)

A step is what the trainer does per update and process: `--rows` rows of `--prompt` + `--new` tokens forward and
backward through the trainer's own loss, `--accumulate` times, and AdamW. Writing the rationales is not in it. Prints
a row of a Markdown table, and with --json a file of the same. Shapes come from available_backbones in config.yaml.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from grace.config import Backbone  # noqa: E402
from grace.merging import read_config  # noqa: E402
from grace.section import UserError, build, hint  # noqa: E402
from grace.settings import Lora  # noqa: E402
from grace.training import lora  # noqa: E402
from grace.training.preflight import available, out_of_memory  # noqa: E402

COLUMNS = ("backbone", "parameters", "trained", "weights", "rows", "tokens", "device", "peak GB", "s/step", "tokens/s")


def shape(name: str) -> Backbone:
    known = read_config(ROOT / "config.yaml")["available_backbones"]
    if name not in known:
        raise UserError(f"--backbone: unknown backbone {name!r}{hint(name, known)}.")
    return build(Backbone, known[name], f"available_backbones.{name}")


def model_of(at: Backbone, length: int, device: torch.device) -> Any:
    """Random float32 weights in the shape of `at`, made on the device."""
    config = AutoConfig.for_model(
        at.architecture, vocab_size=at.vocab_size, hidden_size=at.width, intermediate_size=at.feed_forward,
        num_hidden_layers=at.layers, num_attention_heads=at.heads, num_key_value_heads=at.kv_heads,
        head_dim=at.head_width or at.width // at.heads, max_position_embeddings=length, tie_word_embeddings=True,
    )  # fmt: skip
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises: UserError when the step does not fit."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    at, length = shape(arguments.backbone), arguments.prompt + arguments.new
    torch.manual_seed(0)
    model = model_of(at, length, device)
    total = sum(p.numel() for p in model.parameters())
    if device.type == "cpu" and 16 * total > available():
        raise UserError(f"--backbone: {arguments.backbone} does not fit the {available() / 1e9:.0f} GB that are free.")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))  # as TRL's trainer does
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if arguments.lora:
        settings = Lora(rank=arguments.lora, alpha=2 * arguments.lora, dropout=0.0, targets="all-linear")
        model = lora.add(model, settings, "grace")
        model.enable_input_require_grads()
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    ids = torch.randint(at.vocab_size, (arguments.rows, length), device=device)
    labels = ids.clone()
    labels[:, : arguments.prompt] = -100  # the loss is over the rollout's tokens
    seconds = []
    for _ in range(arguments.steps + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(arguments.accumulate):
            with torch.autocast(device.type, torch.bfloat16):
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
            (-out.log_probs.sum() / ids.numel()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    seconds = sorted(seconds[1:])  # the first step allocates and compiles
    step = seconds[len(seconds) // 2]
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {
        "backbone": arguments.backbone,
        "parameters": total,
        "trained": sum(p.numel() for p in trained),
        "weights": f"LoRA {arguments.lora}" if arguments.lora else "all",
        "rows": f"{arguments.rows} x {arguments.accumulate}",
        "tokens": f"{arguments.prompt} + {arguments.new}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "peak GB": None if peak is None else round(peak, 2),
        "s/step": round(step, 4),
        "tokens/s": round(arguments.rows * arguments.accumulate * length / step),
        "torch": torch.__version__,
        "all_seconds": [round(value, 4) for value in seconds],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", required=True, help="a name in available_backbones")
    parser.add_argument(
        "--lora", type=int, default=0, help="rank of adapters on all linear layers; 0 trains all weights"
    )
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--new", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8, help="rollouts per forward pass")
    parser.add_argument("--accumulate", type=int, default=1, help="forward passes per update")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    try:
        found = measure(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        kind = f"LoRA {arguments.lora}" if arguments.lora else "all weights"
        sys.exit(f"error: {arguments.backbone}, {kind}, {arguments.rows} rows: does not fit; lower --rows.")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    print("| " + " | ".join("-" if found[name] is None else str(found[name]) for name in COLUMNS) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

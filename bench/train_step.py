"""Peak memory and seconds of a GRACE training step on one device, with random weights in a backbone's true shape.

    python -m bench.train_step --backbone qwen3-4b --prompt 1024 --new 2048 --rows 8 --steps 5
    python -m bench.train_step --backbone qwen3-4b --lora 64 --rows 8
    python -m bench.train_step --backbone tiny --prompt 48 --new 16 --rows 4     (a CPU will do)

A step is what the trainer does per update and process: `--rows` rows of `--prompt` + `--new` tokens forward and
backward through the trainer's own loss, `--accumulate` times, and AdamW. Writing the rationales is not in it. Prints
a row of a Markdown table, and with --json a file of the same. Shapes come from available_backbones in config.yaml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from bench import common
from grace.config.schema import Lora
from grace.config.section import UserError
from grace.jobs.stage import in_one_sentence
from grace.training import lora
from grace.training.preflight import available, out_of_memory

COLUMNS = ("backbone", "parameters", "trained", "weights", "rows", "tokens", "device", "peak GB", "s/step", "tokens/s")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises: UserError when the step does not fit."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    length = arguments.prompt + arguments.new
    common.gpu_peak()
    model = common.shaped_model(arguments.backbone, length, device)
    total = sum(p.numel() for p in model.parameters())
    if device.type == "cpu" and 16 * total > available():
        raise UserError(f"--backbone: {arguments.backbone} does not fit the {available() / 1e9:.0f} GB that are free.")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))  # as TRL's trainer does
    model.gradient_checkpointing_enable({"use_reentrant": False})
    vocabulary = model.config.vocab_size
    if arguments.lora:
        settings = Lora(rank=arguments.lora, alpha=2 * arguments.lora, dropout=0.0, targets="all-linear")
        model = lora.add(model, settings, "grace")
        model.enable_input_require_grads()
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    ids = torch.randint(vocabulary, (arguments.rows, length), device=device)
    labels = ids.clone()
    labels[:, : arguments.prompt] = -100  # the loss is over the rollout's tokens

    def step() -> None:
        for _ in range(arguments.accumulate):
            with torch.autocast(device.type, torch.bfloat16):
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
            (-out.log_probs.sum() / ids.numel()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = sorted(common.interleaved({"step": step}, arguments.steps)["step"])
    median = statistics.median_high(seconds)
    return {
        "backbone": arguments.backbone,
        "parameters": total,
        "trained": sum(p.numel() for p in trained),
        "weights": f"LoRA {arguments.lora}" if arguments.lora else "all",
        "rows": f"{arguments.rows} x {arguments.accumulate}",
        "tokens": f"{arguments.prompt} + {arguments.new}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "peak GB": common.gpu_peak(),
        "s/step": round(median, 4),
        "tokens/s": round(arguments.rows * arguments.accumulate * length / median),
        "torch": torch.__version__,
        "all_seconds": [round(value, 4) for value in seconds],
    }


@in_one_sentence()
def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
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
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        kind = f"LoRA {arguments.lora}" if arguments.lora else "all weights"
        sys.exit(f"error: {arguments.backbone}, {kind}, {arguments.rows} rows: does not fit; lower --rows.")
    print(common.table(COLUMNS, [[found[name] for name in COLUMNS]]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Tokens a second of writing rationales, against transformers' `generate` and against the memory's bandwidth.

    python -m bench.decode --backbone qwen2.5-1.5b --new 256 --batches 1 8 64 --compile          (a GPU)
    python -m bench.decode --backbone tiny --new 16 --batches 1 4 --longest 64         (a CPU will do)

Random weights in a backbone's true shape (available_backbones in config.yaml), bf16 on a GPU. A batch of prompts, of
log-normal lengths up to `--longest` tokens, gets exactly `--new` tokens each, greedily, so no row waits for
another: this compares the speed of a step; `bench.encode` has mixed lengths.

With `--compile` our engine is also timed with decoding compiled by torch (CUDA graphs on a GPU), which the call that is
not counted pays for.

The limit is what a step must read, all weights (the embedding's matrix is the head's too) and the keys and values of
the tokens before, over the bandwidth that copying a large tensor reaches on this machine. Reading the prompts is not
in it. Where the weights fit a processor's cache, as the demo's do, the memory is no limit and the share may exceed 1.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import common, peers
from grace.encoder.engines import transformers as engine
from grace.encoder.saved import DEFAULT_POOLING
from grace.jobs.stage import in_one_sentence

COLUMNS = ("backbone", "batch", "way", "tokens/s", "of the limit", "generate / ours", "peak GB")


def bandwidth(device: torch.device, size: int | None = None) -> float:
    """Bytes a second that copying a tensor of `size` bytes reads and writes, the best of ten."""
    count = (size or (1 << 32 if device.type == "cuda" else 1 << 28)) // 4
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)
    seconds = common.interleaved({"copy": lambda: target.copy_(source)}, 10)["copy"]
    return 8 * count / min(seconds)


def limit(model: Any, prompts: list[list[int]], new: int, batch: int, speed: float) -> float:
    """Seconds in which memory can be read as often as writing `new` tokens after each of the prompts needs it."""
    config = model.config.get_text_config()
    element = next(model.parameters()).element_size()
    weights = sum(p.numel() for p in model.parameters()) * element
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 2 * config.num_hidden_layers * config.num_key_value_heads * head * element  # bytes of a token's keys, values
    steps = new - 1  # the first new token comes from reading the prompt
    read = each * sum(steps * len(prompt) + steps * (steps + 1) // 2 for prompt in prompts)
    return (weights * steps * -(-len(prompts) // batch) + read) / speed


def never(model: Any) -> list[int]:
    """End tokens that the model cannot write."""
    return [model.config.get_text_config().vocab_size]


def ours(model: Any, prompts: list[list[int]], new: int, batch: int, compile: bool = False) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in prompts]
    each: dict[str, Any] = {"keys": [0] * len(prompts), "temperatures": [0.0] * len(prompts)}
    batches = engine.generate_batches(
        model,
        prompts,
        pool_from=0,
        pooling=DEFAULT_POOLING,
        max_new_tokens=new,
        ends=never(model),
        batch_size=batch,
        compile=compile,
        **each,
    )
    for made in batches:
        for row, ids in zip(made.rows, made.token_ids, strict=True):
            written[row] = ids
    return written


@torch.inference_mode()
def generate(model: Any, prompts: list[list[int]], new: int, batch: int) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # it pads as little as we do
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        made = peers.write(model, [prompts[row] for row in rows], [new] * len(rows), never(model), 0)
        for row, ids in zip(rows, made, strict=True):
            written[row] = ids
    return written


def draw_prompts(vocabulary: int, count: int, longest: int) -> list[list[int]]:
    """Random token ids, log-normal lengths (sigma 1) of at most `longest`."""
    draw = np.random.default_rng(0)
    lengths = np.clip(np.exp(draw.normal(np.log(longest / 6), 1.0, count)), min(5, longest), longest).astype(int)
    return [draw.integers(3, vocabulary, length).tolist() for length in lengths]


def measure(
    model: Any, prompts: list[list[int]], new: int, repeats: int, compile: bool
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Seconds of each way and the largest GPU memory in GB of each; all prompts are one batch."""
    peaks: dict[str, float | None] = {}

    def call(name: str, way: Any) -> None:
        common.gpu_peak()
        written = way(model, prompts, new, len(prompts))
        if {len(ids) for ids in written} != {new}:
            raise RuntimeError(f"{name} did not write {new} tokens for each prompt")
        peaks[name] = common.gpu_peak()

    ways: dict[str, Any] = {"ours": ours, "generate": generate}
    if compile:
        ways["compiled"] = partial(ours, compile=True)
    return common.interleaved({name: partial(call, name, way) for name, way in ways.items()}, repeats), peaks


@in_one_sentence()
def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--backbone", default="qwen2.5-1.5b", help="a name in available_backbones")
    parser.add_argument("--new", type=int, default=256, help="tokens that each prompt gets")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="prompts that are written together")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of the longest prompt that may be drawn")
    parser.add_argument("--compile", action="store_true", help="time our engine with compiled decoding too")
    arguments = parser.parse_args(argv)
    name, new = arguments.backbone, arguments.new
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = common.shaped_model(name, arguments.longest + new, device, dtype)
    speed = bandwidth(device)
    print(f"Bandwidth of a large copy: {speed / 1e9:.0f} GB/s. {common.hardware()}")
    rows, entries = [], []
    for batch in arguments.batches:
        prompts = draw_prompts(model.config.vocab_size, batch, arguments.longest)
        seconds, peaks = measure(model, prompts, new, arguments.repeats, arguments.compile)
        least = limit(model, prompts, new, batch, speed)
        ratios = {way: common.ratios(seconds["generate"], values) for way, values in seconds.items()}
        shares = {way: [least / value for value in values] for way, values in seconds.items()}
        speeds = {way: [batch * new / value for value in values] for way, values in seconds.items()}
        for way in seconds:
            ratio = common.spread(ratios[way]) if way != "generate" else None
            rows.append(
                [name, batch, way, common.spread(speeds[way], 0), common.spread(shares[way]), ratio, peaks[way]]
            )
        entry = common.entry(
            f"decode_{name}_batch_{batch}",
            ratios["compiled" if arguments.compile else "ours"],
            common.command(),
            f"seconds of transformers' generate / seconds of our engine{', compiled' * arguments.compile}",
            share_of_limit={way: statistics.median(values) for way, values in shares.items()},
            tokens_per_second={way: statistics.median(values) for way, values in speeds.items()},
            peak_gb=peaks,
            bandwidth_gb_per_second=speed / 1e9,
        )
        entries.append(entry)
    print(common.table(COLUMNS, rows))
    common.write(arguments.json, entries)


if __name__ == "__main__":
    main()

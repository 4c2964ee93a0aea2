"""Shared by the benchmarks: timing in turn, ratios as entries of a JSON list, models and texts to work on.

A benchmark is run as `python -m bench.NAME` from the repository's root. It gives ratios of seconds measured in turn in
one process, which mean the same on another machine; seconds are printed beside them.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from grace.config.schema import Prompt
from grace.config.section import UserError, build, hint
from grace.config.specs import EncodeSpec
from grace.encoder.saved import DEFAULT_POOLING, DEFAULT_PROMPT, SETTINGS_FILE
from grace.jobs.files import read_json, write_json

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results/demo/models/tiny/backbone/seed0"
# What a small model is asked: the demo's backbone was trained with no more.
SHORT_PROMPT = Prompt(instruction="Key words, then a summary.", max_prompt_tokens=72)


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, `repeats` of them, after one call that is not counted if `warm_up`.

    They take turns (A B A B ...): what slows the machine for a while slows all, and repeat i of one may be divided by
    repeat i of another.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.freeze()  # what exists by now is not searched again each time
    try:
        for repeat in range(-warm_up, repeats):
            for name, function in functions.items():
                gc.collect()
                started = now()
                function()
                if repeat >= 0:
                    seconds[name].append(now() - started)
    finally:
        gc.unfreeze()
    return seconds


def now() -> float:
    """Seconds of a clock, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gpu_peak() -> float | None:
    """The largest GPU memory in GB since the last call; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


class PeakMemory(threading.Thread):
    """Largest resident memory in MB from now on, and of it what is the process's own (not pages of mapped files)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found = {"VmRSS": 0, "RssAnon": 0}
        self.start()

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in self.found:
                    self.found[name] = max(self.found[name], int(rest.split()[0]) // 1024)
            time.sleep(0.05)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """over / under, repeat by repeat."""
    return [a / b for a, b in zip(over, under, strict=True)]


def entry(name: str, ratios: Sequence[float], command: str, meaning: str, **more: Any) -> dict[str, Any]:
    """One measured ratio (one of `ratios` per repeat) with what it means and how it was made, and further fields."""
    return {
        "name": name,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "repeats": len(ratios),
        "command": command,
        "meaning": meaning,
        "hardware": hardware(),
        **more,
    }


def write(path: Path | str | None, entries: Sequence[dict[str, Any]]) -> None:
    """Put `entries` into the JSON list at `path`, each in the place of the one of its name; None writes nothing."""
    if path is None:
        return
    known = {row["name"]: row for row in read_json(path, list)} if Path(path).exists() else {}
    write_json(path, list({**known, **{row["name"]: row for row in entries}}.values()))


def gflops() -> float:
    """Of float32 products of matrices on one core: its speed of the moment, which a machine's other guests change."""
    threads, square = torch.get_num_threads(), torch.ones(1024, 1024)
    torch.set_num_threads(1)
    try:
        seconds = interleaved({"product": lambda: square @ square}, 10)["product"]
    finally:
        torch.set_num_threads(threads)
    return 2 * 1024**3 / statistics.median(seconds) / 1e9


@cache
def hardware() -> str:
    """Processor, cores that this process may use, speed of one at the first call, memory, GPU, torch: one line."""
    information = Path("/proc/cpuinfo")
    found = re.findall(r"model name\s*: (.+)", information.read_text()) if information.exists() else []
    name = found[0] if found else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{name}, {cores} core{'s' * (cores > 1)} of {gflops():.0f} GFLOPS, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {gpu}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def command() -> str:
    """This process's command line as one would type it, paths relative to the working directory."""
    words = [os.path.relpath(word) if Path(word).is_absolute() else word for word in sys.orig_argv[1:]]
    return " ".join(["python", *words])


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (lowest - highest)."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} - {high})"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; None is shown as -."""
    lines = [[("-" if cell is None else str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(columns), ["---"] * len(columns), *lines])


def parser(doc: str | None, repeats: int | None = None) -> argparse.ArgumentParser:
    """A parser that a module's docstring describes; with `repeats`, its default, also `--repeats` and `--json`."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    if repeats is not None:
        made.add_argument("--repeats", type=int, default=repeats, help="of which the median is taken")
        made.add_argument("--json", type=Path, help="file of entries that this run's go into")
    return made


# ---- models and texts ---------------------------------------------------------------


def backbone_or_random(given: Path | None = None, device: str | None = None) -> tuple[Any, Any, str]:
    """Model, tokenizer and what they are: the folder `given`, else the demo's backbone, else `random_model`."""
    from grace.encoder.loading import load_model

    folder = given or DEMO
    if given is None and not (folder / "config.json").exists():
        return *random_model(device=device), "random weights"
    return *load_model(folder, device), "demo backbone" if folder == DEMO else folder.name


def random_model(
    width: int = 384, layers: int = 8, vocabulary: int = 8192, length: int = 2048, device: str | None = None
) -> tuple[Any, Any]:
    """A Qwen2 with random weights (by default 24 M of them) and a tokenizer trained on `prose`, with a chat template.

    Its head is not the embedding's transpose: with random weights that writes its last token again and again.

    Args:
        width: a multiple of 64.
        length: positions that it has.
    """
    from grace.config.schema import Backbone
    from grace.training.backbone import build_model

    if width % 64:
        raise UserError(f"a random model's width must be a multiple of 64, not {width}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = random_tokenizer(vocabulary)
    heads = width // 64
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "layers": layers, "width": width, "feed_forward": 4 * width}
    kv_heads = heads // 3 if heads % 3 == 0 else heads
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build_model(Backbone(kind="trained", heads=heads, kv_heads=kv_heads, **shape), tokenizer)
        head = torch.randn_like(model.lm_head.weight) * model.config.initializer_range
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    model.config.max_position_embeddings = length
    return model.eval().to(device, torch.float32 if device == "cpu" else torch.bfloat16), tokenizer


def shaped_model(name: str, positions: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Random weights in the shape of available_backbones' `name`. Raises: UserError for an unknown name."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from grace.config.schema import Backbone
    from grace.config.studies import read_config

    known = read_config(ROOT / "config.yaml")["available_backbones"]
    if name not in known:
        raise UserError(f"--backbone: unknown backbone {name!r}{hint(name, known)}.")
    at = build(Backbone, known[name], f"available_backbones.{name}")
    heads = {"num_attention_heads": at.heads, "num_key_value_heads": at.kv_heads}
    config = AutoConfig.for_model(
        at.architecture,
        vocab_size=at.vocab_size,
        hidden_size=at.width,
        intermediate_size=at.feed_forward,
        num_hidden_layers=at.layers,
        head_dim=at.head_width or at.width // at.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        **heads,
    )
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@cache
def random_tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE trained on `prose`, of `vocabulary` entries at most."""
    from grace.training.backbone import train_tokenizer

    words = prose()
    return train_tokenizer([" ".join(words[at : at + 200]) for at in range(0, len(words), 200)], vocabulary)


@cache
def prose() -> list[str]:
    """Words of Python's own language reference, which comes with it: some 100,000 in the order of the text."""
    from pydoc_data.topics import topics

    return " ".join(topics[name] for name in sorted(topics)).split()


def texts(tokenizer: Any, count: int, seed: int, median: float = 100, longest: int = 1000) -> list[str]:
    """`count` distinct texts of real words with log-normal lengths (sigma 1) from 5 to `longest` tokens."""
    words = prose()
    kinds = sorted(set(words))
    ids = tokenizer([f" {word}" for word in kinds], add_special_tokens=False)["input_ids"]
    size = dict(zip(kinds, map(len, ids), strict=True))
    ends = np.cumsum([size[word] for word in words])
    draw = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        tokens = int(np.clip(np.exp(draw.normal(np.log(median), 1.0)), 5, longest))
        start = int(draw.integers(np.searchsorted(ends, ends[-1] - longest)))
        before = ends[start - 1] if start else 0
        made[" ".join(words[start : int(np.searchsorted(ends, before + tokens)) + 1])] = None
    return list(made)


def encode_spec(prompt: Prompt, max_new_tokens: int, batch_size: int) -> EncodeSpec:
    """Greedy rationales, the default pooling."""
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "sampling_temperature": 0.0,
        "seed": 0,
    }
    return EncodeSpec(prompt=prompt, pooling=DEFAULT_POOLING, rationales=True, direct_prompt="chat", **given)


def prompt_of(folder: Path) -> Prompt:
    """What a model of this workflow was trained with, else the default."""
    path = folder / SETTINGS_FILE
    return build(Prompt, read_json(path)["prompt"], SETTINGS_FILE) if path.exists() else DEFAULT_PROMPT

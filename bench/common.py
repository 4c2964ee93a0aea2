"""What the benchmarks share: timing in turn, ratios as entries of a JSON list, models and texts to work on.

A benchmark is a module that is run as `python -m bench.NAME` from the repository's root. It gives ratios of seconds
that were measured in turn in one process, so that they mean the same on another machine; seconds are printed beside.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from grace.files import read_json, write_json
from grace.section import UserError

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results/demo/models/tiny/backbone/seed0"


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, `repeats` of them, after one call that is not counted if `warm_up`.

    They take turns (A B A B ...), so that what slows the machine for a while slows all of them, and repeat i of one
    may be divided by repeat i of another.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through again each time
    try:
        for repeat in range(-warm_up, repeats):
            for name, function in functions.items():
                gc.collect()
                _finish()
                started = time.perf_counter()
                function()
                _finish()
                if repeat >= 0:
                    seconds[name].append(time.perf_counter() - started)
    finally:
        gc.unfreeze()
    return seconds


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """over / under, repeat by repeat."""
    return [a / b for a, b in zip(over, under, strict=True)]


def entry(name: str, ratios: Sequence[float], command: str, meaning: str, **more: Any) -> dict[str, Any]:
    """One measured ratio: the median of its repeats, the lowest and the highest, what it means and how it was made.

    Args:
        ratios: one per repeat.
        more: further fields, such as seconds.
    """
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
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        name = found[0] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [f"{name}, {cores} core{'s' * (cores > 1)} of {gflops():.0f} GFLOPS"]
    parts.append(f"{psutil.virtual_memory().total / 2**30:.0f} GiB")
    parts.append(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
    return ", ".join([*parts, f"torch {torch.__version__}, {torch.get_num_threads()} threads"])


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


def parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: `--repeats` and `--json`."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
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
    from grace.config import Backbone
    from grace.training.backbone import build_model

    if width % 64:
        raise UserError(f"a random model's width must be a multiple of 64, not {width}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = random_tokenizer(vocabulary)
    heads = width // 64
    config = Backbone(
        kind="trained", vocab_size=len(tokenizer), layers=layers, width=width, heads=heads,
        kv_heads=heads // 3 if heads % 3 == 0 else heads, feed_forward=4 * width,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build_model(config, tokenizer)
        head = torch.randn_like(model.lm_head.weight) * model.config.initializer_range
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    model.config.max_position_embeddings = length
    return model.eval().to(device, torch.float32 if device == "cpu" else torch.bfloat16), tokenizer


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
    each = dict(zip(kinds := sorted(set(words)), map(len, _ids(tokenizer, kinds)), strict=True))
    ends = np.cumsum([each[word] for word in words])
    draw = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        tokens = int(np.clip(np.exp(draw.normal(np.log(median), 1.0)), 5, longest))
        start = int(draw.integers(np.searchsorted(ends, ends[-1] - longest)))
        before = ends[start - 1] if start else 0
        made[" ".join(words[start : int(np.searchsorted(ends, before + tokens)) + 1])] = None
    return list(made)


def _ids(tokenizer: Any, words: list[str]) -> list[list[int]]:
    """Token ids of words as they stand after a space."""
    return tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]

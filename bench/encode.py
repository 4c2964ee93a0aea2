"""Texts a second of the encoder against the released code's way and against writing alone, on mixed lengths.

    python -m bench.encode [--texts 20] [--new 48] [--json results/bench.json]

Two models: a Qwen2 with random weights and prompts of up to 1,024 tokens, and the demo's backbone where there is one.
All ways embed the same texts greedily, with the same number of new tokens for each text (log-normal, so a padded batch
waits for its slowest row; fewer where the model ends its rationale), in the same order and batch size:

- encode: `RationaleEncoder`, from texts to embeddings and rationales.
- released: the released code's way (`bench.peers`), from prompts to embeddings.
- generation: our engine writing the same rationales without pooling: the limit for pooling while writing.
- continuous: transformers' continuous batching, which writes only.

Before any ratio counts, the embeddings of the two ways are compared on texts whose second tokenisation, which the
released way needs, gives the tokens that were written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from bench import common, peers
from grace.config.schema import Prompt
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.engines import transformers as engine
from grace.encoder.saved import DEFAULT_PROMPT

COLUMNS = ("model", "way", "seconds", "texts/s", "new tokens/s", "read", "steps", "seconds / encode")
RATIOS = (
    ("encode_vs_released", "released", "encode", "seconds of the released code's way / seconds of the encoder"),
    ("encode_vs_generation", "encode", "generation", "seconds of the encoder / seconds of writing without pooling"),
)
MEMORY_OF = (9000, 36000)  # texts: more than the encoder tokenises at once, and four times that


# ---- the work and the ways to do it --------------------------------------------------


class Work(NamedTuple):
    name: str
    encoder: RationaleEncoder
    texts: list[str]
    prompts: list[list[int]]  # of the texts
    lengths: list[int]  # new tokens, unless the model ends before


class _LimitedEncoder(RationaleEncoder):
    lengths: list[int]  # new tokens of each prompt

    def write(self, prompts: Any, texts: Any, max_new_tokens: Any = None) -> Any:
        return super().write(prompts, texts, self.lengths)


def draw_lengths(count: int, mean: float, seed: int) -> list[int]:
    """Log-normal numbers of new tokens (sigma 1), between 2 and eight times the mean."""
    drawn = np.exp(np.random.default_rng(seed).normal(np.log(mean) - 0.5, 1.0, count))
    return np.clip(drawn.round(), 2, 8 * mean).astype(int).tolist()


def prepare(name: str, model: Any, tokenizer: Any, prompt: Prompt, count: int, mean: float, batch_size: int) -> Work:
    """`count` texts with `mean` new tokens each."""
    texts, lengths = common.texts(tokenizer, count, 0), draw_lengths(count, mean, 0)
    spec = common.encode_spec(prompt, max(lengths), batch_size)
    encoder = _LimitedEncoder(model, tokenizer, spec)
    encoder.lengths = lengths
    return Work(name, encoder, texts, encoder.template.ids(texts), lengths)


def encode(work: Work) -> Any:
    return work.encoder.encode(work.texts)


def _settings(work: Work) -> dict[str, Any]:
    encoder = work.encoder
    return {
        "pool_from": len(encoder.template.prefix),
        "ends": encoder.ends,
        "batch_size": encoder.spec.batch_size,
    }


def released(work: Work) -> peers.Released:
    encoder = work.encoder
    return peers.released(encoder.model, encoder.tokenizer, work.prompts, work.lengths, **_settings(work))


def generation(work: Work) -> list[list[int]]:
    written = [[0]] * len(work.texts)
    each: dict[str, Any] = {
        "keys": [0] * len(written),
        "temperatures": [0.0] * len(written),
        "max_new_tokens": work.lengths,
    }
    batches = engine.generate_batches(work.encoder.model, work.prompts, pooling=None, **each, **_settings(work))
    for batch in batches:
        for row, ids in zip(batch.rows, batch.token_ids, strict=True):
            written[row] = ids
    return written


def continuous(work: Work) -> list[list[int]]:
    encoder, size = work.encoder, work.encoder.spec.batch_size
    pad = encoder.tokenizer.pad_token_id
    return peers.continuous(encoder.model, work.prompts, work.lengths, encoder.ends, pad, batch_size=size)


WAYS: dict[str, Callable[[Work], Any]] = {
    "encode": encode,
    "generation": generation,
    "released": released,
    "continuous": continuous,
}


class Steps:
    """Counts what goes through a model's decoder while it is entered: positions read, and rows of single steps."""

    def __init__(self, model: Any) -> None:
        self.decoder, self.read, self.single = model.get_decoder(), 0, 0

    def __enter__(self) -> Steps:
        self.hook = self.decoder.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            ids = kwargs["inputs_embeds"][..., 0]
        if ids.shape[1] == 1:
            self.single += ids.numel()
        else:
            self.read += ids.numel()


# ---- measuring -----------------------------------------------------------------------


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Seconds of each way, the tokens written, what each put through the decoder, and whether they agree."""
    made: dict[str, Any] = {}
    steps: dict[str, Steps] = {}
    for name in WAYS:  # apart from what is timed: with a hook no token is read by `one_token`
        with Steps(work.encoder.model) as steps[name]:
            made[name] = WAYS[name](work)
    seconds = common.interleaved({name: partial(way, work) for name, way in WAYS.items()}, repeats)
    written = {"encode": [one.token_ids for one in made["encode"].rationales], "released": made["released"].written}
    written |= {name: made[name] for name in ("generation", "continuous") if name in made}
    return {"seconds": seconds, "steps": steps, "written": written, "agreement": agreement(work, made, written)}


def agreement(work: Work, made: dict[str, Any], written: dict[str, list[list[int]]]) -> dict[str, Any]:
    """How far the two ways' embeddings differ where both embed the same tokens, and how often they do not."""
    ours, theirs = made["encode"], made["released"]
    alike = {
        name: [a == b for a, b in zip(rationales, written["encode"], strict=True)]
        for name, rationales in written.items()
        if name != "encode"
    }
    texts = zip(work.prompts, theirs.written, theirs.pooled, strict=True)
    same_tokens = [prompt + ids[:-1] == pooled for prompt, ids, pooled in texts]
    same = np.flatnonzero(np.array(alike["released"]) & np.array(same_tokens))
    apart = np.abs(ours.embeddings[same] - theirs.embeddings[same])
    return {
        "same_rationales": {name: float(np.mean(rows)) for name, rows in alike.items()},
        "retokenised_differently": 1 - float(np.mean(same_tokens)),
        "texts_compared": len(same),
        "max_difference": float(apart.max()) if len(same) else None,
    }


def show(work: Work, found: dict[str, Any]) -> str:
    """A table, and `agreement` in words.

    read: positions of prompts (and of the second pass) that went through the decoder for each token of a prompt; steps:
    rows of single steps for each token that needs one. Above 1 is padding or done twice.
    """
    seconds, tokens = found["seconds"], sum(map(len, found["written"]["encode"]))
    read, single = sum(map(len, work.prompts)), max(1, tokens - len(work.texts))
    rows = []
    for name, values in seconds.items():
        middle, steps = float(np.median(values)), found["steps"][name]
        counts: list[str | None] = [f"{steps.read / read:.2f}", f"{steps.single / single:.2f}"]
        if name == "continuous":  # it lays prompts and steps out as one row
            counts = [None, None]
        rates = [f"{len(work.texts) / middle:.2f}", f"{tokens / middle:.0f}"]
        ratio = common.spread(common.ratios(values, seconds["encode"]))
        rows.append([work.name, name, common.spread(values), *rates, *counts, ratio])
    told = found["agreement"]
    same = ", ".join(f"{name} {share:.0%}" for name, share in told["same_rationales"].items())
    far = "none" if told["max_difference"] is None else f"{told['max_difference']:.1e} at most"
    return (
        f"{common.table(COLUMNS, rows)}\n"
        f"Rationales equal to the encoder's: {same}. Tokenised again, {told['retokenised_differently']:.0%} of the "
        f"texts give other tokens; the embeddings of {told['texts_compared']} texts of equal tokens differ by {far}."
    )


def entries(results: dict[str, dict[str, Any]], memory: list[dict[str, int]]) -> list[dict[str, Any]]:
    """The two ratios of the first model, those of the others as further fields."""
    made = []
    for name, over, under, meaning in RATIOS:
        found = {model: common.ratios(one["seconds"][over], one["seconds"][under]) for model, one in results.items()}
        first, *others = found
        ranges = {
            model: {"ratio": float(np.median(found[model])), "low": min(found[model]), "high": max(found[model])}
            for model in others
        }
        entry = common.entry(
            name,
            found[first],
            common.command(),
            meaning,
            model=first,
            seconds={way: float(np.median(values)) for way, values in results[first]["seconds"].items()},
            agreement=results[first]["agreement"],
            other_models=ranges,
            memory=memory,
        )
        made.append(entry)
    return made


# ---- memory --------------------------------------------------------------------------


def peaks() -> list[dict[str, int]]:
    """Largest resident memory of processes that embed few and many short texts with a small model."""
    model, tokenizer = common.random_model(width=64, layers=2, vocabulary=1024)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for count in MEMORY_OF:
            script = [sys.executable, "-m", "bench.encode", "--memory-of", str(count), "--backbone", folder]
            out = subprocess.run(script, cwd=common.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(out.splitlines()[-1]))
    return found


def memory_of(folder: Path, count: int) -> dict[str, int]:
    encoder = RationaleEncoder.from_spec(folder, common.encode_spec(common.SHORT_PROMPT, 2, 64))
    texts = common.texts(encoder.tokenizer, count, 0, median=40, longest=100)
    before = psutil.Process().memory_info().rss >> 20
    peak = common.PeakMemory()
    for _ in encoder.encode_batches(texts):
        pass
    return {"texts": count, "before_mb": before, "peak_mb": peak.found["VmRSS"]}


# ---- the command ---------------------------------------------------------------------


def works(arguments: argparse.Namespace) -> Iterator[Work]:
    """The random model's work, then the backbone's."""
    model, tokenizer = common.random_model(arguments.width, arguments.layers)
    name = f"random Qwen2, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M"
    count, batch = arguments.texts, arguments.batch_size
    yield prepare(name, model, tokenizer, DEFAULT_PROMPT, count, arguments.new, batch)
    folder = arguments.backbone or common.DEMO
    if arguments.backbone or (folder / "config.json").exists():
        model, tokenizer, name = common.backbone_or_random(arguments.backbone)
        mean = max(2, arguments.new // 3)
        yield prepare(name, model, tokenizer, common.prompt_of(folder), 8 * count, mean, 4 * batch)
    else:
        print(f"There is no {os.path.relpath(folder)}, so the demo's backbone is not measured.")


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--texts", type=int, default=20, help="for the random model; the backbone gets 8 times as many")
    parser.add_argument("--new", type=int, default=48, help="mean new tokens; a third for the backbone")
    parser.add_argument("--batch-size", type=int, default=8, help="for the random model; 4 times for the backbone")
    parser.add_argument("--width", type=int, default=384, help="of the random model")
    parser.add_argument("--layers", type=int, default=8, help="of the random model")
    parser.add_argument("--backbone", type=Path, help="model folder in place of the demo's backbone")
    parser.add_argument("--no-memory", action="store_true", help="leave the measurement of memory out")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.backbone, arguments.memory_of)))
        return
    results: dict[str, Any] = {}
    for work in works(arguments):
        results[work.name] = found = measure(work, arguments.repeats)
        print(show(work, found), "\n", flush=True)
    memory = [] if arguments.no_memory else peaks()
    for row in memory:
        print("{texts} texts: {before_mb} MB before, largest {peak_mb} MB".format(**row))
    common.write(arguments.json, entries(results, memory))


if __name__ == "__main__":
    main()

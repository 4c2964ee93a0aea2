"""Rule `latency`: seconds per text, one text at a time, of one backbone (figure 4).

A text's time is the sum of three parts:

- encode: tokenisation, the forward pass over the prompt and the pooling of its states. It ends where the
  language-model head is asked for a first token, which a hook on the head notes; without rationale, with the embedding.
- generate: from there to the embedding. The states of the rationale are pooled while it is written; a model with an
  adapter for pooling reads it once more. 0 without one.
- match: the cosine with every vector of a corpus, and the best of them.

Rationales end where the model ends them, at the latest at the budget. The transformers engine writes them whatever
the study's engine is: vLLM is made for many texts at once. An encoder-only model computes in its own precision.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from grace import manifest, specs, stage
from grace.evaluation import held_out
from grace.exhibits import Latency
from grace.section import UserError

with stage.imports():
    import numpy as np
    import torch
    from tqdm import tqdm

    from grace.encoder.encoder import RationaleEncoder
    from grace.encoder.encoder_only import EncoderOnly
    from grace.encoder.inputs import context_of
    from grace.evaluation.systems import System, systems

WARM_UP = 3  # texts that every system embeds before its time counts
PARTS = ("encode", "generate", "match")
QUANTILES = (50, 10, 90)
log = logging.getLogger(__name__)


class Timed(NamedTuple):
    """One text through one system, in seconds."""

    encode: float
    generate: float
    match: float
    new_tokens: int

    @property
    def total(self) -> float:
        return self.encode + self.generate + self.match


class Corpus:
    """`size` random unit vectors [size, width] in float32; `match` takes as long as with real ones."""

    def __init__(self, size: int, width: int, top: int, device: torch.device, seed: int) -> None:
        vectors = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
        self.vectors = torch.nn.functional.normalize(vectors, dim=1).to(device)
        self.top = top

    def match(self, embedding: np.ndarray) -> list[int]:
        """Rows of the `top` vectors with the largest cosine with `embedding` [width], best first."""
        vector = torch.from_numpy(embedding).to(self.vectors.device)
        return (self.vectors @ torch.nn.functional.normalize(vector, dim=0)).topk(self.top).indices.tolist()


def measure(system: System, text: str, corpus: Corpus) -> Timed:
    """Embed one text and match it."""
    device = corpus.vectors.device
    start = _now(device)
    with _first_call(system.head, device) as asked:
        embedding, new_tokens = system.embed(text)
    embedded = _now(device)
    corpus.match(embedding)
    matched = _now(device)
    read = asked[0] if asked else embedded
    return Timed(read - start, embedded - read, matched - embedded, new_tokens)


def run(timed: list[System], texts: list[str], latency: Latency, device: torch.device, seed: int) -> list[list[Timed]]:
    """Times of each system, `latency.repeats` for each text.

    The systems take turns, and another one begins each round, so that a machine that gets slower with time hits all
    of them alike.
    """
    corpora = {
        width: Corpus(latency.corpus, width, latency.top, device, seed) for width in {one.width for one in timed}
    }
    for system in timed:
        for text in texts[:WARM_UP]:
            measure(system, text, corpora[system.width])
    times: list[list[Timed]] = [[] for _ in timed]
    count = latency.repeats * len(timed) * len(texts)
    with tqdm(total=count, desc="latency", unit="text", mininterval=5) as bar:
        for repeat in range(latency.repeats):
            for turn in range(len(timed)):
                at = (repeat + turn) % len(timed)
                for text in texts:
                    times[at].append(measure(timed[at], text, corpora[timed[at].width]))
                    bar.update()
    return times


def summary(system: System, times: list[Timed]) -> dict[str, Any]:
    """Percentiles of each part and of the total; those of the parts do not add up to the total's."""
    return {
        "system": system.name,
        "budget": system.budget,
        **{part: _quantiles([getattr(one, part) for one in times]) for part in (*PARTS, "total")},
        "new_tokens": float(np.mean([one.new_tokens for one in times])),
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": float(value) for q, value in zip(QUANTILES, np.percentile(seconds, QUANTILES), strict=True)}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _first_call(head: torch.nn.Module | None, device: torch.device) -> Iterator[list[float]]:
    """Yield a list that gets the time of the first call of `head` within the block."""
    asked: list[float] = []

    def note(*_: Any) -> None:
        asked.append(_now(device))
        handle.remove()  # the other calls are not slowed down

    if head is None:
        yield asked
        return
    handle = head.register_forward_pre_hook(note)
    try:
        yield asked
    finally:
        handle.remove()


def chosen(path: Path, count: int) -> list[str]:
    """The first `count` documents by hash; all, with a warning, where there are fewer. Raises: as `by_hash`."""
    texts = [row["positive"] for row in held_out.by_hash(path)]
    if len(texts) < count:
        log.warning("latency.texts: %s has %d distinct documents, fewer than %d", path, len(texts), count)
    return texts[:count]


def _check(latency: Latency, encoder: RationaleEncoder, folder: Path) -> None:
    longest, prompt = max(latency.budgets), encoder.spec.prompt.max_prompt_tokens
    context = context_of(encoder.model.config)
    if context and prompt + longest > context:
        raise UserError(
            f"config: latency.budgets: a prompt of {prompt} tokens and a rationale of {longest} are more than the "
            f"{context} positions of {folder}; lower latency.budgets or prompt.max_prompt_tokens."
        )


@stage.entry(specs.LatencySpec, inputs=("backbone", "model", "encoder*", "texts"), outputs=("out",))
def main(spec: specs.LatencySpec, paths: SimpleNamespace) -> None:
    latency = spec.latency
    texts = chosen(paths.texts, latency.texts)
    encode = spec.encode.model_copy(update={"engine": "transformers", "batch_size": 1})
    backbone = RationaleEncoder.from_spec(paths.backbone, encode)
    _check(latency, backbone, paths.backbone)
    model = RationaleEncoder.from_spec(paths.model, encode)
    timed = systems(latency, backbone, model, *(EncoderOnly(folder) for folder in paths.encoder[:1]))
    times = run(timed, texts, latency, backbone.model.device, spec.seed)
    found = [summary(system, own) for system, own in zip(timed, times, strict=True)]
    for one in found:
        log.info("%s, budget %s: p50 %.4f s per text", one["system"], one["budget"], one["total"]["p50"])
    record = manifest.make("latency", spec, [paths.backbone, paths.model, *paths.encoder, paths.texts], paths.started)
    manifest.write_result(
        paths.out,
        record,
        engine=encode.engine,
        device=str(backbone.model.device),
        precision=backbone.dtype,
        corpus=latency.corpus,
        top=latency.top,
        texts=len(texts),
        repeats=latency.repeats,
        systems=found,
    )


if __name__ == "__main__":
    main()

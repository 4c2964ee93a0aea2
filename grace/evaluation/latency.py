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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from grace.config import specs
from grace.config.schema import Latency
from grace.config.section import UserError
from grace.encoder.encoder import EncoderOnly, RationaleEncoder
from grace.encoder.loading import context_of
from grace.evaluation.tasks import by_hash
from grace.jobs import manifest, stage

WARM_UP = 3  # texts that every system embeds before its time counts
QUANTILES = (50, 10, 90)
log = logging.getLogger(__name__)


@dataclass
class System:
    """A way from a text to its embedding."""

    name: str
    budget: int | None  # tokens of a rationale
    width: int  # d
    embed: Callable[[str], tuple[np.ndarray, int]]  # text -> embedding [d], tokens of its rationale
    head: torch.nn.Module | None = None  # asked for each token of a rationale


class Timed(NamedTuple):
    """One text through one system, in seconds."""

    encode: float
    generate: float
    match: float
    new_tokens: int

    @property
    def total(self) -> float:
        return self.encode + self.generate + self.match


def systems(
    latency: Latency, backbone: RationaleEncoder, model: RationaleEncoder, encoder: EncoderOnly | None = None
) -> list[System]:
    """What is timed: encoder only, if there is one, direct, and both models with a rationale at each budget."""

    def direct(text: str) -> tuple[np.ndarray, int]:
        return backbone.encode([text], rationales=False).embeddings[0], 0

    found = [System("direct", None, backbone.width, direct)]
    if encoder:
        found.insert(0, System("encoder", None, encoder.width, lambda text: (encoder.encode([text])[0], 0)))
    models = (("reasoning", backbone), (latency.run, model))
    return found + [_reasoning(name, decoder, budget) for name, decoder in models for budget in latency.budgets]


def _reasoning(name: str, encoder: RationaleEncoder, budget: int) -> System:
    spec = encoder.spec.model_copy(update={"max_new_tokens": budget})
    limited = RationaleEncoder(encoder.model, encoder.tokenizer, spec)

    def embed(text: str) -> tuple[np.ndarray, int]:
        made = limited.encode([text], rationales=True)
        assert made.rationales is not None
        return made.embeddings[0], len(made.rationales[0].token_ids)

    return System(name, budget, encoder.width, embed, encoder.model.get_output_embeddings())


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
    asked: list[float] = []  # when the head is called for the first time

    def note(*_: Any) -> None:
        if not asked:  # the other calls are not slowed down
            asked.append(_now(device))

    start = _now(device)
    hook = system.head.register_forward_pre_hook(note) if system.head else None
    try:
        embedding, new_tokens = system.embed(text)
    finally:
        if hook:
            hook.remove()
    embedded = _now(device)
    corpus.match(embedding)
    matched = _now(device)
    read = asked[0] if asked else embedded
    return Timed(read - start, embedded - read, matched - embedded, new_tokens)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run(timed: list[System], texts: list[str], latency: Latency, device: torch.device, seed: int) -> list[list[Timed]]:
    """Times of each system, `latency.repeats` for each text.

    The systems take turns, and another one begins each round, so that a machine that gets slower with time hits all
    of them alike.
    """
    widths = {system.width for system in timed}
    corpora = {width: Corpus(latency.corpus, width, latency.top, device, seed) for width in widths}
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
    found: dict[str, Any] = {"system": system.name, "budget": system.budget}
    for part in ("encode", "generate", "match", "total"):
        values = np.percentile([getattr(one, part) for one in times], QUANTILES)
        found[part] = {f"p{q}": float(value) for q, value in zip(QUANTILES, values, strict=True)}
    return {**found, "new_tokens": float(np.mean([one.new_tokens for one in times]))}


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
    texts = [row["positive"] for row in by_hash(paths.texts)]
    if len(texts) < latency.texts:
        log.warning(
            "latency.texts: %s has %d distinct documents, fewer than %d", paths.texts, len(texts), latency.texts
        )
    texts = texts[: latency.texts]
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

"""Rationales about the training texts, for the methods of `grace.beyond` that learn from them: written once by the
frozen backbone, stored, read by trainings.

A rationale is found by its text, so trainings of other runs and seeds share them, and one that was killed, or whose
store was deleted, writes only what is missing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from grace.config.section import UserError
from grace.config.specs import RationalesSpec
from grace.encoder.sampling import text_key
from grace.encoder.saved import loading_from
from grace.encoder.store import Index, Store, digests_of, settings
from grace.jobs import manifest, stage
from grace.jobs.reader import TRAINING, read_training
from grace.method.prompt import PromptTemplate
from grace.training import hardware

BLOCK = 1 << 16  # rationales that are Python lists at once
WAIT = 1.0  # seconds between looks for what other processes write
log = logging.getLogger(__name__)


def sample(rows: list[Any], count: int | None, turn: int = 0) -> list[Any]:
    """`count` rows (None: all) of an order that is the same for every run and seed: the first of them, or in a later
    turn the next, from the start when they are used up."""
    order = sorted(range(len(rows)), key=lambda i: text_key("sample", i))
    count = len(rows) if count is None else min(count, len(rows))
    return [rows[order[(turn * count + i) % len(rows)]] for i in range(count)]


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    """The distinct texts of rows {query, positive, negatives} or {text}, in their order."""
    parts = ("text",) if rows and "text" in rows[0] else ("query", "positive")
    return list(
        dict.fromkeys(text for row in rows for text in (*(row[p] for p in parts), *(row.get("negatives") or [])))
    )


class Rationales:
    """Token ids of rationales by their texts, each with the end token where it was reached.

    4 bytes a token and 20 a text: a training holds all that it learns from.
    """

    def __init__(self, texts: list[str], store: Store) -> None:
        """Args: texts: distinct ones, whose rationales are all in `store`."""
        digests = digests_of(texts)
        digests = digests[np.argsort(store.index.find(digests), kind="stable")]  # each of its files is read once
        self.lengths = store.notes(digests)[0].astype(np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.empty(int(self.lengths.sum()), dtype=np.uint32)
        for first in range(0, len(digests), BLOCK):
            found = store.rationales(digests[first : first + BLOCK])
            flat = np.fromiter((token for ids in found for token in ids), dtype=np.uint32)
            self.tokens[self.starts[first] :][: len(flat)] = flat
        self.index = Index()
        self.index.add(digests, np.arange(len(digests)))

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Raises: KeyError for a text that none was written about."""
        rows = self.index.find(digests_of(texts))
        if (rows < 0).any():
            raise KeyError(texts[int(np.argmin(rows))])
        return [self.tokens[self.starts[row] :][: self.lengths[row]].tolist() for row in rows]


@contextmanager
def opened(spec: RationalesSpec, backbone: Path, root: Path) -> Iterator[Store]:
    """The store of what the model in the folder `backbone` writes by `spec`."""
    from transformers import AutoConfig

    from grace.encoder.loading import load_tokenizer

    with loading_from(backbone):
        width = AutoConfig.from_pretrained(backbone, trust_remote_code=False).get_text_config().hidden_size
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"  # as `load_model` has it
    prompt = spec.encode.prompt
    template = PromptTemplate.from_tokenizer(load_tokenizer(backbone), prompt.instruction, prompt.max_prompt_tokens)
    known = settings(spec.encode, manifest.weights_hash(backbone), dtype, spec.store, template.digest)
    with Store(root, known, width, model=backbone) as store:
        yield store


def missing(texts: list[str], store: Store) -> list[str]:
    known = store.known(digests_of(texts))
    return [text for text, there in zip(texts, known, strict=True) if not there]


def write(encoder: Any, texts: list[str], store: Store) -> None:
    """Let a `RationaleEncoder` write about `texts`, and store each batch at once."""
    store.check_room(len(texts))
    with tqdm(total=len(texts), desc="rationales", unit="text", mininterval=5) as bar:
        for rows, made in encoder.encode_batches(texts, True):
            store.add(digests_of(texts[row] for row in rows), made.embeddings, made.rationales)
            bar.update(len(rows))


def complete(encoder: Callable[[], Any], texts: list[str], store: Store) -> None:
    """Write the rationales of `texts` that are missing, by each process a share, and wait until all are stored;
    `encoder` gives a `RationaleEncoder` and is called only if this process has something to write."""
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    share = texts[rank::processes]  # of all, not of the missing ones: those look different to a later process
    if mine := missing(share, store):
        log.info("%d of %d rationales are missing and are written now", len(mine), len(share))
        write(encoder(), mine, store)
        store.flush()
    while missing(texts, store):  # no collective call: it would give up after some minutes
        time.sleep(WAIT)
        store.refresh()


def looked_up(spec: RationalesSpec, backbone: Path, rows: list[dict[str, Any]], root: Path) -> Rationales:
    """The rationales of the backbone about all texts of `rows`, for a training; every process calls this.

    Raises:
        UserError: when some are missing that vLLM is to write, which would take the GPU that training needs.
    """
    from grace.encoder.encoder import RationaleEncoder

    texts = texts_of(rows)
    with opened(spec, backbone, root) as store:
        lacking = missing(texts, store)
        if lacking and spec.encode.engine == "vllm":
            raise UserError(
                f"{root}: {len(lacking)} of {len(texts)} rationales are missing; write them again with "
                "snakemake --forcerun rationales, then go on."
            )
        complete(lambda: RationaleEncoder.from_spec(backbone, spec.encode, hardware.device()), texts, store)
        return Rationales(texts, store)


@stage.entry(RationalesSpec, inputs=("backbone", "rows"), outputs=("out", "store"))
def main(spec: RationalesSpec, paths: SimpleNamespace) -> None:
    from grace.encoder.encoder import RationaleEncoder

    rows = sample(read_training(paths.rows, TRAINING[spec.data]), spec.rows)
    texts = texts_of(rows)
    with opened(spec, paths.backbone, paths.store) as store:
        lacking = missing(texts, store)
        log.info("%d texts of %d rows, %d known", len(texts), len(rows), len(texts) - len(lacking))
        if lacking:
            write(RationaleEncoder.from_spec(paths.backbone, spec.encode), lacking, store)
        lengths, truncated, well_formed = store.notes(digests_of(texts))
    record = manifest.make("rationales", spec, [paths.backbone, paths.rows], paths.started)
    manifest.write_result(
        paths.out,
        record,
        rows=len(rows),
        texts=len(texts),
        written=len(lacking),  # by this job; the others an earlier one wrote, whose seconds are not in this manifest
        tokens=int(lengths.sum()),
        mean_tokens=float(lengths.mean()),
        truncated_share=float(truncated.mean()),
        well_formed_share=float(well_formed.mean()),
    )


if __name__ == "__main__":
    main()

"""`grace embed`: a file of texts to a file of embeddings, in bounded memory, and on from where it was killed."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from grace.encoder.default import NAME
from grace.use import outputs, texts
from grace.use.kept import Kept
from grace.use.model import Options, load


def run(source: str, out: str, options: Options, field: str, text: bool, store: Path | None) -> None:
    """Embed the rows of `source` into `out`, in their order.

    Args:
        store: folder that keeps the embeddings; None is one beside `out` that goes when `out` is there.
        source, field: as `texts.read`. out, text: as `outputs.writer`.

    Raises:
        UserError: for a mistake in any of them; a file is read to its end before anything is embedded.
    """
    started = time.monotonic()
    texts.check(source)
    outputs.check(out, source)
    total = count(source, field)
    encoder, settings = load(options)
    about = {"model": options.model or NAME, **settings}
    done = 0
    with folder_of(out, store) as root:
        with (
            stoppable(root),
            Kept(encoder, settings, root) as kept,
            progress(total) as bar,
            outputs.writer(out, encoder.width, encoder.spec.rationales, text, about) as add,
        ):
            for block in texts.blocks(texts.read(source, field)):
                add(block, kept.get([row.text for row in block], bar.update))
                done += len(block)
        if store is None:
            kept.remove()
    seconds = time.monotonic() - started
    where = "standard output" if out == outputs.STANDARD_OUTPUT else out
    print(f"{where}: texts: {done:,}, embedded now: {kept.fresh:,}, seconds: {seconds:,.0f}", file=sys.stderr)
    note_cut(kept.cut, encoder.spec.prompt.max_prompt_tokens)


@contextmanager
def folder_of(out: str, store: Path | None) -> Iterator[Path]:
    """Where embeddings are kept until `out` is there: beside it, so that a killed command goes on."""
    if store is None and out == outputs.STANDARD_OUTPUT:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        yield store or Path(out).with_name(f"{Path(out).name}.partial")


@contextmanager
def stoppable(root: Path) -> Iterator[None]:
    """Ctrl-C tells where to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: what is embedded is kept in {root}; the same command goes on from there.", file=sys.stderr)
        raise


def count(source: str, field: str) -> int | None:
    """Rows of a file; None of what can be read only once. Raises: UserError as `texts.read`."""
    return sum(1 for _ in texts.read(source, field)) if texts.repeats(source) else None


def progress(total: int | None) -> tqdm:
    """A bar on standard error, if that is a terminal."""
    return tqdm(total=total, disable=None, desc="embed", unit="text", dynamic_ncols=True)


def note_cut(count: int, tokens: int) -> None:
    """Say that texts were cut."""
    if count:
        some = "1 text is" if count == 1 else f"{count:,} texts are"
        print(f"note: {some} longer than a prompt of {tokens} tokens, and embedded by the beginning.", file=sys.stderr)

"""A corpus that is embedded once: its texts, its index, and the rationales that its embeddings come from.

<corpus>.index/index.json    what the index was made of; written last
<corpus>.index/store/        embeddings and rationales (`grace.encoder.store`): a changed corpus embeds what is new
<corpus>.index/texts.jsonl   {"id", "text"} of each row, and in starts.npy the byte at which it begins
<corpus>.index/vectors.*     see `grace.use.index`
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grace.encoder.store import folder_under
from grace.files import check_writable, read_json, write_json, writing
from grace.section import UserError
from grace.use import embed, index, outputs, texts
from grace.use.kept import Kept

if TYPE_CHECKING:
    from grace.encoder.encoder import RationaleEncoder

VERSION = 1
ABOUT, TEXTS, STARTS, STORE = "index.json", "texts.jsonl", "starts.npy", "store"
OURS = {ABOUT, TEXTS, STARTS, STORE, index.VECTORS, index.LISTS}


class Corpus:
    """A corpus whose index is there (`prepare`). Raises: UserError when a part of it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.index = index.Index(folder)
            self._starts = np.load(folder / STARTS, mmap_mode="r")
            self._texts = open(folder / TEXTS, "rb")  # noqa: SIM115  # it lives as long as the object
        except (OSError, ValueError, RuntimeError, EOFError) as error:  # numpy's and faiss's of a file that is cut off
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{folder}: is not whole ({reason}); give --rebuild.") from None

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, number: int) -> texts.Row:
        """Row `number` of the corpus, from 0."""
        self._texts.seek(int(self._starts[number]))
        try:
            return texts.Row(**json.loads(self._texts.readline()))
        except (ValueError, TypeError):
            raise UserError(f"{self.folder}: is not whole ({TEXTS}, row {number + 1}); give --rebuild.") from None


def folder_of(source: str, given: Path | None) -> Path:
    """Where the index of `source` lies. Raises: UserError for what is no file of texts."""
    texts.check(source)
    if not texts.repeats(source):
        raise UserError(f"{source}: a corpus must be a file, since its index is kept for the next search.")
    return given or Path(source).with_name(f"{Path(source).name}.index")


def prepare(
    source: str, folder: Path, field: str, encoder: RationaleEncoder, settings: dict[str, Any], rebuild: bool
) -> Corpus:
    """The corpus `source` with its index in `folder`, which is made where it is missing or older than the corpus.

    Args:
        settings: what decides the encoder's embeddings (`grace.use.model.load`).
        rebuild: make the index again, whatever model made it.

    Raises:
        UserError: when another model or other settings made the index, the folder is none's, or for a mistake in the
            corpus.
    """
    made = read_json(folder / ABOUT, object) if (folder / ABOUT).exists() else None
    if made is not None and not (isinstance(made, dict) and isinstance(made.get("settings"), dict)):
        raise UserError(f"{folder}: is no index, its {ABOUT} is another file; give another folder with --index.")
    corpus = _fingerprint(source, field)
    if made and not rebuild:
        theirs = made["settings"]
        differing = [name for name in {**theirs, **settings} if theirs.get(name) != settings.get(name)]
        if differing or made.get("version") != VERSION:
            raise UserError(
                f"{folder}: was made by another model or other settings ({', '.join(differing) or 'version'}); give "
                "those, --rebuild to embed the corpus again, or another folder with --index."
            )
        if made["corpus"] == corpus:
            return Corpus(folder)
    if not folder.exists():
        check_writable(folder.parent)
        folder.mkdir()
    check_writable(folder)
    _check_own(folder)
    total = embed.count(source, field)
    (folder / ABOUT).unlink(missing_ok=True)
    with embed.stoppable(folder), Kept(encoder, settings, folder / STORE) as kept:
        rows = _write(source, folder, field, kept, total)
    before = folder_under(folder / STORE, made["settings"]) if made else kept.store.folder
    if before != kept.store.folder:  # of the model that made the index before
        shutil.rmtree(before, ignore_errors=True)
    recall = index.build(folder)
    write_json(
        folder / ABOUT, {"version": VERSION, "corpus": corpus, "rows": rows, "recall": recall, "settings": settings}
    )
    how = "exact" if recall is None else f"approximate, recall@{index.TOP} {recall:.3f}"
    print(f"{folder}: texts: {rows:,}, embedded now: {kept.fresh:,}; search is {how}", file=sys.stderr)
    embed.note_cut(kept.cut, encoder.spec.prompt.max_prompt_tokens)
    return Corpus(folder)


def _check_own(folder: Path) -> None:
    """Raises: UserError when `folder` holds what belongs to no index."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in OURS and path.name[0] != ".")
    if others:
        raise UserError(f"{folder}: is no index, it holds {others[0]}; give another folder with --index.")


def _write(source: str, folder: Path, field: str, kept: Kept, total: int | None) -> int:
    """Texts and unit vectors of all rows, in their order; returns their number."""
    starts = [0]
    with (
        writing(folder / index.VECTORS) as to_vectors,
        outputs.array(to_vectors, kept.encoder.width) as add,
        writing(folder / TEXTS) as to_texts,
        open(to_texts, "wb") as lines,
        embed.progress(total) as bar,
    ):
        for block in texts.blocks(texts.read(source, field)):
            found = kept.store.read(kept.fill([row.text for row in block], bar.update))
            add(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
            for row in block:
                starts.append(starts[-1] + lines.write((json.dumps(row._asdict(), ensure_ascii=False) + "\n").encode()))
    with writing(folder / STARTS) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(starts[:-1], dtype=np.int64))
    return len(starts) - 1


def _fingerprint(source: str, field: str) -> dict[str, Any]:
    """Tells whether the corpus was changed, without reading it."""
    found = Path(source).stat()
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns, "field": field}

"""Rationales and embeddings on disk, by content: a text is embedded once for given weights and settings.

    <root>/<key>/settings.json    what decides an embedding, for people; `key` is its hash
    <root>/<key>/<segment>.*      see `segments`

Nothing is ever changed in place: no locks, so several jobs may share a store on a network file system, and a
killed job loses what it held in memory. Two jobs that embed one text at the same time both keep it; the first counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grace.encoder import segments
from grace.encoder.digests import Index
from grace.encoder.segments import Segment
from grace.files import read_json, write_json
from grace.section import UserError
from grace.specs import EncodeSpec

VERSION = 1  # raised when the same settings give other embeddings
SECONDS = 30.0  # a killed job loses no more than this, and the batch it was in
BYTES = 1 << 28  # of embeddings held back, however fast they come
MERGE_AT = 64  # small segments of a job before they become one
REFRESH = 60.0  # seconds between looks for other jobs' segments
ABANDONED = 3600.0  # a temporary file or half a segment of this age was left by a kill
log = logging.getLogger(__name__)


def settings(encode: EncodeSpec | None, weights: str, dtype: str, precision: str, template: str = "") -> dict[str, Any]:
    """What decides an embedding, and nothing else: runs that differ in the rest share a folder.

    Args:
        encode: None of an encoder-only model, whose folder says how it embeds.
        weights: `grace.manifest.weights_hash` of the model.
        dtype: precision that the model computes in.
        precision: float32 or float16, of the embeddings kept.
        template: `PromptTemplate.digest`; "" where it is not known.
    """
    fixed = {"version": VERSION, "weights": weights, "dtype": dtype, "precision": precision}
    if encode is None:
        return fixed
    spec = encode.model_dump()
    names = ["prompt", "pooling", "rationales"]
    if encode.rationales:
        names += ["engine", "max_new_tokens", "sampling_temperature"]
        names += ["seed"] if encode.sampling_temperature > 0 else []
    else:
        names += ["direct_prompt"]
    fixed |= {"template": template} if template else {}
    return fixed | {name: spec[name] for name in names}


def folder_under(root: Path | str, settings: dict[str, Any]) -> Path:
    """Where the embeddings of these settings lie."""
    return Path(root) / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """Embeddings of one model under one setting.

    Args:
        root: folder of all stores.
        settings: of `settings`.
        width: d, the length of an embedding.
        seconds: embeddings are held back in memory no longer than this; SECONDS unless given.
        model: what an error calls the model.

    Raises:
        UserError: when the folder of these settings holds something else.
    """

    def __init__(
        self,
        root: Path | str,
        settings: dict[str, Any],
        width: int,
        seconds: float | None = None,
        model: Path | str = "the model",
    ) -> None:
        self.folder, self.settings, self.width, self.model = folder_under(root, settings), settings, width, model
        self.seconds = SECONDS if seconds is None else seconds
        self.dtype = np.dtype(settings["precision"])
        self._small: list[Segment] = []  # written by this job
        self._looked = -math.inf
        self._held = Held()
        self._claim()
        self._clean()
        self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.flush()
        if kind is None:
            self._merge()

    def __len__(self) -> int:
        return len(self.index)

    # ---- reading ------------------------------------------------------------------------

    def known(self, digests: np.ndarray) -> np.ndarray:
        """[n] bool for digests [n, 2] of `digests.digests_of`."""
        return self.index.find(digests) >= 0

    def read(self, digests: np.ndarray) -> np.ndarray:
        """Embeddings [n, d] float32 of digests [n, 2].

        Raises:
            KeyError: for an unknown one.
            UserError: when one is not finite: the file was damaged.
        """
        found = self._despite_merges(self._read, digests)
        if bad := _not_finite(found):
            raise UserError(f"{self.folder}: holds {bad} embeddings that are not finite; delete it and run again.")
        return found

    def notes(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the rationales of digests [n, 2]: lengths in tokens [n], truncated [n] bool, well formed [n] bool."""
        packed = np.empty(len(digests), dtype=np.uint32)
        for number, at, rows in self._where(digests):
            written = number < len(self.segments)
            packed[at] = (self._notes[number] if written else np.concatenate(self._held.notes))[rows]
        return segments.unpack(packed)

    def rationales(self, digests: np.ndarray) -> list[list[int]]:
        """Token ids of the rationales of digests [n, 2], with the end token where it was reached."""
        self.flush()
        return self._despite_merges(self._rationales, digests)

    def refresh(self, older_than: float = 0.0) -> None:
        """Take in the segments that other jobs wrote, unless that was done less than `older_than` seconds ago."""
        if time.monotonic() - self._looked < older_than:
            return
        self.flush()
        self._looked = time.monotonic()
        have = {segment.path.name for segment in self.segments} | self._broken
        names = {path.name.removesuffix(".parquet") for path in self.folder.glob("[!.]*.parquet")}
        found, gone = [], False
        for name in sorted(names - have):
            try:
                segment, digests, notes = segments.read(self.folder / name)
                if (segment.dtype, segment.width) != (self.dtype, self.width):
                    raise ValueError(f"{segment.path}.npy: {segment.width} numbers of {segment.dtype} per text")
            except FileNotFoundError:  # merged by another job just now, into one that was not there when we looked
                gone = gone or not (self.folder / f"{name}.parquet").exists()
                continue
            except (ValueError, OSError) as error:
                log.warning("%s.*: left out, since it is not whole (%s); delete it", self.folder / name, error)
                self._broken.add(name)
                continue
            found.append((segment, digests, notes))
        if found:
            first = self._starts[-1]
            for segment, _, notes in found:
                self._append(segment, notes)
            self.index.add(np.concatenate([digests for _, digests, _ in found]), np.arange(first, self._starts[-1]))
        if gone:
            self.refresh()

    def _open(self) -> None:
        self.index, self.segments = Index(), list[Segment]()
        self._notes: list[np.ndarray] = []  # per segment, [n] of `segments.pack`
        self._starts = [0]  # number of a segment's first row; the last one is that of the rows held back
        self._broken: set[str] = set()
        self._looked = -math.inf
        self.refresh()

    def _append(self, segment: Segment, notes: np.ndarray) -> None:
        self.segments.append(segment)
        self._notes.append(notes)
        self._starts.append(self._starts[-1] + segment.rows)

    def _where(self, digests: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of a segment (the last: rows held back), positions in `digests` and the segment's rows."""
        rows = self.index.find(digests)
        if (rows < 0).any():
            raise KeyError("a text that was not embedded")
        which = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(rows) else ():
            number = int(which[at[0]])
            yield number, at, rows[at] - self._starts[number]

    def _read(self, digests: np.ndarray) -> np.ndarray:
        out = np.empty((len(digests), self.width), dtype=np.float32)
        for number, at, rows in self._where(digests):
            if number < len(self.segments):
                out[at] = self.segments[number].read(rows)
            else:
                out[at] = np.concatenate(self._held.vectors)[rows]
        return out

    def _rationales(self, digests: np.ndarray) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in digests]
        for number, at, rows in self._where(digests):
            for i, ids in zip(at, self.segments[number].tokens(rows), strict=True):
                found[i] = ids
        return found

    def _despite_merges(self, look: Callable[[np.ndarray], Any], digests: np.ndarray) -> Any:
        try:
            return look(digests)
        except OSError:  # another job has merged its segments since: see where the rows are now
            self.flush()
            self._open()
            return look(digests)

    # ---- writing ------------------------------------------------------------------------

    def add(self, digests: np.ndarray, embeddings: np.ndarray, rationales: Sequence[Any] | None = None) -> None:
        """Keep embeddings [n, d] of digests [n, 2], with n `encoder.Rationale` or None; written within `seconds`.

        Raises:
            UserError: when an embedding is not finite in the store's precision.
            OSError: when the disk is full.
        """
        with np.errstate(over="ignore"):
            vectors = embeddings.astype(self.dtype)
        if bad := _not_finite(embeddings):
            raise UserError(
                f"{self.model}: its embeddings of {bad} of {len(embeddings)} texts of a batch are not finite, so its "
                "training has diverged or its files are damaged; train or fetch it again."
            )
        if bad := _not_finite(vectors):
            raise UserError(
                f"{self.model}: its embeddings of {bad} of {len(vectors)} texts of a batch are too large for "
                f"{self.dtype}; set evaluation.store: float32."
            )
        held, made = self._held, rationales if rationales is not None else ()
        notes = np.zeros(len(vectors), dtype=np.uint32)
        if len(made):
            lengths, cut, formed = zip(*((len(r.token_ids), r.truncated, r.well_formed) for r in made), strict=True)
            notes = segments.pack(np.array(lengths), np.array(cut), np.array(formed))
        if not held.rows:
            held.since = time.monotonic()
        first = self._starts[-1] + held.rows
        self.index.add(digests, np.arange(first, first + len(vectors)))
        held.digests.append(digests)
        held.vectors.append(vectors)
        held.notes.append(notes)
        held.tokens += [np.asarray(r.token_ids, dtype=np.uint32) for r in made]
        held.rows += len(vectors)
        if held.rows * vectors[0].nbytes >= BYTES or time.monotonic() - held.since >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is held back as a segment."""
        held = self._held
        if not held.rows:
            return
        notes = np.concatenate(held.notes)
        segment = segments.write(self.folder, np.concatenate(held.digests), held.vectors, notes, held.tokens)
        self._append(segment, notes)
        self._held = Held()
        if segment.size < BYTES // 4:
            self._small.append(segment)
        if len(self._small) >= MERGE_AT:
            self._merge()
            self._open()

    def _merge(self) -> None:
        """Make one segment of this job's small ones: a day of embedding is thousands of them."""
        if len(self._small) > 1:
            try:
                segments.merge(self.folder, self._small)
            except (OSError, ValueError) as error:  # nothing is lost: the parts stay
                log.warning("the store's segments stay apart (%s)", error)
        self._small = []

    # ---- the folder ---------------------------------------------------------------------

    def check_room(self, texts: int) -> None:
        """Raises: UserError when the disk has no room for `texts` more embeddings and rationales."""
        # A rationale's tokens take under 2 bytes each when compressed; the rest is digest and notes.
        each = self.width * self.dtype.itemsize + 32 + 2 * self.settings.get("max_new_tokens", 0)
        need, free = texts * each / 1e9, shutil.disk_usage(self.folder).free / 1e9
        if need > free:
            raise UserError(
                f"{self.folder}: {texts:,} embeddings need up to {need:,.1f} GB and {free:,.1f} GB are free; free "
                "space, or make results/ a link to a larger disk."
            )

    def _claim(self) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            write_json(path, self.settings)
            return
        found = read_json(path)
        if found != self.settings:
            differing = [name for name in {**self.settings, **found} if found.get(name) != self.settings.get(name)]
            raise UserError(
                f"{self.folder}: holds embeddings of other settings ({', '.join(differing)}); move it away."
            )

    def _clean(self) -> None:
        """Remove what a killed job left: temporary files, and embeddings without their second file."""
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("[!.]*.npy")]:
            try:
                old = time.time() - path.stat().st_mtime > ABANDONED
                if old and not path.with_name(path.name.removesuffix(".npy") + ".parquet").exists():
                    path.unlink()
            except FileNotFoundError:  # another job was faster
                continue


def _not_finite(vectors: np.ndarray) -> int:
    """How many rows of [n, d] hold a number that is not finite."""
    return int((~np.isfinite(vectors).all(axis=1)).sum())


@dataclass
class Held:
    """What is embedded but not written yet."""

    rows: int = 0
    digests: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    notes: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    since: float = 0.0

"""Texts embedded by way of a store: what lies there is not embedded again, so that a killed command goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grace.encoder.digests import digests_of
from grace.encoder.store import Store
from grace.section import UserError

if TYPE_CHECKING:
    from grace.encoder.encoder import Rationale, RationaleEncoder


class Embedded(NamedTuple):
    """digests [n, 2] uint64, embeddings [n, d] float32, n rationales or None."""

    digests: np.ndarray
    embeddings: np.ndarray
    rationales: list[Rationale] | None


class Kept:
    """An encoder with its store.

    Args:
        encoder: whose embeddings are kept. settings: what decides them (`grace.use.model.load`).
        root: folder of the store, made when it is missing.

    Raises:
        UserError: when the folder cannot be written.
    """

    def __init__(self, encoder: RationaleEncoder, settings: dict[str, Any], root: Path) -> None:
        try:
            self.store = Store(root, settings, encoder.width)
        except OSError as error:
            raise UserError(f"{root}: embeddings cannot be kept here ({error.strerror}); name a folder that can be "
                            "written.") from None  # fmt: skip
        self.encoder = encoder
        self.fresh = self.cut = 0  # distinct texts that were embedded, and of them those longer than the prompt

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *error: Any) -> None:
        self.store.__exit__(*error)

    def fill(self, texts: list[str], done: Callable[[int], Any] = lambda count: None) -> np.ndarray:
        """Embed what the store lacks of `texts`.

        Args:
            done: told after each batch how many of `texts` are embedded by it; at first, how many were before.

        Returns:
            The texts' digests, [n, 2] uint64.
        """
        digests = digests_of(texts)
        unknown = np.flatnonzero(~self.store.known(digests))
        _, first, copies = np.unique(digests[unknown], axis=0, return_index=True, return_counts=True)
        fresh = unknown[first]
        done(len(texts) - len(unknown))
        if len(fresh):
            self.store.check_room(len(fresh))
            some = [texts[i] for i in fresh]
            for rows, made in self.encoder.encode_batches(some):
                self.store.add(digests[fresh[rows]], made.embeddings, made.rationales)
                done(int(copies[rows].sum()))
            self.fresh += len(fresh)
            self.cut += self._longer(some)
        return digests

    def get(self, texts: list[str], done: Callable[[int], Any] = lambda count: None) -> Embedded:
        """Embeddings and rationales of `texts`, in their order. Args: as `fill`."""
        digests = self.fill(texts, done)
        return Embedded(digests, self.store.read(digests), self.rationales(digests))

    def rationales(self, digests: np.ndarray) -> list[Rationale] | None:
        """Of texts that are in the store; None where the encoder embeds without."""
        if not self.encoder.spec.rationales:
            return None
        return self.encoder.rationales(self.store.rationales(digests))

    def remove(self) -> None:
        """After the block: remove what is kept, and nothing else that lies in the folder of stores."""
        shutil.rmtree(self.store.folder)
        with suppress(OSError):  # not empty
            self.store.folder.parent.rmdir()

    def _longer(self, texts: list[str]) -> int:
        template = self.encoder.template
        return sum(len(ids) > template.text_room for ids in template.text_ids(texts, template.text_room + 1))

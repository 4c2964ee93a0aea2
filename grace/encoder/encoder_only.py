"""An encoder-only model beside the decoders: it embeds as Sentence Transformers does, and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from grace.encoder.encoder import Encoding
from grace.encoder.folders import loading_from
from grace.section import UserError

BLOCK = 1024  # texts that are sorted by length and kept together


def check_encoder(folder: Path) -> None:
    """Raises: UserError when `folder` holds no model of Sentence Transformers, or one that writes."""
    if not (folder / "modules.json").exists():
        raise UserError(f"{folder}: has no modules.json; give the folder of a Sentence Transformers model.")
    if (folder / "grace.json").exists():
        raise UserError(f"{folder}: a decoder of this workflow, which may be a backbone; give an encoder-only model.")


class EncoderOnly:
    """A model of Sentence Transformers with its own pooling, normalisation and longest text, and without a prompt.

    Queries and documents are embedded alike, by its `encode`.

    Args:
        folder: of the model, as Sentence Transformers writes it.
        device: cuda where there is one, else cpu.

    Raises:
        UserError: when the folder holds no such model, or one that this workflow has trained.
    """

    def __init__(self, folder: Path | str, device: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        check_encoder(Path(folder))
        with loading_from(folder, "model of Sentence Transformers"):
            self.model = SentenceTransformer(str(folder), device=device)

    @property
    def width(self) -> int:
        """d, the length of an embedding."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def dtype(self) -> str:
        """The precision that the model computes in, such as float32."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings [N, d] float32 of `texts`; a text longer than the model's limit is cut on the right."""
        return self.model.encode(texts, convert_to_numpy=True, show_progress_bar=False).astype(np.float32)

    def encode_batches(self, texts: list[str]) -> Iterator[tuple[list[int], Encoding]]:
        """As `RationaleEncoder.encode_batches`: yields (indices of n texts, their `Encoding`)."""
        for start in range(0, len(texts), BLOCK):
            some = texts[start : start + BLOCK]
            yield list(range(start, start + len(some))), Encoding(self.encode(some), None)

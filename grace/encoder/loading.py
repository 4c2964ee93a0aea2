"""A model folder's, or a hub repository's, causal LM and tokenizer; what cannot be loaded is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from grace.section import UserError


def load_model(path: str | Path, device: str | None = None) -> tuple[Any, Any]:
    """A causal LM (float32 on a CPU, else bfloat16, whatever it was saved in) and its tokenizer.

    Raises:
        UserError: one sentence, when `path` is neither a model folder nor a reachable repository.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(path)
    with _one_sentence(path):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(device), tokenizer


def load_tokenizer(path: str | Path) -> Any:
    """Raises: UserError as `load_model`."""
    if Path(path).exists() and not (Path(path) / "config.json").exists():
        raise UserError(f"{path}: not the folder of a Hugging Face model (it has no config.json).")
    with _one_sentence(path):
        return AutoTokenizer.from_pretrained(path)


@contextmanager
def _one_sentence(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: no causal language model can be loaded from here ({reason}).") from None

"""A model folder's, or a hub repository's, causal LM and tokenizer; what cannot be loaded is one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grace.encoder import adapters, references
from grace.encoder.inputs import check_folder
from grace.section import UserError

MODEL = "causal language model"
# One of them holds a vocabulary. Without any, transformers makes an empty tokenizer of the model's kind.
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json")


def load_model(path: str | Path, device: str | None = None) -> tuple[Any, Any]:
    """A causal LM (float32 on a CPU, else bfloat16, whatever it was saved in) and its tokenizer.

    Of an adapter's folder it is a model of peft, with its backbone (`grace.encoder.adapters`).

    Raises:
        UserError: one sentence, when `path` is neither a model folder nor a reachable repository, or an adapter
            without the backbone that it was trained on, or without peft.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if references.described(path) is None:
        tokenizer = load_tokenizer(path)
        return _causal(path, device), tokenizer
    backbone, folder = references.backbone_of(path), references.folder_of(path)
    tokenizer = load_tokenizer(folder)
    with one_sentence(path, "adapter"):
        return adapters.attach(_causal(backbone, device), folder), tokenizer


def _causal(path: str | Path, device: str) -> Any:
    with one_sentence(path):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    model, told = loaded
    if missing := sorted(told["missing_keys"]):  # transformers makes them up
        raise UserError(f"{path}: its weights lack {missing[0]} and {len(missing) - 1} more; fetch or train it again.")
    return model.to(device)


def load_tokenizer(path: str | Path) -> Any:
    """Raises: UserError as `load_model`, and for a folder without a tokenizer."""
    folder = Path(path)
    if folder.exists():
        check_folder(folder)
        if not any(found for pattern in VOCABULARIES for found in folder.glob(pattern)):
            raise UserError(f"{path}: has no tokenizer; put its tokenizer.json and tokenizer_config.json there.")
    with one_sentence(path, "tokenizer" if folder.exists() else MODEL):
        return AutoTokenizer.from_pretrained(path)


@contextmanager
def one_sentence(path: str | Path, what: str = MODEL) -> Iterator[None]:
    """Turn what broken or foreign files at `path` lead to in transformers into a UserError: no `what` is there."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # files of others: anything from a KeyError to an error of huggingface_hub's own
        # The first line; one that ends in a colon says nothing without the next.
        reason = re.split(r"(?<!:)\n", str(error).strip())[0].replace("\n", " ") or type(error).__name__
        raise UserError(f"{path}: no {what} can be loaded from here ({reason}).") from None

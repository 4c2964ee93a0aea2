"""A model folder's, or a hub repository's, causal LM and tokenizer; what cannot be loaded is one sentence."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grace.encoder import adapters, references
from grace.encoder.folders import MODEL, loading_from
from grace.encoder.saved import check_model_folder, described
from grace.section import UserError

log = logging.getLogger(__name__)

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
    if described(path) is None:
        tokenizer = load_tokenizer(path)
        return _causal(path, device), tokenizer
    backbone, folder = references.backbone_of(path), references.folder_of(path)
    tokenizer = load_tokenizer(folder)
    with loading_from(path, "adapter"):
        return adapters.attach(_causal(backbone, device), folder), tokenizer


def _causal(path: str | Path, device: str) -> Any:
    return load_causal(path, torch.float32 if device == "cpu" else torch.bfloat16).to(device)


def load_causal(path: str | Path, dtype: torch.dtype, **options: Any) -> Any:
    """A causal LM that can be saved again. Raises: UserError as `load_model`.

    Args:
        options: of transformers' `from_pretrained`, or of the model's configuration.
    """
    with loading_from(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=False, **options
        )
    model, told = loaded
    if missing := sorted(told["missing_keys"]):  # transformers makes them up
        raise UserError(f"{path}: its weights lack {missing[0]} and {len(missing) - 1} more; fetch or train it again.")
    mend_generation(model)
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        # As transformers found it: of two matrices in the files it ties none to the other, whatever the config says.
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return model


def mend_generation(model: Any) -> None:
    """Unset what transformers reads in a generation config and refuses to save, as a temperature without sampling."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`", str(error), re.MULTILINE):
            log.warning("%s: generation_config.json: %s is left out, it contradicts the rest", model.name_or_path, name)
            setattr(model.generation_config, name, None)


def load_tokenizer(path: str | Path) -> Any:
    """Raises: UserError as `load_model`, and for a folder without a tokenizer."""
    folder = Path(path)
    if folder.exists():
        check_model_folder(folder)
        if not any(found for pattern in VOCABULARIES for found in folder.glob(pattern)):
            raise UserError(f"{path}: has no tokenizer; put its tokenizer.json and tokenizer_config.json there.")
    with loading_from(path, "tokenizer" if folder.exists() else MODEL):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)

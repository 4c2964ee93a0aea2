"""What users give, looked at before anything is computed: texts, and where a model is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grace.section import UserError


def checked_texts(texts: list[str]) -> list[str]:
    """Raises: TypeError when `texts` is no list of strings."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts; wrap the one text in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is a {type(text).__name__}, not a string")
    return texts


def may_be_repository(path: str | Path) -> bool:
    """Whether `path` has the form of a repository's name on the hub, OWNER/NAME or NAME, and is no mistyped folder."""
    name, parent = os.fspath(path), Path(path).parent
    mistyped = "/" in name and parent.is_dir()
    return not Path(path).exists() and not mistyped and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


def check_folder(folder: Path) -> None:
    """Raises: UserError when an existing `folder` holds neither a model nor an adapter with its settings."""
    from grace.encoder.references import described

    if (folder / "config.json").exists() or described(folder):
        return
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: an adapter without a grace.json that names its backbone; merge it, or train it here."
        )
    raise UserError(f"{folder}: not the folder of a Hugging Face model (it has no config.json).")


def check_model(path: str | Path) -> None:
    """Refuse what is certainly no decoder language model, from its configuration alone; of an adapter its backbone's.

    Raises:
        UserError: when there is nothing at `path` or on the hub, or a model that is no causal language model.
    """
    if not Path(path).exists() and not may_be_repository(path):
        raise UserError(f"{path}: there is no such folder; give a trained model's folder or a repository of the hub.")
    if Path(path).exists():
        check_folder(Path(path))
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from grace.encoder.loading import one_sentence
    from grace.encoder.references import backbone_of, described

    path = backbone_of(path) if described(path) else path
    with one_sentence(path):
        config = AutoConfig.from_pretrained(path)
    found = getattr(config, "architectures", None) or []
    known = _names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if getattr(config, "is_encoder_decoder", False) or (found and not known & {*found}):
        kind = found[0] if found else config.model_type
        raise UserError(
            f"{path}: holds a {kind}, but a decoder that writes text is needed; give an instruction-tuned causal "
            "language model."
        )


def _names(values: Iterable[Any]) -> set[str]:
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}

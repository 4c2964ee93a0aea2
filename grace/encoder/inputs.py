"""What users give, looked at before anything is computed: texts, and where a model is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grace.encoder.folders import loading_from, may_be_repository
from grace.encoder.references import backbone_of
from grace.encoder.saved import check_model_folder, described
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


def check_model(path: str | Path) -> None:
    """Refuse what is certainly no decoder language model, from its configuration alone; of an adapter its backbone's.

    Raises:
        UserError: when there is nothing at `path` or on the hub, or a model that is no causal language model.
    """
    if not Path(path).exists() and not may_be_repository(path):
        raise UserError(f"{path}: there is no such folder; give a trained model's folder or a repository of the hub.")
    if Path(path).exists():
        check_model_folder(Path(path))
    check_decoder(backbone_of(path) if described(path) else path)


def check_decoder(path: str | Path) -> None:
    """Raises: UserError when the configuration at `path` cannot be read, or is no causal language model's."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    with loading_from(path):
        config = AutoConfig.from_pretrained(path)
    decoders = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    named, known = getattr(config, "architectures", None) or [], _names(decoders.values())
    # Of some encoders transformers has causal language models too, on paper.
    kind, encoder = config.model_type, config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if (
        encoder
        or kind not in decoders
        or getattr(config, "is_encoder_decoder", False)
        or (named and not known & {*named})
    ):
        raise UserError(
            f"{path}: holds {kind}{f' ({named[0]})' if named else ''}, but a decoder that writes text is needed; give "
            "an instruction-tuned causal language model, as Qwen2.5-1.5B-Instruct is one."
        )


def _names(values: Iterable[Any]) -> set[str]:
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}

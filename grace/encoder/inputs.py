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


def check_model(path: str | Path) -> Any:
    """The configuration of the model at `path`, of an adapter its backbone's; of a decoder language model for certain.

    Raises:
        UserError: when there is nothing at `path` or on the hub, or a model that is no causal language model.
    """
    if not Path(path).exists() and not may_be_repository(path):
        raise UserError(f"{path}: there is no such folder; give a trained model's folder or a repository of the hub.")
    if Path(path).exists():
        check_model_folder(Path(path))
    return check_decoder(backbone_of(path) if described(path) else path)


def check_decoder(path: str | Path) -> Any:
    """The configuration at `path`. Raises: UserError when it cannot be read, or is no causal language model's."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    with loading_from(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
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
    return config


def context_of(config: Any) -> int | None:
    """Tokens that a model reads at most, prompt and rationale together; None where its architecture has no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_context(config: Any, prompt: int, new: int, key: str = "max_new_tokens") -> None:
    """Raises: UserError when the model does not read `prompt` tokens and a rationale of `new`, set by `key`."""
    context = context_of(config)
    if context is not None and prompt + new > context:
        more = f" and {key} {new}" if new else ""
        raise UserError(
            f"config: prompt.max_prompt_tokens {prompt}{more} are more than the {context} tokens that the model reads; "
            "lower them, or take a model with a longer context."
        )


def _names(values: Iterable[Any]) -> set[str]:
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}

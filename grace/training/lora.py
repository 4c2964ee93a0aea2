"""Low-rank adapters (peft): trained instead of the backbone's weights, merged into them at the end."""

from __future__ import annotations

from typing import Any

from grace.section import UserError
from grace.settings import Lora


def add(model: Any, settings: Lora, where: str) -> Any:
    """`model` with adapters, the only weights left to train.

    They start from torch's random state, so it has to be set before.

    Args:
        where: the method's section in config.yaml, for the message.

    Raises:
        UserError: when the model has no module of a name in `targets`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float serves as well
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise UserError(
            f"config: {where}.lora.targets: the backbone has no modules named {settings.targets!r}; "
            "name some that it has, or write all-linear."
        ) from None


def merged(model: Any) -> Any:
    """The ordinary model: adapters added into the weights they adapt, in place."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model

"""Low-rank adapters (peft): trained instead of the backbone's weights.

They are merged into an ordinary model at the end, except those of the methods `adapter` and `adapter+grace`, whose
embeddings have an adapter of their own (`grace.encoder.adapters`).
"""

from __future__ import annotations

import importlib.util
import math
import re
import warnings
from typing import Any

from torch import nn

from grace.encoder.adapters import EMBEDDING, GENERATOR, separate
from grace.section import UserError
from grace.settings import Lora
from grace.specs import TrainSpec


def wanted(spec: TrainSpec) -> list[tuple[str, Lora | None, str]]:
    """Of each adapter that a run may train: its section in config.yaml, its settings there, its name in peft."""
    found: list[tuple[str, Lora | None, str]] = []
    if spec.contrastive:
        pools = "adapter" in spec.method
        found.append(("adapter" if pools else spec.method, spec.contrastive.lora, EMBEDDING if pools else "default"))
    if spec.grace:
        found.append(("grace", spec.grace.lora, GENERATOR if spec.rounds else "default"))
    return found


def check(spec: TrainSpec) -> None:
    """Raises: UserError when adapters are to be trained without peft, or the method needs one that is not set."""
    for where, settings, name in wanted(spec):
        if settings is None and name in (EMBEDDING, GENERATOR):
            raise UserError(
                f"config: {where}.lora: {spec.method} trains an adapter here; give rank, alpha, dropout and targets."
            )
        if settings is not None and importlib.util.find_spec("peft") is None:
            raise UserError(
                f"config: {where}.lora: adapters are trained by peft, which is not installed; install it: "
                "pip install peft."
            )


def add_all(model: Any, spec: TrainSpec) -> Any:
    """`model` with the adapters of a run; the last one is on. Raises: as `add`."""
    for where, settings, name in wanted(spec):
        if settings:
            model = add(model, settings, where, name)
    return model


def add(model: Any, settings: Lora, where: str, name: str = "default") -> Any:
    """`model` with the adapter `name` on alone, the only weights left to train.

    They start from torch's random state, so it has to be set before.

    Args:
        where: the method's section in config.yaml, for the message.

    Raises:
        UserError: when the model has no module of a name in `targets`, or when its table of embeddings, which is also
            its head, is to have an adapter that will be merged.
    """
    from peft import LoraConfig, get_peft_model

    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if settings.embeddings and tied and name != EMBEDDING:
        raise UserError(
            f"config: {where}.lora.embeddings: the backbone's table of embeddings is also its head, so merging an "
            "adapter of it would change what the model writes; set it to false."
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float serves as well
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # the head stays the backbone's
            if hasattr(model, "peft_config"):
                model.add_adapter(name, config)
                model.set_adapter(name)
            else:
                model = get_peft_model(model, config, adapter_name=name)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise UserError(
            f"config: {where}.lora.targets: the backbone has no modules named {settings.targets!r}; "
            "name some that it has, or write all-linear."
        ) from None
    if settings.embeddings:
        # peft draws from N(0, 1) here: at one learning rate tokens would move some twenty times as fast as layers.
        nn.init.kaiming_uniform_(model.get_input_embeddings().lora_embedding_B[name].T, a=math.sqrt(5))
    return model


def _targets(model: Any, settings: Lora) -> str | list[str]:
    if not settings.embeddings:
        return settings.targets
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    if settings.targets == "all-linear":
        linear = {name for module, name in names.items() if isinstance(module, nn.Linear) and module is not head}
        return [*sorted(linear), names[table]]
    if isinstance(settings.targets, str):
        return rf"({settings.targets})|.*\.{re.escape(names[table])}"
    return [*settings.targets, names[table]]


def merged(model: Any) -> Any:
    """The ordinary model: adapters added into the weights they adapt, in place. Those for pooling stay apart."""
    if separate(model):
        return model
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model

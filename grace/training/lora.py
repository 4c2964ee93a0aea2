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
from transformers.pytorch_utils import Conv1D

from grace.config.schema import Lora
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder.adapters import EMBEDDING, GENERATOR, separate

ALL = "all-linear"  # peft's name for every linear layer but the head


def adapters_of(spec: TrainSpec) -> list[tuple[str, Lora | None, str]]:
    """Of each adapter that a run may train: its section in config.yaml, its settings there, its name in peft."""
    found: list[tuple[str, Lora | None, str]] = []
    if spec.contrastive:
        pools = "adapter" in spec.method
        found.append(("adapter" if pools else spec.method, spec.contrastive.lora, EMBEDDING if pools else "default"))
    if spec.offline:
        found.append(("offline", spec.offline.lora, "default"))
    if spec.grace:
        found.append(("grace", spec.grace.lora, GENERATOR if spec.rounds else "default"))
    return found


def check(spec: TrainSpec) -> None:
    """Raises: UserError when adapters are to be trained without peft, or the method needs one that is not set."""
    for where, settings, name in adapters_of(spec):
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
    for where, settings, name in adapters_of(spec):
        if settings:
            model = add(model, settings, where, name)
    return model


def add(model: Any, settings: Lora, where: str, name: str = "default") -> Any:
    """`model` with the adapter `name` on alone, the only weights left to train, drawn from torch's random state.

    Raises:
        UserError: about the section `where` of config.yaml, when `targets` names what the model does not have or what
            can have no adapter, as its head, or when its table of embeddings is also its head and is to have an
            adapter for more than pooling.
    """
    from peft import LoraConfig, get_peft_model

    _check_targets(model.get_base_model() if hasattr(model, "peft_config") else model, settings.targets, where)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
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
        reason = " ".join(str(error).split(". ")[0].split())
        raise UserError(
            f"config: {where}.lora.targets: {settings.targets!r} cannot be adapted ({reason}); name linear layers, or "
            "write all-linear."
        ) from None
    base = model.get_base_model()
    if name in getattr(base.get_output_embeddings(), "lora_A", ()):
        raise UserError(
            f"config: {where}.lora.targets: {settings.targets!r} names the head too, which cannot have an adapter: the "
            "log-probabilities are read from its weights; name other layers, or write all-linear."
        )
    table = getattr(base.get_input_embeddings(), "lora_embedding_B", {})
    if name in table and tied and name != EMBEDDING:
        raise UserError(
            f"config: {where}.lora.{'embeddings' if settings.embeddings else 'targets'}: the backbone's table of "
            "embeddings is also its head, so merging an adapter of it would change what the model writes; leave it out."
        )
    if name in table:
        # peft draws from N(0, 1) here: at one learning rate tokens would move some twenty times as fast as layers.
        nn.init.kaiming_uniform_(table[name].T, a=math.sqrt(5))
    return model


def merged(model: Any) -> Any:
    """The ordinary model: adapters added into the weights they adapt, in place. Those for pooling stay apart."""
    if separate(model):
        return model
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _check_targets(model: Any, targets: str | list[str], where: str) -> None:
    """Raises: UserError when a name, or a regular expression, fits no module of the model."""
    if isinstance(targets, str) and targets.lower() == ALL:
        return
    modules = [name for name, _ in model.named_modules()]
    try:
        if isinstance(targets, str):
            lacking = [] if any(re.fullmatch(targets, name) for name in modules) else [targets]
        else:
            lacking = [name for name in targets if not any(f".{at}".endswith(f".{name}") for at in modules)]
    except re.error as error:
        raise UserError(
            f"config: {where}.lora.targets: {targets!r} is no regular expression ({error}); correct it, or give a list "
            "of names."
        ) from None
    if lacking or not targets:
        raise UserError(
            f"config: {where}.lora.targets: the backbone has no modules named {', '.join(lacking) or targets!r}; name "
            f"some that it has, or write {ALL}."
        )


def _targets(model: Any, settings: Lora) -> str | list[str]:
    if not settings.embeddings:
        return settings.targets
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    # By their last name, also where the layers have another adapter.
    names = {m: n.removesuffix(".base_layer").rsplit(".", 1)[-1] for n, m in model.named_modules() if ".lora_" not in n}
    if isinstance(settings.targets, str) and settings.targets.lower() == ALL:
        linear = {name for m, name in names.items() if isinstance(m, nn.Linear | Conv1D) and m is not head}
        return [*sorted(linear), names[table]]
    if isinstance(settings.targets, str):
        return rf"({settings.targets})|.*\.{re.escape(names[table])}"
    return [*settings.targets, names[table]]

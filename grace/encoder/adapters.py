"""A backbone whose embeddings have an adapter (peft) of their own: what is written and what is pooled differ.

The backbone is frozen. EMBEDDING is on while texts are pooled, and off while rationales are written: those are the
backbone's, token for token. A model with a second adapter GENERATOR writes with that one and pools without it.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace.encoder.references import reference
from grace.encoder.saved import GENERATOR_FOLDER, Adapter
from grace.files import read_json, write_json
from grace.section import UserError

EMBEDDING, GENERATOR = "embedding", GENERATOR_FOLDER  # names of adapters; peft saves one to a folder of its name
CONFIG = "adapter_config.json"


def separate(model: Any) -> bool:
    """Whether pooling has an adapter of its own."""
    return EMBEDDING in getattr(model, "peft_config", ())


@contextmanager
def writing(model: Any) -> Iterator[Any]:
    """Yield the model that writes: with GENERATOR on if there is one, else the bare backbone.

    A model without an adapter for pooling is yielded as it is. What was on before is on again afterwards, and which
    parameters are trained does not change. Contexts nest. A backward pass that computes activations again (gradient
    checkpointing) has to run inside the context of its forward pass.
    """
    if not separate(model):
        yield model
        return
    with _switched(model, GENERATOR if GENERATOR in model.peft_config else None) as base:
        yield base


@contextmanager
def embedding(model: Any) -> Iterator[Any]:
    """Yield the model that pools, with EMBEDDING on alone; otherwise as `writing`."""
    if not separate(model):
        yield model
        return
    with _switched(model, EMBEDDING) as base:
        yield base


def write_model(folder: Path, model: Any, tokenizer: Any, **options: Any) -> dict[str, Adapter]:
    """Write any model to an existing folder, `save` where pooling has an adapter.

    Args:
        options: of transformers' `save_pretrained`, for an ordinary model.

    Returns:
        What grace.json has to say besides settings: `adapter`, or nothing.

    Raises:
        UserError: as `save`.
    """
    tokenizer.save_pretrained(folder)
    if separate(model):
        return {"adapter": save(folder, model)}
    model.save_pretrained(folder, **options)
    return {}


def save(folder: Path, model: Any) -> Adapter:
    """Write the adapters of `model` to an existing folder as peft does: EMBEDDING in it, GENERATOR in `generator`.

    Returns:
        What the folder's grace.json has to say about the backbone, which is not written.

    Raises:
        UserError: when the backbone was not loaded from a folder or the hub.
    """
    there = {path.name for path in folder.iterdir()}
    names = [name for name in (EMBEDDING, GENERATOR) if name in model.peft_config]
    # A table that is adapted is frozen itself; peft would save it too.
    model.save_pretrained(str(folder), selected_adapters=names, save_embedding_layers=False)
    for path in (folder / EMBEDDING).iterdir():
        os.replace(path, folder / path.name)
    (folder / EMBEDDING).rmdir()
    if "README.md" not in there:  # peft's card, with nothing in it
        (folder / "README.md").unlink(missing_ok=True)
    at = reference(folder, model.get_base_model().name_or_path)
    for file in (folder / CONFIG, folder / GENERATOR / CONFIG):
        if file.exists():  # the same bytes wherever and whenever it is trained
            known = read_json(file)
            targets = known["target_modules"]
            known["target_modules"] = sorted(targets) if isinstance(targets, list) else targets
            write_json(file, known | {"base_model_name_or_path": at.base})
    return at


def attach(backbone: Any, folder: Path) -> Any:
    """`backbone` with the adapters of `folder`, EMBEDDING on, none of them trained.

    Raises:
        UserError: when peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{folder}: is an adapter, which peft loads; install it: pip install peft.")
    from peft import PeftModel

    # In the backbone's precision: peft would raise adapters to float32, and every layer would then convert.
    options: dict[str, Any] = {"autocast_adapter_dtype": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # the head stays the backbone's
        model = PeftModel.from_pretrained(backbone, str(folder), adapter_name=EMBEDDING, **options)
        if (folder / GENERATOR).is_dir():
            model.load_adapter(str(folder / GENERATOR), adapter_name=GENERATOR, **options)
    return model.eval()


@contextmanager
def _switched(model: Any, name: str | None) -> Iterator[Any]:
    """Yield the model below peft's wrapper with the adapter `name` on alone, or none.

    A layer that is off calls the backbone's and nothing else.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers: list[Any] = [layer for layer in base.modules() if isinstance(layer, BaseTunerLayer)]
    before = [(list(layer.active_adapters), not layer.disable_adapters) for layer in layers]
    if all((active if enabled else []) == ([name] if name else []) for active, enabled in before):
        yield base
        return
    # With what is on, peft changes what is trained; here that stays.
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    try:
        _switch(layers, [([name], True) if name else (active, False) for active, _ in before])
        _keep(trained)
        yield base
    finally:
        _switch(layers, before)
        _keep(trained)


def _switch(layers: list[Any], states: list[tuple[list[str], bool]]) -> None:
    for layer, (active, enabled) in zip(layers, states, strict=True):
        layer.set_adapter(active)
        layer.enable_adapters(enabled)


def _keep(trained: list[tuple[Any, bool]]) -> None:
    for parameter, flag in trained:
        parameter.requires_grad_(flag)

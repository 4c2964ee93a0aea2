"""A backbone with adapters (peft): one for pooling, and perhaps one for writing.

The backbone is frozen. EMBEDDING is on while texts are pooled. Rationales are written by the bare backbone, or with a
second adapter GENERATOR.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from grace.config.section import UserError
from grace.encoder.saved import GENERATOR_FOLDER, Adapter, backbone_reference
from grace.jobs.files import read_json, write_json

EMBEDDING, GENERATOR = "embedding", GENERATOR_FOLDER  # names of adapters; peft saves one to a folder of its name
CONFIG = "adapter_config.json"


def separate(model: Any) -> bool:
    """Whether pooling has an adapter of its own."""
    return EMBEDDING in getattr(model, "peft_config", ())


def writing(model: Any) -> AbstractContextManager[Any]:
    """Yield the model that writes: with GENERATOR on if there is one, else the bare backbone.

    An ordinary model is yielded as it is. Afterwards the adapters are as before, and which parameters are trained does
    not change. Contexts nest. A backward pass that computes activations again (gradient checkpointing) has to run
    inside the context of its forward pass.
    """
    return _switched(model, GENERATOR if GENERATOR in getattr(model, "peft_config", ()) else None)


def embedding(model: Any) -> AbstractContextManager[Any]:
    """Yield the model that pools, with EMBEDDING alone on; otherwise as `writing`."""
    return _switched(model, EMBEDDING)


@contextmanager
def _switched(model: Any, name: str | None) -> Iterator[Any]:
    """Yield the model below peft's wrapper with the adapter `name` alone on, or none."""
    if not separate(model):
        yield model
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers: list[Any] = [layer for layer in base.modules() if isinstance(layer, BaseTunerLayer)]
    before = [(list(layer.active_adapters), not layer.disable_adapters) for layer in layers]
    if all((active if enabled else []) == ([name] if name else []) for active, enabled in before):
        yield base
        return
    # peft would train what is on, and freeze the rest.
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]

    def switch(states: list[tuple[list[str], bool]]) -> None:
        for layer, (active, enabled) in zip(layers, states, strict=True):
            layer.set_adapter(active)
            layer.enable_adapters(enabled)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)

    try:
        switch([([name], True) if name else (active, False) for active, _ in before])
        yield base
    finally:
        switch(before)


def write_model(folder: Path, model: Any, tokenizer: Any, **options: Any) -> dict[str, Adapter]:
    """Write any model and its tokenizer to an existing folder, an ordinary one with `options` of transformers.

    Adapters are written without their backbone, as peft does: EMBEDDING in the folder, GENERATOR in `generator`.

    Returns:
        What grace.json has to say besides settings: `adapter`, or nothing.

    Raises:
        UserError: when the backbone of an adapter was not loaded from a folder or the hub.
    """
    tokenizer.save_pretrained(folder)
    if not separate(model):
        model.save_pretrained(folder, **options)
        return {}
    has_card = (folder / "README.md").exists()
    names = [name for name in (EMBEDDING, GENERATOR) if name in model.peft_config]
    # A table that is adapted is frozen itself; peft would save it too.
    model.save_pretrained(str(folder), selected_adapters=names, save_embedding_layers=False)
    for path in (folder / EMBEDDING).iterdir():
        os.replace(path, folder / path.name)
    (folder / EMBEDDING).rmdir()
    if not has_card:  # peft's is empty
        (folder / "README.md").unlink(missing_ok=True)
    reference = backbone_reference(folder, model.get_base_model().name_or_path)
    for file in (folder / CONFIG, folder / GENERATOR / CONFIG):
        if file.exists():  # the same bytes wherever and whenever it is trained
            known = read_json(file)
            targets = known["target_modules"]
            known["target_modules"] = sorted(targets) if isinstance(targets, list) else targets
            write_json(file, known | {"base_model_name_or_path": reference.base})
    return {"adapter": reference}


def attach(backbone: Any, folder: Path) -> Any:
    """`backbone` with the adapters of `folder`, EMBEDDING on, none trained. Raises: UserError without peft."""
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

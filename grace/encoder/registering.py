"""Tells Sentence Transformers about `sentence.RationaleModule`, without importing either until they are needed.

Sentence Transformers loads a class that a model's folder names only when it is its own, when `trust_remote_code=True`
says so, or when it was handed the class. The last is done here, for this one name, so that whoever imports `grace` need
not trust whatever else a folder names. The attribute that takes the class is an internal one of Sentence Transformers
6; where it is missing, the folder still loads with `trust_remote_code=True`, which Sentence Transformers then asks for.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

BASE = "sentence_transformers.base.model"
# As a model's modules.json names it.
MODULE = "grace.encoder.sentence.RationaleModule"


class Classes(Mapping[str, type]):
    """MODULE -> its class, which is imported when it is asked for; and classes that others have handed over."""

    def __init__(self, others: Mapping[str, type]) -> None:
        self.others = others

    def __getitem__(self, name: str) -> type:
        if name != MODULE:
            return self.others[name]
        module, _, kind = name.rpartition(".")
        return getattr(importlib.import_module(module), kind)

    def __iter__(self) -> Iterator[str]:
        return iter([MODULE, *self.others])

    def __len__(self) -> int:
        return 1 + len(self.others)


class Finder:
    """In `sys.meta_path` until BASE is imported, which `hand_over` then follows; finds nothing itself."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != BASE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_hand_over(module: Any) -> None:
            run(module)
            hand_over(module)

        spec.loader.exec_module = run_and_hand_over  # type: ignore[method-assign]
        return spec


def hand_over(module: Any) -> None:
    """Give the class to BASE, which is imported."""
    model = getattr(module, "BaseModel", None)
    known = getattr(model, "_module_classes", None)
    if model is not None and known is not None and MODULE not in known:
        model._module_classes = Classes(known)


def register() -> None:
    """Now if BASE is imported already, else as soon as it is."""
    if BASE in sys.modules:
        hand_over(sys.modules[BASE])
    elif not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())

"""Tells Sentence Transformers about `sentence.RationaleModule`, without importing either until they are needed.

Sentence Transformers loads a class that a model's folder names only if it is its own, if `trust_remote_code=True` is
given, or if it was handed the class. `import grace` hands over this one class, so that users need not trust whatever
else a folder names. The attribute that takes it is internal to Sentence Transformers 6; where it is missing, the folder
loads with `trust_remote_code=True`, which Sentence Transformers then asks for.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

BASE = "sentence_transformers.base.model"
MODULE = "grace.encoder.sentence.RationaleModule"  # as a model's modules.json names it


class Classes(Mapping[str, type]):
    """MODULE -> its class, imported when it is asked for; and classes that others have handed over."""

    def __init__(self, others: Mapping[str, type]) -> None:
        self.others = others

    def __getitem__(self, name: str) -> type:
        if name != MODULE:
            return self.others[name]
        from grace.encoder.sentence import RationaleModule

        return RationaleModule

    def __iter__(self) -> Iterator[str]:
        return iter([MODULE, *self.others])

    def __len__(self) -> int:
        return 1 + len(self.others)


class Finder:
    """In `sys.meta_path` until BASE is imported, to call `hand_over` then; finds nothing itself."""

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

"""The class is handed over whether Sentence Transformers was imported before or is imported later."""

import importlib
import sys

import pytest

from grace.encoder import registering
from grace.encoder.registering import MODULE, Classes, Finder, register


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A module in the place of Sentence Transformers' own."""
    (tmp_path / "stands_in.py").write_text("class BaseModel:\n    _module_classes = {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registering, "BASE", "stands_in")
    monkeypatch.setattr(sys, "meta_path", [found for found in sys.meta_path if not isinstance(found, Finder)])
    yield "stands_in"
    sys.modules.pop("stands_in", None)


@pytest.mark.parametrize("before", [True, False])
def test_either_may_be_imported_first(base, before):
    if before:
        importlib.import_module(base)
    register()
    register()
    module = importlib.import_module(base)
    assert list(module.BaseModel._module_classes) == [MODULE]
    assert not any(isinstance(found, Finder) for found in sys.meta_path)


def test_another_import_changes_nothing(base):
    register()
    importlib.reload(importlib.import_module("colorsys"))
    assert sum(isinstance(found, Finder) for found in sys.meta_path) == 1


def test_one_class_and_no_other():
    classes = Classes({"their.Module": int})
    assert classes[MODULE].__name__ == "RationaleModule" and classes["their.Module"] is int
    assert classes.get("grace.encoder.sentence.Other") is None and len(classes) == len([*classes]) == 2


def test_a_sentence_transformers_without_the_attribute_is_left_alone(base):
    module = importlib.import_module(base)
    del module.BaseModel._module_classes
    register()
    assert not hasattr(module.BaseModel, "_module_classes")

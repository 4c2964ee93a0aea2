"""The configuration reference and its schema are those of the code, and say what holds."""

import json
import re

import jsonschema
import pytest
import yaml

from grace.report import reference
from tests.config.test_studies import CONFIG, ROOT

DOCS = ROOT / "docs"


def test_the_committed_files_are_what_is_made(tmp_path):
    reference.main([str(tmp_path)])
    for name in ("configuration.md", reference.SCHEMA):
        assert (DOCS / name).read_text() == (tmp_path / name).read_text(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(reference.sections()))
def test_every_setting_has_a_meaning(name):
    fields = set(reference.sections()[name].model_fields)
    assert fields == set(reference.meanings(reference.sections()[name]))


def test_the_schema_takes_what_is_configured_and_nothing_else():
    validate = jsonschema.Draft202012Validator(json.loads((DOCS / reference.SCHEMA).read_text())).validate
    validate(yaml.safe_load((ROOT / "config.yaml").read_text()))
    validate({key: CONFIG[key] for key in ("available_backbones", "available_encoders", "sources", "presets")})
    for name, study in CONFIG["studies"].items():
        validate({"studies": {name: {key: v for key, v in study.items() if key not in ("ablations", "tables")}}})
    for wrong in (
        {"grce": 1},
        {"defaults": {"grace": {"rolouts": 8}}},
        {"defaults": {"grace": {"rollouts": 1}}},
        {"studies": {"mine": {"pooling": {"method": "sum"}}}},
        {"sources": {"mine": {"kind": "web"}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(wrong)


def test_defaults_and_their_sources():
    page = (DOCS / "configuration.md").read_text()
    row = re.search(r"^\| `rollouts` \|(.*)\|$", page, re.MULTILINE)
    assert row and "whole number, from 2" in row[1] and "`8` K, paper, code" in row[1]
    assert "| `learning_rate` | number, over 0 to 1 | `1e-06` paper A.2.5, code: constant, no warm-up |" in page


def test_kinds_in_words():
    several = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert reference.kind_of(several) == "whole number, from 1 or null"
    assert reference.kind_of({"type": "array", "items": {"enum": ["a", "b"]}}) == "list of `a` or `b`"

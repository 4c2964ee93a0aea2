"""Every setting with its range, default, source and meaning: docs/configuration.md, and a JSON schema for editors.

    python -m grace.report.reference docs          writes both; `make docs` calls it

Types, ranges and meanings come from the sections of `grace.config.schema`; defaults and their sources from
studies/defaults.yaml and its comments.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from grace.config import schema as config
from grace.config.section import LARGEST, LEAST, MOST, Section
from grace.config.studies import STUDIES
from grace.jobs.files import write_json, writing
from grace.report.markup import templates

SCHEMA = "config.schema.json"
# Mappings of a user's names to sections, which have no default of their own.
NAMED = ("runs", "tables", "figures", "ablations", "resources")
OWN = {"available_backbones": config.Backbone, "available_encoders": config.Encoder, "sources": config.Source}


def _several(kind: str) -> dict[str, Any]:
    """One or a list of them, or null."""
    return {"anyOf": [{"type": "array", "items": {"type": kind}}, {"type": kind}, {"type": "null"}]}


FLAG = {"type": "boolean"}
TOP: dict[str, tuple[dict[str, Any], str]] = {
    "study": ({"type": "string"}, "A file of studies/, or an entry of `studies`."),
    "preset": ({"type": "string"}, "Whom to follow where paper and released code differ: studies/presets.yaml."),
    "seeds": (_several("integer"), "Null: the study's own."),
    "backbones": (_several("string"), "Narrow the study to these. Null: the study's own."),
    "ablations": (FLAG, "Make the tables and figures that need ablations too."),
    "tradeoff": (FLAG, "Make those of embeddings and generation at once too."),
    "partial": (FLAG, "Make tables, figures and report from the results that are there."),
}


def meanings(kind: type[Section]) -> dict[str, str]:
    """Field -> the string below it in the source."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def sections() -> dict[str, type[Section]]:
    """Name of a class -> the section, of all that configure something."""
    every = vars(config).values()
    return {one.__name__: one for one in every if isinstance(one, type) and issubclass(one, Section) and one != Section}


def schema() -> dict[str, Any]:
    """Of config.yaml. Nothing is required, since it goes on top of the studies; null drops an entry."""
    definitions: dict[str, Any] = {}
    for name, kind in sections().items():
        made = kind.model_json_schema(ref_template="#/$defs/{model}")
        for key in ("$defs", "required"):
            made.pop(key, None)
        made["description"] = " ".join((kind.__doc__ or "").split())
        for field, meaning in meanings(kind).items():
            made["properties"][field].pop("default", None)
            made["properties"][field]["description"] = meaning
        definitions[name] = made
    definitions["Run"]["properties"]["like"] = {"type": "string", "description": "As this run, but for what is given."}
    for field in NAMED:
        entry = definitions["Study"]["properties"][field]
        if "patternProperties" in entry:
            ((pattern, values),) = entry["patternProperties"].items()
            entry["patternProperties"] = {pattern: {"anyOf": [values, {"type": "null"}]}}

    def mapping(name: str) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}}

    top: dict[str, Any] = {key: {**kind, "description": meaning} for key, (kind, meaning) in TOP.items()}
    top |= {key: mapping(kind.__name__) for key, kind in OWN.items()}
    top |= {"defaults": {"$ref": "#/$defs/Study"}, "studies": mapping("Study"), "presets": mapping("Study")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": top,
        "$defs": definitions,
    }


def kind_of(entry: Any) -> str:
    """A JSON schema in words: `whole number, from 1`, `mean, max or eos`, `list of text`."""
    if not isinstance(entry, dict):  # true: whatever
        return "any"
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(kind_of(one) for one in entry["anyOf"]))
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return f"keys of [{name}](#{name.lower()})"
    if "const" in entry or "enum" in entry:
        *most, last = [f"`{value}`" for value in entry.get("enum", [entry.get("const")])]
        return f"{', '.join(most)} or {last}" if most else last
    kind = entry.get("type")
    if kind == "array":
        return f"list of {kind_of(entry.get('items', {}))}"
    if kind == "object":
        values = [*entry.get("patternProperties", {}).values(), entry.get("additionalProperties") or {}]
        return f"name -> {kind_of(values[0])}"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "null": "null", None: "any"}
    bounds = {"minimum": "from", "exclusiveMinimum": "over", "maximum": "to", "exclusiveMaximum": "below"}
    given = {word: entry[key] for key, word in bounds.items() if key in entry}
    ends = [f"{word} {bound:g}" for word, bound in given.items() if abs(bound) not in (LARGEST, MOST)]
    ends = ["over 0" if end == f"from {LEAST:g}" else end for end in ends]
    return ", ".join([words.get(kind, str(kind)), *([" ".join(ends)] if ends else [])])


def sources(text: str) -> dict[str, str]:
    """`section.key` -> the comment behind it, of studies/defaults.yaml."""
    found, section = {}, ""
    for line in text.split("\n"):
        if top := re.match(r"([a-z_]+):", line):
            section = top[1]
        if comment := re.match(r"  ([a-z_0-9]+): .*?\s{2,}# (.*)$", line):
            found[f"{section}.{comment[1]}"] = comment[2]
    return found


def page() -> str:
    """docs/configuration.md."""
    text = (STUDIES / "defaults.yaml").read_text(encoding="utf-8")
    defaults, comments, made = yaml.safe_load(text), sources(text), schema()["$defs"]

    def rows(properties: dict[str, Any], values: dict[str, Any], section: str) -> list[list[str]]:
        """Key, value, default and meaning of each setting of a section."""
        found = []
        for key, entry in properties.items():
            value = values.get(key, "")
            shown = "" if value == "" or isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"
            default = f"{shown if len(shown) < 40 else ''} {comments.get(f'{section}.{key}', '')}".strip()
            kind = kind_of({k: v for k, v in entry.items() if k != "description"})
            cells = [f"`{key}`", kind, default, entry.get("description", "")]
            found.append([cell.replace("|", "\\|") for cell in cells])
        return found

    study = made["Study"]["properties"]
    named = {key: made[_section(entry)] for key, entry in study.items() if _section(entry) and key not in NAMED}
    return (
        templates()
        .get_template("configuration.md.jinja")
        .render(
            schema=SCHEMA,
            top=[[f"`{key}`", kind_of(kind), "", meaning] for key, (kind, meaning) in TOP.items()],
            sections={
                key: (one["description"], rows(one["properties"], defaults.get(key) or {}, key))
                for key, one in named.items()
            },
            study=rows({key: entry for key, entry in study.items() if key not in named}, defaults, ""),
            parts={name: (one["description"], rows(one["properties"], {}, "-")) for name, one in made.items()},
        )
    )


def _section(entry: dict[str, Any]) -> str:
    """The section that a setting consists of, empty for any other."""
    return str(entry.get("$ref", "")).rpartition("/")[2]


def main(argv: list[str] | None = None) -> None:
    (folder,) = sys.argv[1:] if argv is None else argv
    write_json(Path(folder) / SCHEMA, schema())
    with writing(Path(folder) / "configuration.md") as temporary:
        temporary.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

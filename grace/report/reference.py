"""Every setting with its range, default, source and meaning: docs/configuration.md, and a JSON schema for editors.

    python -m grace.report.reference docs          writes both; `make docs` calls it

Types, ranges and meanings come from the sections of `grace.config`, `grace.settings` and `grace.exhibits`; defaults and
their sources from studies/defaults.yaml and its comments.
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

from grace import config, exhibits, settings
from grace.files import write_json, writing
from grace.merging import STUDIES
from grace.section import LARGEST, LEAST, MOST, Section

SCHEMA = "config.schema.json"
# Mappings of a user's names to sections, which have no default of their own.
NAMED = {"runs": "Run", "tables": "Table", "figures": "Figure", "ablations": "Ablation", "resources": "Resources"}
OWN = {"available_backbones": config.Backbone, "available_encoders": config.Encoder, "sources": config.Source}
TOP: dict[str, tuple[dict[str, Any], str]] = {
    "study": ({"type": "string"}, "A file of studies/, or an entry of `studies`."),
    "preset": ({"type": "string"}, "Whom to follow where paper and released code differ: studies/presets.yaml."),
    "seeds": ({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "integer"}, {"type": "null"}]},
              "Null: the study's own."),
    "backbones": ({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}]},
                  "Narrow the study to these. Null: the study's own."),
    "ablations": ({"type": "boolean"}, "Make the tables and figures that need ablations too."),
    "tradeoff": ({"type": "boolean"}, "Make those of embeddings and generation at once too."),
    "partial": ({"type": "boolean"}, "Make tables, figures and report from the results that are there."),
}  # fmt: skip


def meanings(kind: type[Section]) -> dict[str, str]:
    """Field -> the string that stands below it in the source."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def sections() -> dict[str, type[Section]]:
    """Name of a class -> the section, of all that configure something."""
    every = [one for module in (settings, exhibits, config) for one in vars(module).values()]
    return {one.__name__: one for one in every if isinstance(one, type) and issubclass(one, Section) and one != Section}


# ---- the JSON schema ------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """Of config.yaml. Nothing is required, since what stands there goes on top of the studies; null drops an entry."""
    definitions: dict[str, Any] = {}
    for name, kind in sections().items():
        made = kind.model_json_schema(ref_template="#/$defs/{model}")
        made.pop("$defs", None)
        definitions[name] = made
    for name, made in definitions.items():
        made.pop("required", None)
        made["description"] = " ".join((sections()[name].__doc__ or "").split())
        for field, meaning in meanings(sections()[name]).items():
            entry = made["properties"][field]
            entry.pop("default", None)
            made["properties"][field] = {**entry, "description": meaning}
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


INTRODUCTION = f"""\
# Configuration

<!-- made by `make docs` from the sections in grace/ and from studies/defaults.yaml -->

A study is `studies/defaults.yaml` and `exhibits.yaml`, changed by the preset (`presets.yaml`), then by
`studies/<study>.yaml` and the studies that it extends, then by config.yaml, `--configfile` and `--config`. `null` drops
a run, a table or an ablation. A run changes settings for itself alone (`settings:`). Defaults are those of
`studies/defaults.yaml`, with what it says of their source: the paper, or its released code.

For completion and checks in an editor: `# yaml-language-server: $schema=docs/{SCHEMA}`.

## config.yaml
"""
# Sections of which there are several, or that lie within others.
PARTS = (
    "Run", "Ablation", "Table", "Figure", "Effect", "Lora", "Fence", "Mining", "Resources", "Backbone", "Encoder",
    "Source",
)  # fmt: skip


# ---- the page -------------------------------------------------------------------------------------------------------


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
    ends = [
        f"{word} {entry[key]:g}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "over"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in entry and abs(entry[key]) not in (LARGEST, MOST)
    ]
    ends = ["over 0" if end == f"from {LEAST:g}" else end for end in ends]
    return ", ".join([words.get(kind, str(kind)), *([" ".join(ends)] if ends else [])])


def sources(text: str) -> dict[str, str]:
    """`section.key` -> the comment behind it, of studies/defaults.yaml."""
    found, section = {}, ""
    for line in text.split("\n"):
        if top := re.match(r"([a-z_]+):", line):
            section = top[1]
        if said := re.match(r"  ([a-z_0-9]+): .*?\s{2,}# (.*)$", line):
            found[f"{section}.{said[1]}"] = said[2]
    return found


def page() -> str:
    """docs/configuration.md."""
    text = (STUDIES / "defaults.yaml").read_text(encoding="utf-8")
    defaults, said, made = yaml.safe_load(text), sources(text), schema()["$defs"]
    top = [(key, kind_of(kind), "", meaning) for key, (kind, meaning) in TOP.items()]
    lines = [INTRODUCTION, *_table(top)]
    lines += [
        "",
        "`available_backbones`, `available_encoders`, `sources`: name -> keys of Backbone, Encoder, Source below.",
    ]
    for field, entry in made["Study"]["properties"].items():
        name = _named(entry)
        if name and field not in NAMED:
            lines += ["", f"## {field}", "", made[name]["description"], ""]
            lines += _table(_rows(made[name], defaults.get(field) or {}, field, said))
    lines += ["", "## Study", "", "The other keys of a study.", ""]
    plain = {k: v for k, v in made["Study"]["properties"].items() if not _named(v) or k in NAMED}
    lines += _table(_rows({"properties": plain}, defaults, "", said))
    for name in PARTS:
        lines += ["", f"## {name}", "", made[name]["description"], "", *_table(_rows(made[name], {}, "", {}))]
    return "\n".join(lines) + "\n"


Row = tuple[str, str, str, str]  # key, value, default, meaning


def _named(entry: dict[str, Any]) -> str:
    return str(entry["$ref"]).rpartition("/")[2] if "$ref" in entry else ""


def _rows(section: dict[str, Any], defaults: dict[str, Any], name: str, said: dict[str, str]) -> list[Row]:
    rows = []
    for key, entry in section["properties"].items():
        value = defaults.get(key, "")
        shown = "" if value == "" or isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"
        shown = shown if len(shown) < 40 else ""
        comment = said.get(f"{name}.{key}", "")
        kind = {k: v for k, v in entry.items() if k != "description"}
        rows.append((key, kind_of(kind), f"{shown} {comment}".strip(), entry.get("description", "")))
    return rows


def _table(rows: list[Row]) -> list[str]:
    cells = [[f"`{key}`", kind, default, meaning] for key, kind, default, meaning in rows]
    return [
        "| key | value | default | meaning |",
        "|---|---|---|---|",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells),
    ]


def main(argv: list[str] | None = None) -> None:
    (folder,) = sys.argv[1:] if argv is None else argv
    write_json(Path(folder) / SCHEMA, schema())
    with writing(Path(folder) / "configuration.md") as temporary:
        temporary.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

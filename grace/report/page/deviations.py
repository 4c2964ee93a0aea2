"""Every setting in which a study differs from study `paper`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import grace
from grace.merging import merged_study
from grace.section import UserError

# What a study is called and shown with, and what its jobs may take, change no result.
ELSEWHERE = {"title", "extends", "tables", "figures", "hardware", "resources"}
OVERRIDES = ("seeds", "backbones")
SHOWN = 6  # entries of a list
ABSENT = "—"


class Deviation(NamedTuple):
    """A setting: its key, study `paper`'s value and this study's; ABSENT where one has none."""

    key: str
    paper: str
    here: str

    @property
    def section(self) -> str:
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """Within its section."""
        return self.key.partition(".")[2] or self.key


def settings(config: dict[str, Any], study: str) -> dict[str, Any]:
    """A study's settings with its preset and the command line. Raises: UserError for a study that is not there."""
    merged = merged_study(config, study)
    return {**merged, **{key: config[key] for key in OVERRIDES if config.get(key) is not None}}


def sections(config: dict[str, Any], study: str) -> list[tuple[str, list[Deviation]]]:
    """`deviations` by section, in their order. Raises: as `deviations`."""
    return [(name, list(some)) for name, some in groupby(deviations(config, study), key=lambda one: one.section)]


def deviations(config: dict[str, Any], study: str) -> list[Deviation]:
    """Settings in which a study with its preset and the command line differs from `paper` as printed, by key.

    Raises:
        UserError: when there is no study `paper`, or one extends a study that is not there.
    """
    if "paper" not in config["studies"]:
        raise UserError("config: studies.paper: this key is missing, so there is nothing to set the study beside.")
    printed = {**config, "preset": "as_printed"} if "as_printed" in config["presets"] else config
    here = _flat(settings(config, study))
    paper = _flat(merged_study(printed, "paper"))
    # As text, since the command line passes numbers on as text.
    differ = [key for key in dict.fromkeys([*paper, *here]) if _text(paper, key, None) != _text(here, key, None)]
    return [Deviation(key, _text(paper, key), _text(here, key)) for key in sorted(differ, key=_order(paper))]


def standing() -> str:
    """The choices of docs/method.md that hold in every study, in Markdown; empty where that file is not at hand."""
    path = Path(grace.__file__).parents[1] / "docs" / "method.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.partition("\n## Choices\n")[2].partition("\n## ")[0].strip()


def _order(paper: dict[str, Any]) -> Any:
    """Sections as the configuration has them, keys that only the study has behind those of their section."""
    sections = list(dict.fromkeys(["backbones", *(key.split(".")[0] for key in paper)]))
    keys = list(paper)

    def place(key: str) -> tuple[int, int, str]:
        section = key.split(".")[0]
        return (
            sections.index(section) if section in sections else len(sections),
            keys.index(key) if key in paper else len(keys),
            key,
        )

    return place


def _flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as section.key -> value; groups of tasks as one list, since how they are cut is no setting."""
    out: dict[str, Any] = {}
    for key, entry in value.items():
        name = f"{above}{key}"
        if name == "evaluation.groups":
            out["evaluation.tasks"] = sorted(task for group in entry.values() for task in group)
        elif name in ELSEWHERE or name == "evaluation.subset":
            continue
        elif isinstance(entry, dict) and entry:
            out |= _flat(entry, f"{name}.")
        else:
            out[name] = entry
    return out


def _text(settings: dict[str, Any], key: str, shown: int | None = SHOWN) -> str:
    if key not in settings:
        return ABSENT
    value = settings[key]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        more = f" and {len(value) - shown} more" if shown and len(value) > shown else ""
        return ", ".join(map(str, value[:shown])) + more if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Every setting in which a study differs from study `paper`."""

from __future__ import annotations

from typing import Any, NamedTuple

from grace.config.section import UserError
from grace.config.studies import merged_study

# What a study is called and shown with, and what its jobs may take, change no result.
ELSEWHERE = {"title", "extends", "tables", "figures", "hardware", "resources"}
OVERRIDES = ("seeds", "backbones")
SHOWN = 6  # entries of a list
ABSENT = "—"


class Deviation(NamedTuple):
    """A setting: section, key, study `paper`'s value and this study's; ABSENT where one has none."""

    section: str
    key: str
    paper: str
    here: str

    @property
    def name(self) -> str:
        """The key within its section."""
        return self.key.removeprefix(f"{self.section}.")


def settings(config: dict[str, Any], study: str) -> dict[str, Any]:
    """A study's settings with its preset and the command line. Raises: UserError for a study that is not there."""
    merged = merged_study(config, study)
    return {**merged, **{key: config[key] for key in OVERRIDES if config.get(key) is not None}}


def deviations(config: dict[str, Any], study: str) -> list[Deviation]:
    """Settings in which a study with its preset and the command line differs from `paper` as printed.

    They come in the order of the configuration, those that only the study has behind the others of their section.

    Raises:
        UserError: when there is no study `paper`, or one extends a study that is not there.
    """
    if "paper" not in config["studies"]:
        raise UserError("config: studies.paper: this key is missing, so there is nothing to set the study beside.")
    printed = {**config, "preset": "as_printed"} if "as_printed" in config["presets"] else config
    here, paper = _flat(settings(config, study)), _flat(merged_study(printed, "paper"))
    keys = list(dict.fromkeys([*paper, *sorted(here)]))
    sections = list(dict.fromkeys(["backbones", *map(_section, keys)]))
    keys.sort(key=lambda key: sections.index(_section(key)))
    return [
        Deviation(_section(key), key, _text(paper, key), _text(here, key))
        for key in keys
        if _text(paper, key, None) != _text(here, key, None)  # as text, since the command line has no numbers
    ]


def _section(key: str) -> str:
    return key.partition(".")[0]


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
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        more = f" and {len(value) - shown} more" if shown and len(value) > shown else ""
        return ", ".join(map(str, value[:shown])) + more
    return f"{value:g}" if isinstance(value, float) else str(value)

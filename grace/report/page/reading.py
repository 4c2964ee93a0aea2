"""A study's folder as the page reads it: whatever is missing or broken there is said, and never ends the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from grace.report.scoring.results import AGAIN

Record = dict[str, Any]


class Folder:
    """A study's folder. `problems`: sentences about what could not be read, in the order it was tried.

    Args:
        page: path of the page, in the study's folder.
    """

    def __init__(self, page: Path) -> None:
        self.root = page.parent
        self.problems: list[str] = []

    def name(self, path: Path) -> str:
        """A path as the page names it: below the study's folder."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def link(self, path: Path) -> str:
        """The address of a file relative to the page."""
        return quote(self.name(path))

    def record(self, path: Path, *need: str) -> Record | None:
        """A JSON object with these keys, or None and a problem."""
        text = self.text(path)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            self.say(path, "is not whole (broken JSON)")
            return None
        lacking = [key for key in need if not isinstance(value, dict) or key not in value]
        if lacking or not isinstance(value, dict):
            self.say(path, f"lacks {', '.join(lacking)}" if lacking else "is no record of this workflow")
            return None
        return value

    def text(self, path: Path) -> str | None:
        """A text file, or None and a problem."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.say(path, "is not there" if isinstance(error, FileNotFoundError) else "cannot be read")
            return None

    def say(self, path: Path, what: str) -> None:
        """Add a problem: a path, and what is wrong with it."""
        self.problems.append(f"{path} {what}: {AGAIN}.")

    def manifests(self, *patterns: str) -> Iterator[tuple[Path, Record]]:
        """The manifests of models and of results under these patterns, unreadable files left out with a problem."""
        for path in sorted({path for pattern in patterns for path in self.root.glob(pattern)}):
            value = self.record(path)
            if value is None:
                continue
            made = value if path.name == "manifest.json" else value.get("manifest")
            if isinstance(made, dict):
                yield path, made
            else:
                self.say(path, "has no manifest")


def said(record: Record, key: str) -> list[str]:
    """A list of sentences in a record; each may also be an object with `text`."""
    found = record.get(key)
    entries: Iterable[Any] = found if isinstance(found, list) else []
    return [str(one.get("text", one)) if isinstance(one, dict) else str(one) for one in entries]


def objects(record: Record, key: str, *need: str) -> list[Record]:
    """The objects of a list in a record that have these keys."""
    found = record.get(key)
    entries = found if isinstance(found, list) else []
    return [one for one in entries if isinstance(one, dict) and all(name in one for name in need)]


class Problem(NamedTuple):
    """What is wrong, with the paths that it is said of; without paths it is the whole sentence."""

    text: str
    paths: list[str]


def unsaid(sentences: Iterable[str], others: Iterable[str]) -> list[str]:
    """The sentences whose path, which they begin with, no other begins with."""
    told = {one.split(" ")[0].rstrip(":") for one in others}
    return [one for one in sentences if one.split(" ")[0] not in told]


def together(sentences: Iterable[str]) -> list[Problem]:
    """Sentences that begin with a path, those that say the same of several paths as one."""
    found: dict[str, list[str]] = {}
    for one in dict.fromkeys(sentences):
        path, _, rest = one.partition(" ")
        known = "/" in path and rest
        found.setdefault(rest if known else one, []).extend([path] if known else [])
    return [
        Problem(text, paths) if len(paths) != 1 else Problem(f"{paths[0]} {text}", []) for text, paths in found.items()
    ]


def number(value: Any) -> float | None:
    """A number, or None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

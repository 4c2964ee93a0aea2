"""A study's folder as the page reads it: what is missing or broken there is named, and never ends the page.

Texts may come from a model or a data set, with HTML, chat markers and links: they are shown as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markdown_it import MarkdownIt
from markupsafe import Markup

from grace.report.scoring.results import AGAIN

Record = dict[str, Any]
# Images, links and raw HTML stay text: none of ours has any.
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
MARKDOWN.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
MARKDOWN.add_render_rule("table_close", lambda *_: "</table>\n</div>")


def markdown(text: str) -> Markup:
    """Markdown as HTML that runs nothing and loads nothing."""
    return Markup(MARKDOWN.render(text))


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

    def problem(self, path: Path, what: str) -> None:
        self.problems.append(f"{path} {what}: {AGAIN}.")

    def text(self, path: Path) -> str | None:
        """A text file, or None and a problem."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problem(path, "is not there" if isinstance(error, FileNotFoundError) else "cannot be read")
            return None

    def record(self, path: Path, *need: str) -> Record | None:
        """A JSON object with these keys, or None and a problem."""
        text = self.text(path)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            self.problem(path, "is not whole (broken JSON)")
            return None
        lacking = [key for key in need if not isinstance(value, dict) or key not in value]
        if lacking or not isinstance(value, dict):
            self.problem(path, f"lacks {', '.join(lacking)}" if lacking else "is no record of this workflow")
            return None
        return value

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
                self.problem(path, "has no manifest")


def sentences(record: Record, key: str) -> list[str]:
    """A list of sentences in a record; each may also be an object with `text`."""
    found = record.get(key)
    entries: list[Any] = found if isinstance(found, list) else []
    return [str(one.get("text", one)) if isinstance(one, dict) else str(one) for one in entries]


def objects(record: Record, key: str, *need: str) -> list[Record]:
    """The objects of a list in a record that have these keys."""
    found = record.get(key)
    entries = found if isinstance(found, list) else []
    return [one for one in entries if isinstance(one, dict) and all(name in one for name in need)]


def part(record: Record, key: str) -> Record:
    """An object in a record, empty where there is none."""
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """A number, also one that is text; None for anything else, such as the `NA` or `-` of Snakemake's benchmarks."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def problems(own: Iterable[str], recorded: list[str]) -> list[tuple[str, list[str]]]:
    """What is wrong, with the paths that it is true of; without paths it is the whole sentence.

    Args:
        own: sentences that begin with a path; left out where a recorded one begins with the same path.
        recorded: sentences, of which those that say the same of several paths become one.
    """
    told = {one.split(" ")[0].rstrip(":") for one in recorded}
    found: dict[str, list[str]] = {}
    for one in dict.fromkeys([*(one for one in own if one.split(" ")[0] not in told), *recorded]):
        path, _, rest = one.partition(" ")
        if "/" in path and rest:
            found.setdefault(rest, []).append(path)
        else:
            found.setdefault(one, [])
    return [(f"{paths[0]} {text}", []) if len(paths) == 1 else (text, paths) for text, paths in found.items()]

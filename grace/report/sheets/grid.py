"""What a table shows, before it is Markdown, HTML or LaTeX: pieces of text with a style, in cells, in grids."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from markdown_it import MarkdownIt

MISSING = "—"
LIMIT = 600  # characters of running text, where it is cut
PRINTED = "paper"  # before the numbers that it prints
LETTERS = "abcdefghijklmnoprstuvwxyz"  # without q, which has no raised form in Unicode
Style = Literal["", "bold", "italic", "code", "sign", "prose"]


class Piece(NamedTuple):
    """Plain text, escaped by whoever renders it. sign: letters that lead to a note. prose: of data or a model."""

    text: str
    style: Style = ""


Line = list[Piece]


@dataclass
class Shown:
    """A cell: the number or text, its interval, and what the paper prints there."""

    main: Line
    interval: Line = field(default_factory=list)
    printed: Line = field(default_factory=list)


@dataclass
class Grid:
    """A table. names: its first columns, of text; prose: whether the last column is running text."""

    head: list[str]
    rows: list[list[Shown]]
    names: int = 2
    prose: bool = False
    heading: str = ""
    before: list[Line] = field(default_factory=list)
    notes: list[tuple[str, Line]] = field(default_factory=list)  # letter of a sign, or empty; text


@dataclass
class Sheet:
    """A table of the study with all that is said about it. line: which runs and how many seeds."""

    name: str
    title: str
    caption: Line
    line: str
    warnings: list[Line]
    grids: list[Grid]

    def as_json(self) -> dict[str, Any]:
        """As it stands in the record of the table; half a character, which JSON does not have, is an escape there."""

        def whole(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: whole(one) for key, one in value.items()}
            if isinstance(value, list | tuple):
                return [whole(one) for one in value]
            return visible(value) if isinstance(value, str) else value

        return {key: whole(value) for key, value in asdict(self).items()}

    @staticmethod
    def of_json(value: Any) -> Sheet:
        """Of what `as_json` gave. Raises: KeyError, TypeError or ValueError for anything else."""

        def line(pieces: Any) -> Line:
            return [Piece(str(text), style) for text, style in pieces]

        def cell(one: Any) -> Shown:
            return Shown(line(one["main"]), line(one["interval"]), line(one["printed"]))

        grids = [
            Grid(
                head=[str(name) for name in one["head"]],
                rows=[[cell(each) for each in row] for row in one["rows"]],
                names=int(one["names"]), prose=bool(one["prose"]), heading=str(one["heading"]),
                before=[line(each) for each in one["before"]],
                notes=[(str(sign), line(each)) for sign, each in one["notes"]],
            )
            for one in value["grids"]
        ]  # fmt: skip
        warnings = [line(one) for one in value["warnings"]]
        name, title = str(value["name"]), str(value["title"])
        return Sheet(name, title, line(value["caption"]), str(value["line"]), warnings, grids)


def text(value: str, style: Style = "") -> Shown:
    return Shown([Piece(value, style)])


def marked(source: str) -> Line:
    """Pieces of a sentence with Markdown's `code`, *emphasis* and **strong**."""
    pieces: Line = []
    style: Style = ""
    inline = MarkdownIt("commonmark").parseInline(source)[0]
    for token in inline.children or []:
        if token.type in ("em_open", "strong_open"):
            style = "italic" if token.type == "em_open" else "bold"
        elif token.type in ("em_close", "strong_close"):
            style = ""
        elif token.type == "code_inline":
            pieces.append(Piece(token.content, "code"))
        elif found := " " if token.type.endswith("break") else token.content:
            pieces.append(Piece(found, style))
    return pieces


def visible(value: str) -> str:
    """Text with each character that is not seen, but the newline, as an escape such as \\x07."""
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_escape(one) if one != "\n" and unicodedata.category(one)[0] == "C" else one for one in value)


def _escape(character: str) -> str:
    return "\\t" if character == "\t" else character.encode("unicode_escape", "surrogatepass").decode("ascii")


def cut(value: str, limit: int = LIMIT) -> str:
    """Text of at most `limit` characters, with a mark where more was cut off."""
    return value if len(value) <= limit else value[:limit].rstrip() + "…"

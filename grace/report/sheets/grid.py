"""What a table shows, before it is Markdown, HTML or LaTeX: pieces of text with a style, in cells, in grids."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from pydantic import TypeAdapter

from grace.config import specs
from grace.paper import numbers
from grace.report.scoring.results import HARMLESS, Problem

MISSING = "—"
LIMIT = 600  # characters of running text, where it is cut
PRINTED = "paper"  # before the numbers that it prints
LETTERS = "abcdefghijklmnoprstuvwxyz"  # without q, which has no raised form in Unicode
LETTERED = 2  # files with one kind of problem that get a letter each; where there are more, they share one
LISTED = 5  # of the tasks or files that share a note
GRACE_3B = "grace-3b"  # as the paper calls a backbone of table 4, without saying which of its two
Style = Literal["", "bold", "italic", "code", "sign", "prose"]
Row = dict[str, Any]


class Piece(NamedTuple):
    """Plain text, escaped by whoever renders it. sign: letters that lead to a note. prose: of data or a model."""

    text: str
    style: Style = ""


Line = list[Piece]


@dataclass
class TableCell:
    """A cell: the number or text, its interval, and what the paper prints there."""

    main: Line
    interval: Line = field(default_factory=list)
    printed: Line = field(default_factory=list)


@dataclass
class Grid:
    """A table. names: its first columns, of text; prose: whether the last column is running text."""

    head: list[str]
    rows: list[list[TableCell]]
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

        return whole(asdict(self))

    @staticmethod
    def of_json(value: Any) -> Sheet:
        """Of what `as_json` gave. Raises: ValueError for anything else."""
        return TypeAdapter(Sheet).validate_python(value)


@dataclass
class Made:
    """A table of the study: its tidy rows under `fields`, what is shown, and what the record says about it."""

    fields: list[str]
    rows: list[Row]
    sheet: Sheet
    runs: list[str]
    seeds: list[int]
    missing: list[str]
    problems: list[Problem]
    statements: list[Row] = field(default_factory=list)


class Footnotes:
    """A letter for each kind of problem and file, or one for a kind of many files."""

    def __init__(self, problems: list[Problem]) -> None:
        files = Counter(kind for kind, _ in {(one.kind, one.path) for one in problems})
        self._shared = {kind for kind, count in files.items() if count > LETTERED}
        self._groups: dict[tuple[str, str], list[Problem]] = {}
        for one in problems:
            self._groups.setdefault(self._key(one), []).append(one)
        self._letters = dict(zip(self._groups, LETTERS, strict=False))  # ten kinds, so there are enough

    def _key(self, problem: Problem) -> tuple[str, str]:
        return problem.kind, "" if problem.kind in self._shared else problem.path

    def of(self, problems: list[Problem]) -> str:
        """The letters of these problems, in their order in the alphabet."""
        return "".join(sorted({self._letters[self._key(one)] for one in problems}))

    def notes(self, more: Iterable[Line] = ()) -> list[tuple[str, Line]]:
        """Letter and sentence of each group, then further notes."""
        found = []
        for key, (first, *others) in self._groups.items():
            names = [one.task if one.task and one.path == first.path else one.path for one in others]
            found.append(
                (
                    self._letters[key],
                    [Piece(f"{first.text} The same holds for {some(names)}." if names else first.text)],
                )
            )
        return [*found, *(("", line) for line in more)]


def some(names: Iterable[str | None]) -> str:
    """The first of some names, each once, and how many more there are."""
    found = list(dict.fromkeys(name for name in names if name))
    return ", ".join(found[:LISTED]) + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")


def notes(of: str, **values: Any) -> list[str]:
    """The paragraphs of a template of grace/report/notes: what a reader must know; only what applies."""
    loader = PackageLoader("grace.report", "notes")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    said = environment.get_template(f"{of}.md.jinja").render(values)
    return [part.strip().replace("\n", " ") for part in said.split("\n\n") if part.strip()]


def text(value: str, style: Style = "") -> TableCell:
    return TableCell([Piece(value, style)])


def measured(
    number: str,
    versus: tuple[float, float] | None,
    deviation: str | None,
    problems: list[Problem],
    footnotes: Footnotes,
    *interval: str,
) -> TableCell:
    """A number with its deviation between seeds and its interval; bold with an arrow where `versus` excludes zero."""
    shown = TableCell([Piece(number)], [Piece(one) for one in interval])
    if versus and (versus[0] > 0 or versus[1] < 0) and all(one.kind in HARMLESS for one in problems):
        shown.main = [Piece(number, "bold"), Piece(" ↑" if versus[0] > 0 else " ↓")]
    if deviation is not None:
        shown.main.append(Piece(f" ± {deviation}"))
    if problems:
        shown.main.append(Piece(footnotes.of(problems), "sign"))
    return shown


def sheet(spec: specs.TablesSpec, line: str, backbones: Iterable[str], grids: list[Grid]) -> Sheet:
    """With a warning where none of its backbones is the paper's."""
    warning = "**None of the paper's backbones: not comparable with the paper's numbers.**"
    warnings = [] if set(backbones) & set(numbers.BACKBONES) else [marked(warning)]
    return Sheet(spec.name, spec.table.title, marked(spec.table.caption), line, warnings, grids)


def about(study: str, backbones: list[str], runs: list[str], seeds: str, without: list[str]) -> str:
    """One sentence: which backbones, runs and seeds, and what has no result."""
    said = f"Study {study}; backbone{'s' * (len(backbones) != 1)} {', '.join(backbones)}"
    said += f"; runs {', '.join(runs)}" if runs else ""
    return said + (f"; {seeds}" if seeds else "") + (f"; no result of {', '.join(without)}." if without else ".")


def counted(seeds: Iterable[int]) -> str:
    every = sorted(set(seeds))
    return f"{len(every)} seed{'s' * (len(every) != 1)} ({', '.join(map(str, every))})"


def label(backbone: str) -> str:
    """A backbone's name in a table: as the paper prints it, where it does."""
    return {"open": "quoted", GRACE_3B: "GRACE-3B"}.get(backbone) or numbers.BACKBONES.get(backbone, backbone)


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

    def escape(one: str) -> str:
        if one == "\n" or unicodedata.category(one)[0] != "C":
            return one
        return "\\t" if one == "\t" else one.encode("unicode_escape", "surrogatepass").decode("ascii")

    return "".join(map(escape, value.replace("\r\n", "\n").replace("\r", "\n")))


def cut(value: str) -> str:
    """Text of at most LIMIT characters, with a mark where more was cut off."""
    return value if len(value) <= LIMIT else value[:LIMIT].rstrip() + "…"

"""The tables of the study as the page shows them: out of their own HTML pages, cell by cell.

Only what is known is taken over. Any other tag is left out and its text stays, so that nothing which a model wrote or a
data set brought along can become a part of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import groupby

from markupsafe import Markup, escape

INLINE = {"strong": "strong", "em": "em", "code": "code", "sup": "sup", "b": "strong", "i": "em"}
BELOW = {"interval", "printed"}  # smaller lines of a cell
VOID = {"br", "meta", "link", "hr", "img", "input", "wbr"}
SILENT = {"script", "style", "head", "title"}
HEADINGS = {"h2", "h3", "h4"}
BACKBONE = "backbone"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass
class Node:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(one if isinstance(one, str) else one.text for one in self.children).strip()

    def all(self, *tags: str) -> Iterator[Node]:
        """The outermost nodes with these tags, in their order."""
        for one in self.children:
            if isinstance(one, Node):
                if one.tag in tags:
                    yield one
                else:
                    yield from one.all(*tags)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self.open) - 1, 0, -1):
            if self.open[place].tag == tag:
                del self.open[place:]
                return

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@dataclass(frozen=True)
class Grid:
    """A table. right, prose: which columns hold numbers, and which running text.

    groups: (backbone, its rows); one without a name where the table has no column of backbones.
    """

    head: list[Markup]
    right: list[bool]
    prose: list[bool]
    groups: list[tuple[str, list[list[Markup]]]]


@dataclass(frozen=True)
class Block:
    """A part of a table's page. kind: grid, notes, heading or text."""

    kind: str
    html: Markup
    grid: Grid | None = None


def blocks(text: str, name: str, without: Iterable[str] = ()) -> list[Block]:
    """The parts of a table's HTML page but its title.

    Args:
        text: the page.
        name: put before the ids of notes.
        without: paragraphs to leave out, as plain text, since the page says them elsewhere.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return list(_blocks(reader.root, name, {_plain(one) for one in without}))


def _blocks(node: Node, name: str, without: set[str]) -> Iterator[Block]:
    for one in node.all("p", "table", "ul", *HEADINGS, *SILENT):
        if one.tag == "table":
            yield Block("grid", Markup(""), _grid(one, name))
        elif one.tag == "ul":
            items = Markup("").join(
                Markup("<li{}>{}</li>").format(_id(item, name), _html(item, name)) for item in one.all("li")
            )
            yield Block("notes", items)
        elif one.tag not in SILENT and _plain(one.text) not in without:
            yield Block("heading" if one.tag in HEADINGS else "text", _html(one, name))


def _plain(text: str) -> str:
    return " ".join(text.split())


def _grid(table: Node, name: str) -> Grid:
    rows = [list(row.all("th", "td")) for row in table.all("tr")]
    head, body = (rows[0], rows[1:]) if rows else ([], [])
    width = len(head)
    body = [row for row in body if len(row) == width]
    right = [not {"name", "prose"} & set(cell.kinds) for cell in head]
    prose = [any("prose" in row[n].kinds for row in body) for n in range(width)]
    titles = [_title(cell, name) for cell in head]
    cells = [[_html(cell, name) for cell in row] for row in body]
    if width < 2 or head[0].text != BACKBONE:
        return Grid(titles, right, prose, [("", cells)])
    named = zip((row[0].text for row in body), cells, strict=True)
    groups = [(text, [row[1:] for _, row in some]) for text, some in groupby(named, key=lambda one: one[0])]
    return Grid(titles[1:], right[1:], prose[1:], groups)


def _title(cell: Node, name: str) -> Markup:
    """A column's name, which may be broken where a new word begins: `PairClassification`."""
    return Markup(CAMEL.sub("<wbr>", _html(cell, name)))


def _html(node: Node, name: str) -> Markup:
    """What is within a node."""
    return Markup("").join(escape(one) if isinstance(one, str) else _element(one, name) for one in node.children)


def _element(node: Node, name: str) -> Markup:
    if node.tag in SILENT:
        return Markup("")
    if node.tag == "br":
        return Markup("<br>")
    inner = _html(node, name)
    if node.tag == "a" and node.attributes.get("href", "").startswith("#"):
        return Markup('<a href="#{}-{}">{}</a>').format(name, node.attributes["href"][1:], inner)
    if found := BELOW & set(node.kinds):
        return Markup('<span class="{}">{}</span>').format(found.pop(), inner)
    if tag := INLINE.get(node.tag):
        return Markup(f"<{tag}>") + inner + Markup(f"</{tag}>")
    return inner


def _id(node: Node, name: str) -> Markup:
    found = node.attributes.get("id")
    return Markup(' id="{}-{}"').format(name, found) if found else Markup("")

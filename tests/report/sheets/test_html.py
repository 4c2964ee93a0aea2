"""The page is read back by Python's parser of HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from grace.report.sheets import html
from grace.report.sheets.grid import Grid, Piece, Sheet, Shown, marked, text
from tests.report.nasty import SEEN, TEXT

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Text of each cell, with all tags closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.ids += [found["id"]] if "id" in found else []
        if tag == "td":
            self.cells.append("")
        if tag == "br" and self.cells:
            self.cells[-1] += "\n"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def sheet(grid: Grid) -> Sheet:
    return Sheet("t", "A <b> table", marked("Of *this*."), "Study demo.", [marked("**Not** so.")], [grid])


def test_text_of_a_model_reads_back_whole_and_makes_no_tag():
    long = TEXT + "z" * 700
    grid = Grid(["run", "text"], [[text("a"), text(long, "prose")]], prose=True, heading="<i>", before=[[Piece(TEXT)]])
    page = html.render(sheet(grid))
    reader = read(page)
    assert reader.cells == [SEEN + "z" * 700]
    assert set(reader.tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "article", "h1", "h4", "p", "em", "strong", "div",
        "table", "thead", "tbody", "tr", "th", "td", "br",
    }  # fmt: skip
    assert "http" not in page.split("</head>")[0]  # it needs nothing else


def test_a_sign_leads_to_its_note():
    cell = Shown([Piece("1.00", "bold"), Piece("ab", "sign")], [Piece("[0, 2]")], [Piece("3", "italic")])
    grid = Grid(["run", "x"], [[text("a"), cell]], names=1, notes=[("a", [Piece("one")]), ("b", [Piece("two")])])
    reader = read(html.render(sheet(grid)))
    assert reader.links == ["#t-note-a", "#t-note-b"] and reader.ids == ["t-note-a", "t-note-b"]
    assert reader.cells == ["1.00ab[0, 2]paper 3"]  # the run's name is a heading of its row


def test_rows_stand_under_their_backbone_and_numbers_keep_what_belongs_to_them():
    cell = Shown([Piece("1.00", "bold"), Piece("a", "sign")], [Piece("[0.5, 1.5]")], [Piece("2.00")])
    rows = [[text(backbone), text(run), cell] for backbone, run in (("tiny", "base"), ("tiny", "cl"), ("big", "base"))]
    warned, shown, notes = html.blocks(
        sheet(Grid(["backbone", "run", "PairClassification"], rows, notes=[("a", [Piece("a <note>")])])), "t1"
    )
    assert (warned.kind, warned.html) == ("text", "<strong>Not</strong> so.") and shown.grid is not None
    assert [(name, len(rows)) for name, rows in shown.grid.groups] == [("tiny", 2), ("big", 1)]
    assert shown.grid.head == ["run", "Pair<wbr>Classification"] and shown.grid.right == [False, True]
    assert shown.grid.groups[0][1][0][1] == (
        '<strong>1.00</strong><sup><a href="#t1-note-a">a</a></sup>'
        '<span class="interval">[0.5, 1.5]</span><span class="printed">paper 2.00</span>'
    )
    assert notes.kind == "notes" and notes.html == '<li id="t1-note-a"><sup>a</sup> a &lt;note&gt;</li>'


def test_a_record_holds_the_whole_table():
    grid = Grid(["run", "text"], [[text("a", "code"), text(TEXT, "prose")]], 1, True, "H", [[Piece("b")]], [("", [])])
    one = sheet(grid)
    assert html.render(Sheet.of_json(json.loads(json.dumps(one.as_json())))) == html.render(one)
    for wrong in ({}, {**one.as_json(), "grids": [{}]}, {**one.as_json(), "caption": 3}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Sheet.of_json(wrong)

"""The page is read back by Python's parser of HTML."""

from __future__ import annotations

from html.parser import HTMLParser

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
    assert reader.cells == ["a", SEEN + "z" * 700]
    assert set(reader.tags) <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "em", "strong", "div", "table", "thead",
        "tbody", "tr", "th", "td", "br",
    }  # fmt: skip
    assert "http" not in page.split("</head>")[0]  # it needs nothing else


def test_a_sign_leads_to_its_note():
    cell = Shown([Piece("1.00", "bold"), Piece("ab", "sign")], [Piece("[0, 2]")], [Piece("3", "italic")])
    grid = Grid(["run", "x"], [[text("a"), cell]], names=1, notes=[("a", [Piece("one")]), ("b", [Piece("two")])])
    reader = read(html.render(sheet(grid)))
    assert reader.links == ["#note-a", "#note-b"] and reader.ids == ["note-a", "note-b"]
    assert reader.cells == ["a", "1.00ab[0, 2]paper 3"]

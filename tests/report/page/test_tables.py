"""A table's own page, cell by cell, as a part of the report."""

from html import unescape

from grace.report.page import tables
from grace.report.sheets import html
from grace.report.sheets.grid import Grid, Piece, Sheet, Shown

PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body>
<h1>Table 1</h1><p>The <em>caption</em>.</p><p>Study demo; 1 seed.</p>
<div class="scroll"><table>
<thead><tr><th class="name">backbone</th><th class="name">run</th><th>PairClassification</th></tr></thead>
<tbody><tr><td class="name">tiny</td><td class="name">base</td>
<td><strong>1.00</strong><sup><a href="#note-1-a">a</a></sup>
<div class="interval">[0.5, 1.5]</div><div class="printed">paper 2.00</div></td></tr>
<tr><td class="name">tiny</td><td class="name">cl</td><td>—</td></tr>
<tr><td class="name">big</td><td class="name">base</td><td>3.00</td></tr></tbody></table></div>
<ul class="notes"><li id="note-1-a"><sup>a</sup> a note</li></ul></body></html>"""


def test_rows_stand_under_their_backbone_and_numbers_keep_what_belongs_to_them():
    text, grid, notes = tables.blocks(PAGE, "t1", ["The caption."])
    assert (text.kind, text.html) == ("text", "Study demo; 1 seed.") and grid.grid is not None
    assert [(name, len(rows)) for name, rows in grid.grid.groups] == [("tiny", 2), ("big", 1)]
    assert grid.grid.head == ["run", "Pair<wbr>Classification"] and grid.grid.right == [False, True]
    cell = grid.grid.groups[0][1][0][1]
    assert cell.startswith('<strong>1.00</strong><sup><a href="#t1-note-1-a">a</a></sup>')
    assert '<span class="interval">[0.5, 1.5]</span>' in cell and '<span class="printed">paper 2.00</span>' in cell
    assert notes.kind == "notes" and notes.html == '<li id="t1-note-1-a"><sup>a</sup> a note</li>'


def test_a_table_without_backbones_has_one_group():
    grid = tables.blocks("<table><tr><th>run</th><th>x</th></tr><tr><td>a</td><td>1</td></tr></table>", "t")[0].grid
    assert grid is not None and grid.groups == [("", [["a", "1"]])]


def test_what_is_not_known_becomes_text():
    page = '<table><tr><th>run</th></tr><tr><td><img src="http://x.test/a.png" onerror="x()">'
    page += "<a href='javascript:x()'>l</a><script>x()</script><b onclick='x()'>b</b>&lt;i&gt;</td></tr></table>"
    grid = tables.blocks(page, "t")[0].grid
    assert grid is not None and grid.groups[0][1][0][0] == "l<strong>b</strong>&lt;i&gt;"


def test_the_pages_that_tables_writes_are_read_whole():
    wild = "<think>\n<script>x</script> | `a` *b* </think>"
    rows = [[Shown([Piece("tiny")]), Shown([Piece("base", "code")]), Shown([Piece("1.00", "bold")], [Piece("[0, 2]")])]]
    scores = Grid(["backbone", "run", "STS"], rows, notes=[("a", [Piece("why")])])
    prose = Grid(["run", "text"], [[Shown([Piece("base")]), Shown([Piece(wild, "prose")])]], 1, True, heading="H")
    sheet = Sheet("t", "Title", [Piece("Caption.")], "Line.", [[Piece("Warning.", "bold")]], [scores, prose])
    found = tables.blocks(html.render(sheet), "t", ["Caption.", "Line."])
    assert [one.kind for one in found] == ["text", "grid", "notes", "heading", "grid"]
    first, second = (one.grid for one in found if one.grid)
    assert first is not None and second is not None
    assert first.groups[0][0] == "tiny" and '<span class="interval">[0, 2]</span>' in first.groups[0][1][0][1]
    assert second.prose == [False, True] and unescape(second.groups[0][1][0][1]) == wild.replace("\n", "<br>")

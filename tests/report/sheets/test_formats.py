"""Each form is read back: Markdown by a parser of GitHub's tables, HTML by Python's, LaTeX by its structure."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from grace.report.sheets import formats
from grace.report.sheets.grid import Grid, Piece, Sheet, TableCell, marked, text
from tests.report import made
from tests.report.nasty import LINES, SEEN, TEXT

TITLE = "Table 1. 50 % <b> & more"
FULL = TableCell([Piece("1.00", "bold"), Piece(" ↑"), Piece("ab", "sign")], [Piece("[0.5, 1.5]")], [Piece("2.00")])


def sheet(*grids: Grid) -> Sheet:
    return Sheet("t", TITLE, marked("Of *this* `a/b_c`."), "Study x_y.", [marked("**Not** so.")], list(grids))


def grid(cell: TableCell, **more) -> Grid:
    return Grid(["run", "a_b"], [[text("a"), cell], [text("[y]"), text("—")]], names=1, **more)


# ---- Markdown -------------------------------------------------------------------------------


def read_md(source: str, kind: str) -> list[str]:
    """Text of each `kind` of element, with breaks as newlines; any other mark-up is an error."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = []
    for before, token in pairwise(parser.parse(source)):
        if before.type == kind:
            kinds = {child.type for child in token.children or [] if child.content != "<br>"}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, kinds
            found.append("".join("\n" if one.content == "<br>" else one.content for one in token.children or []))
    return found


def test_prose_reads_back_as_it_was_and_stays_in_its_cell():
    assert read_md(formats.markdown(sheet(grid(text(TEXT, "prose"), prose=True))), "td_open")[:2] == ["a", LINES]


def test_a_text_above_a_table_reads_back_too():
    before = [[Piece("Document", "bold"), Piece(": "), Piece("# one\n- two\n1. three\n> four", "prose")]]
    source = formats.markdown(sheet(grid(text("x"), prose=True, before=before)))
    source = source.replace("*this* `a/b_c`", "this")
    assert "Document: # one\n- two\n1. three\n> four" in read_md(source, "paragraph_open")


def test_names_and_sentences_read_back_on_one_line():
    source = formats.markdown(sheet(grid(text(TEXT)))).replace("[f](g)", "f").replace("![h](i)", "h")
    seen = SEEN.replace("\n\n", " ").replace("\n", " ").replace("[f](g)", "f").replace("![h](i)", "h")
    assert read_md(source, "td_open")[1] == seen


@pytest.mark.parametrize("name", ["grace_sup", "a_b_c", "_x_", "a*b*c", "reinforce++", "lambda1-0.5"])
def test_names_of_runs_read_back(name):
    source = formats.markdown(sheet(grid(text(name))))
    assert read_md(source, "td_open")[1] == name
    assert (name in source) is (name[0] != "_" and "*" not in name)  # and are readable in a terminal


def test_markdown_shows_the_interval_behind_the_papers_number_below_and_notes_with_their_letter():
    source = formats.markdown(sheet(grid(FULL, notes=[("a", [Piece("why")]), ("", marked("of `x_y`"))])))
    assert source.splitlines()[8:] == [
        "| run   |                      a_b |",
        "|-------|-------------------------:|",
        "| a     | **1.00** ↑ ᵃᵇ [0.5, 1.5] |",
        "| paper |                     2.00 |",
        "| [y]   |                        — |",
        "",
        "- ᵃ why",
        "- of `x_y`",
    ]


def test_a_long_text_does_not_widen_its_column():
    assert "| [y] | —   |" in formats.markdown(sheet(grid(text("x" * 100, "prose"), prose=True))).splitlines()


# ---- HTML -----------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Text of each cell, with all tags closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.cells, self.tags, self.links, self.ids = ([] for _ in range(5))
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.ids += [found["id"]] if "id" in found else []
        if tag == "td":
            self.cells.append("")
        if tag == "br" and self.cells:
            self.cells[-1] += "\n"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def test_text_of_a_model_reads_back_whole_and_makes_no_tag():
    long = TEXT + "z" * 700
    page = formats.html(sheet(grid(text(long, "prose"), prose=True, heading="<i>", before=[[Piece(TEXT)]])))
    reader = Reader(page)
    assert reader.cells[0] == SEEN + "z" * 700
    known = "html head meta title style body main article h1 h4 p em strong code div table thead tbody tr th td br"
    assert set(reader.tags) <= set(known.split())
    assert "http" not in page.split("</head>")[0]  # it needs nothing else


def test_a_sign_leads_to_its_note():
    reader = Reader(formats.html(sheet(grid(FULL, notes=[("a", [Piece("one")]), ("b", [Piece("two")])]))))
    assert reader.links == ["#t-note-a", "#t-note-b"] and reader.ids == ["t-note-a", "t-note-b"]
    assert reader.cells[0] == "1.00 ↑ab[0.5, 1.5]paper 2.00"  # the run's name is a heading of its row


def test_rows_stand_under_their_backbone_and_numbers_keep_what_belongs_to_them():
    cell = TableCell([Piece("1.00", "bold"), Piece("a", "sign")], [Piece("[0.5, 1.5]")], [Piece("2.00")])
    rows = [[text(backbone), text(run), cell] for backbone, run in (("tiny", "base"), ("tiny", "cl"), ("big", "base"))]
    table = Grid(["backbone", "run", "PairClassification"], rows, notes=[("a", [Piece("a <note>")])])
    warned, shown, notes = formats.blocks(sheet(table), "t1")
    assert (warned.kind, warned.html) == ("text", "<strong>Not</strong> so.") and shown.grid is not None
    assert [(name, len(rows)) for name, rows in shown.grid.groups] == [("tiny", 2), ("big", 1)]
    assert shown.grid.head == ["run", "Pair<wbr>Classification"] and shown.grid.right == [False, True]
    assert shown.grid.groups[0][1][0][1] == (
        '<strong>1.00</strong><sup><a href="#t1-note-a">a</a></sup>'
        '<span class="interval">[0.5, 1.5]</span><span class="printed">paper 2.00</span>'
    )
    assert notes.kind == "notes" and notes.html == '<li id="t1-note-a"><sup>a</sup> a &lt;note&gt;</li>'


# ---- LaTeX ----------------------------------------------------------------------------------

COMMANDS = set(
    "begin end centering caption label small par noindent smallskip toprule midrule bottomrule raggedright "
    "footnotesize scriptsize linewidth textbf emph texttt allowbreak textsuperscript newline textbackslash "
    "textasciicircum textasciitilde textasciigrave textless textgreater textbar ldots pm uparrow downarrow times input "
    "usepackage".split()
)


def check(source: str) -> None:
    """Rows of one width, balanced braces and environments, nothing that is not escaped. Raises: AssertionError."""
    assert source.isascii()
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    assert set(re.findall(r"\\([A-Za-z]+)", body)) <= COMMANDS
    bare = re.sub(r"\\[^A-Za-z]", "", re.sub(r"\\\\", "", body))  # without escaped characters and ends of rows
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert not re.search(r"[#%_~<>|`]", bare.replace("&", "").replace("``", "")), bare
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    for table in re.findall(r"\\begin\{tabularx?\}(.*?)\\end\{tabularx?\}", body, re.DOTALL):
        assert [table.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        widths = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert len(widths) == 1 and not any(re.match(r"\s*[\[*]", row) for row in rows)
        [shape] = re.findall(r"\{([lrX]+)\}$", table.splitlines()[0])
        assert len(shape) == widths.pop() + 1
    assert body.count(r"\begin{table}") == body.count(r"\caption{") == body.count(r"\label{") > 0


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The LaTeX of the study's tables."""
    folder = tmp_path_factory.mktemp("tables")
    files = made.study(folder)
    names = ("table1", "table2", "table3", "table5", "geometry")
    return [made.run(made.spec_of(files, name), folder / "t").tex for name in names]


def test_every_table_of_the_study_is_well_formed(tables):
    for source in tables:
        check(source)
    assert r"\begin{tabular}{ll" in source and r"\label{tab:demo-geometry}" in source


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_compiler_takes_every_table_and_no_line_is_too_wide(tables, tmp_path):
    proses = [grid(text(content, "prose"), prose=True) for content in (TEXT, "a long line of words " * 30)]
    every = [*tables, *(formats.latex(sheet(one), f"x{n}") for n, one in enumerate(proses))]
    (tmp_path / "x.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{','.join(formats.PACKAGES)}}}\usepackage[T1]{{fontenc}}"
        r"\begin{document}" + r"\clearpage ".join(every) + r"\end{document}"
    )
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "x.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert "Overfull" not in (tmp_path / "x.log").read_text(errors="replace")


def test_any_text_is_escaped():
    source = formats.latex(sheet(grid(text(TEXT, "prose"), prose=True)), "tab:x_y z")
    check(source)
    assert r"\label{tab:x-y-z}" in source and r"a\_b" in source
    shown = (
        r"- 100 \% \{l\}|a\textbar{}b \textbackslash{}\textbar{} \textless{}think\textgreater{}x|user \newline \# head|"
        r"-{}-{}-|\textbackslash{}begin\{x\}|\&amp;|m\textbackslash{}x07n|\'{e}|\texttt{U+4E2D}|\ldots{}|\$j\$|"
        r"\textasciicircum{}\textasciitilde{}"
    )
    assert [one for one in shown.split("|") if one not in source] == []


@pytest.mark.parametrize("broken", ["a & b \\\\\n", "a & b & c & d \\\\\n", "{", "\\begin{x}", "a_b"])
def test_the_check_sees_what_is_broken(broken):
    source = formats.latex(sheet(Grid(["run", "x", "y"], [[text("a"), text("1"), text("2")]])), "t")
    check(source)
    with pytest.raises(AssertionError):
        check(source.replace("\\bottomrule", broken + "\\bottomrule"))


def test_latex_shows_the_interval_and_the_papers_number_below():
    rows = formats.latex(sheet(grid(FULL, notes=[("a", [Piece("why")])])), "t").splitlines()
    at = rows.index(r"\midrule")
    assert rows[at + 1 : at + 5] == [
        r"a & \textbf{1.00} $\uparrow$\textsuperscript{ab} \\",
        r" & {\scriptsize [0.5, 1.5]} \\",
        r"{\scriptsize paper} & {\scriptsize 2.00} \\",
        r"{}[y] & --- \\",
    ]
    assert r"\textsuperscript{a} why\par" in rows


def test_each_grid_is_a_table_with_its_own_label():
    source = formats.latex(sheet(grid(text("1")), grid(text("2"))), "t")
    check(source)
    assert re.findall(r"\\label\{(.*?)\}", source) == ["t", "t-2"]
    title = r"50 \% \textless{}b\textgreater{} \& more (the paper's table 1)"
    assert rf"\caption{{{title}. Of \emph{{this}} \texttt{{a/\allowbreak{{}}b\_c}}. Study x\_y.}}" in source
    assert rf"\caption{{{title} (continued).}}" in source

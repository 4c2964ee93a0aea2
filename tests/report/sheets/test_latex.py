"""The LaTeX's structure: rows of one width, balanced braces and environments, nothing that is not escaped."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from grace.report.sheets import latex
from grace.report.sheets.grid import Grid, Piece, Sheet, Shown, marked, text
from tests.report import made
from tests.report.nasty import TEXT

COMMANDS = {
    "begin", "end", "centering", "caption", "label", "small", "par", "noindent", "smallskip", "toprule", "midrule",
    "bottomrule", "raggedright", "footnotesize", "scriptsize", "linewidth", "textbf", "emph", "texttt", "allowbreak",
    "textsuperscript", "newline", "textbackslash", "textasciicircum", "textasciitilde", "textasciigrave", "textless",
    "textgreater", "textbar", "ldots", "pm", "uparrow", "downarrow", "times", "input", "usepackage",
}  # fmt: skip


def check(source: str) -> None:
    """Raises: AssertionError for what a compiler would refuse."""
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


def sheet(*grids: Grid) -> Sheet:
    return Sheet(
        "t", "Table 1. 50 % & more", marked("Of *this* `a/b_c`."), "Study x_y.", [marked("**No.**")], list(grids)
    )


def test_every_table_of_the_study_is_well_formed(tmp_path):
    files = made.study(tmp_path)
    for name in ("table1", "table2", "table3", "table5", "geometry"):
        source = made.run(made.spec_of(files, name), tmp_path / "t").tex
        check(source)
    assert r"\begin{tabular}{ll" in source and r"\label{tab:demo-geometry}" in source


def prose(content: str) -> Grid:
    return Grid(["run", "a_b"], [[text("x"), text(content, "prose")], [text("[y]"), text("*")]], prose=True)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_compiler_takes_every_table_and_no_line_is_too_wide(tmp_path):
    files = made.study(tmp_path)
    names = ("table1", "table2", "table3", "table5", "geometry")
    tables = [made.run(made.spec_of(files, name), tmp_path / "t").tex for name in names]
    tables += [latex.render(sheet(prose(TEXT)), "x"), latex.render(sheet(prose("a long line of words " * 30)), "y")]
    (tmp_path / "x.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{','.join(latex.PACKAGES)}}}\usepackage[T1]{{fontenc}}"
        r"\begin{document}" + r"\clearpage ".join(tables) + r"\end{document}"
    )
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "x.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert "Overfull" not in (tmp_path / "x.log").read_text(errors="replace")


def test_any_text_is_escaped():
    source = latex.render(sheet(prose(TEXT)), "tab:x_y z")
    check(source)
    assert r"\label{tab:x-y-z}" in source and r"a\_b" in source
    for shown in (
        r"- 100 \% \{l\}", r"a\textbar{}b \textbackslash{}\textbar{} \textless{}think\textgreater{}x",
        r"user \newline \# head", r"-{}-{}-", r"\textbackslash{}begin\{x\}", r"\&amp;",
        r"m\textbackslash{}x07n", r"\'{e}", r"\texttt{U+4E2D}", r"\ldots{}", r"\$j\$",
        r"\textasciicircum{}\textasciitilde{}",
    ):  # fmt: skip
        assert shown in source, shown


@pytest.mark.parametrize("broken", ["a & b \\\\\n", "a & b & c & d \\\\\n", "{", "\\begin{x}", "a_b"])
def test_the_check_sees_what_is_broken(broken):
    grid = Grid(["run", "x", "y"], [[text("a"), text("1"), text("2")]])
    source = latex.render(sheet(grid), "t")
    check(source)
    with pytest.raises(AssertionError):
        check(source.replace("\\bottomrule", broken + "\\bottomrule"))


def test_a_row_shows_its_interval_and_the_papers_number_below():
    main = [Piece("1.00", "bold"), Piece(" ↑"), Piece("a", "sign")]
    cell = Shown(main, [Piece("[0.5, 1.5]")], [Piece("2.00")])
    grid = Grid(["run", "x"], [[text("a"), cell], [text("b"), text("—")]], names=1, notes=[("a", [Piece("why")])])
    rows = latex.render(sheet(grid), "t").splitlines()
    at = rows.index(r"\midrule")
    assert rows[at + 1 : at + 5] == [
        r"a & \textbf{1.00} $\uparrow$\textsuperscript{a} \\",
        r" & {\scriptsize [0.5, 1.5]} \\",
        r"{\scriptsize paper} & {\scriptsize 2.00} \\",
        r"b & --- \\",
    ]
    assert r"\textsuperscript{a} why\par" in rows


def test_each_grid_is_a_table_with_its_own_label():
    grid = Grid(["a", "b", "c"], [[text("1"), text("2"), text("3")]])
    source = latex.render(sheet(grid, grid), "t")
    check(source)
    assert re.findall(r"\\label\{(.*?)\}", source) == ["t", "t-2"]
    assert (
        r"\caption{50 \% \& more (the paper's table 1). Of \emph{this} \texttt{a/\allowbreak{}b\_c}. Study x\_y.}"
        in source
    )
    assert r"\caption{50 \% \& more (the paper's table 1) (continued).}" in source

"""Tables of rationales: how those of one document change in training (table 6), and samples (table 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from grace import specs
from grace.report.scoring import results
from grace.report.scoring.results import Problem
from grace.report.sheets.grid import LIMIT, MISSING, Grid, Line, Piece, Sheet, Shown, marked, text
from grace.report.sheets.score_sheet import label, warnings
from grace.report.sheets.signs import Signs

FIELDS = [
    "table",
    "backbone",
    "case",
    "kind",
    "text",
    "run",
    "step",
    "tokens",
    "truncated",
    "well_formed",
    "rationale",
    "source",
    "note",
]
Row = dict[str, Any]


@dataclass
class Cases:
    """The rationales of all backbones: rows with the keys FIELDS, and what is missing or wrong."""

    rows: list[Row] = field(default_factory=list)
    rule: str = ""  # how the texts were chosen
    seeds: set[int] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def load(spec: specs.TablesSpec) -> Cases:
    """The rows of a table of the kind `progress` (one document, all models) or `samples` (all texts, trained ends).

    step: training steps; None: the end of training, 0: the backbone. A backbone without result has one row that
    says so in `note`.
    """
    cases = Cases()
    for backbone, path in spec.cases.items():
        try:
            result, problems = results.read(path)
        except FileNotFoundError:
            cases.missing.append(path)
            cases.rows.append(_empty(spec.name, backbone, f"No result: {path}."))
            continue
        found, wrong = _rationales(path, result) if result else ([], [])
        cases.problems += problems + wrong
        note = " ".join(dict.fromkeys(problem.text for problem in problems + wrong)) or None
        chosen = _progress(found) if spec.table.kind == "progress" else [r for r in found if r["step"] in (0, None)]
        empty = {**_empty(spec.name, backbone, note or f"{path} holds no rationale for this table."), "source": path}
        cases.rows += [{**empty, "note": note, **row} for row in chosen] or [empty]
        if result:
            cases.rule = cases.rule or str(result.get("rule", ""))
            cases.seeds |= _seeds(result)
    return cases


def _empty(table: str, backbone: str, note: str | None) -> Row:
    return {**dict.fromkeys(FIELDS), "table": table, "backbone": backbone, "note": note}


def _rationales(path: str, result: dict[str, Any]) -> tuple[list[Row], list[Problem]]:
    """All rationales of a file, and those that are not whole."""
    rows, problems = [], []
    cases = result.get("cases")
    for case, said in _each(cases):
        if said is None:
            where = f"case {case.get('id')}" if isinstance(case, dict) else "a case"
            sentence = f"{path}: {where} holds no rationale that can be shown: {results.AGAIN}."
            problems.append(Problem(path, None, "broken", sentence))
            continue
        if (tokens := said.get("tokens")) is not None and not isinstance(tokens, int):
            sentence = f"{path}: the tokens of a rationale of case {case.get('id')} are no number: {results.AGAIN}."
            problems.append(Problem(path, None, "score", sentence))
            tokens = None
        rows.append(
            {"case": str(case.get("id")), "kind": str(case.get("kind")), "text": case["text"], "run": str(said["run"])}
            | {"step": said.get("step"), "rationale": said["text"], "tokens": tokens}
            | {name: said.get(name) for name in ("truncated", "well_formed")}
        )
    if not isinstance(cases, list):
        problems.append(Problem(path, None, "broken", f"{path} holds no cases: {results.AGAIN}."))
    return rows, problems


def _each(cases: Any) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """Each case with each of its rationales, None for one that is not whole."""
    for case in cases if isinstance(cases, list) else []:
        whole = (
            isinstance(case, dict) and isinstance(case.get("text"), str) and isinstance(case.get("rationales"), list)
        )
        for said in case["rationales"] if whole else [None]:
            yield case, said if isinstance(said, dict) and _whole(said) else None


def _whole(said: dict[str, Any]) -> bool:
    return isinstance(said.get("text"), str) and "run" in said and isinstance(said.get("step"), int | None)


def _progress(rows: list[Row]) -> list[Row]:
    """The first document: the followed run by its steps, then its end, then the ends of others."""
    first = next((row["case"] for row in rows if row["kind"] == "document"), None)
    found = [row for row in rows if row["case"] == first]
    steps = sorted((row for row in found if row["step"] is not None), key=lambda row: row["step"])
    return steps + [row for row in found if row["step"] is None]


def _seeds(result: dict[str, Any]) -> set[int]:
    settings = result["manifest"].get("settings")
    encode = settings.get("encode") if isinstance(settings, dict) else None
    seed = encode.get("seed") if isinstance(encode, dict) else None
    return {seed} if isinstance(seed, int) else set()


def line(spec: specs.TablesSpec, cases: Cases) -> str:
    """One sentence: which backbones and runs, and the seed."""
    backbones = list(dict.fromkeys(row["backbone"] for row in cases.rows))
    named = list(dict.fromkeys(row["run"] for row in cases.rows if row["run"]))
    without = [row["backbone"] for row in cases.rows if row["rationale"] is None]
    said = f"Study {spec.study}; backbone{'s' * (len(backbones) != 1)} {', '.join(backbones)}"
    said += f"; runs {', '.join(named)}" if named else ""
    said += f"; one seed ({', '.join(map(str, sorted(cases.seeds)))})" if cases.seeds else ""
    return said + (f"; no result of {', '.join(without)}." if without else ".")


def sheet(spec: specs.TablesSpec, cases: Cases) -> Sheet:
    """A grid for each backbone and text, the text above it."""
    signs = Signs(cases.problems)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in cases.rows:
        groups.setdefault((row["backbone"], row["case"]), []).append(row)
    grids = []
    for number, rows in enumerate(groups.values(), 1):
        grids.append(_grid(spec.table.kind, rows, cases.problems, signs))
        if spec.table.kind == "samples":
            grids[-1].heading += f", text {number}"
    if grids:
        grids[-1].notes = [*signs.notes(), *(("", note) for note in _notes(spec, cases))]
    seen = warnings(row["backbone"] for row in cases.rows)
    return Sheet(spec.name, spec.table.title, marked(spec.table.caption), line(spec, cases), seen, grids)


def _grid(kind: str, rows: list[Row], problems: list[Problem], signs: Signs) -> Grid:
    first = rows[0]
    about = Piece(f"{first['kind'] or ''}".capitalize(), "bold")
    before = [[about, Piece(": "), Piece(first["text"], "prose")]] if first["text"] is not None else []
    progress = kind == "progress"
    head = ["run", "step", "tokens", "rationale"] if progress else ["run", "tokens", "rationale"]
    shown = []
    for row in rows:
        found = [one for one in problems if one.path == row["source"]]
        name = "backbone" if row["step"] == 0 and not progress else row["run"] or MISSING
        rationale = [Piece(row["rationale"], "prose")] if row["rationale"] is not None else [Piece(MISSING)]
        rationale += [Piece(signs.of(found), "sign")] if found else []
        cells = [text(name), *([text(_step(row))] if progress else []), text(_tokens(row)), Shown(rationale)]
        shown.append(cells)
    return Grid(head, shown, prose=True, heading=label(first["backbone"]), before=before)


def _step(row: Row) -> str:
    if row["rationale"] is None:
        return MISSING
    return {0: "0 (backbone)", None: "end"}.get(row["step"], str(row["step"]))


def _tokens(row: Row) -> str:
    """Length in tokens, with a mark where the rationale was cut."""
    if row["tokens"] is None:
        return MISSING
    return f"{row['tokens']}{', cut' if row['truncated'] else ''}"


def _notes(spec: specs.TablesSpec, cases: Cases) -> list[Line]:
    found = [[Piece(cases.rule)]] if cases.rule else []
    if any(row["truncated"] for row in cases.rows):
        found.append(marked("Cut: the rationale had the most tokens that it may have."))
    if any(len(row[name] or "") > LIMIT for row in cases.rows for name in ("text", "rationale")):
        found.append(
            marked(f"In Markdown and LaTeX a text ends after {LIMIT} characters with …; elsewhere it is whole.")
        )
    if cases.missing:
        found.append(marked(f"Missing result files: {', '.join(f'`{path}`' for path in cases.missing)}."))
    return found

"""Tables of rationales: how those of one document change in training (table 6), and samples (table 7)."""

from __future__ import annotations

from typing import Any

from grace.config import specs
from grace.report.scoring import results
from grace.report.scoring.results import Problem
from grace.report.sheets import grid
from grace.report.sheets.grid import LIMIT, MISSING, Footnotes, Grid, Made, Piece, Row, TableCell, label, marked, text

FIELDS = "table backbone case kind text run step tokens truncated well_formed rationale source note".split()


def make(spec: specs.TablesSpec) -> Made:
    """A table of the kind `progress` (one document, all models) or `samples` (all texts, trained ends).

    In its rows `step` is of training; None: its end, 0: the backbone. A backbone without result has one row that says
    so in `note`.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    missing, seeds, rules = [], set(), []
    for backbone, path in spec.cases.items():
        empty: Row = {**dict.fromkeys(FIELDS), "table": spec.name, "backbone": backbone}
        try:
            result, wrong = results.read(path)
        except FileNotFoundError:
            missing.append(path)
            rows.append({**empty, "note": f"No result: {path}."})
            continue
        found: list[Row] = []
        if result:
            found, more = _rationales(path, result)
            wrong += more
            rules.append(str(result.get("rule", "")))
            settings = result["manifest"].get("settings")
            encode = settings.get("encode") if isinstance(settings, dict) else None
            seed = encode.get("seed") if isinstance(encode, dict) else None
            seeds |= {seed} if isinstance(seed, int) else set()
        problems += wrong
        note = " ".join(dict.fromkeys(problem.text for problem in wrong)) or None
        chosen = _progress(found) if spec.table.kind == "progress" else [r for r in found if r["step"] in (0, None)]
        lost = {**empty, "source": path, "note": note or f"{path} holds no rationale for this table."}
        rows += [{**empty, "source": path, "note": note, **row} for row in chosen] or [lost]
    runs = list(dict.fromkeys(row["run"] for row in rows if row["run"]))
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    without = [row["backbone"] for row in rows if row["rationale"] is None]
    line = grid.about(
        spec.study, backbones, runs, f"one seed ({', '.join(map(str, sorted(seeds)))})" if seeds else "", without
    )
    grids = _grids(spec, rows, problems, next(filter(None, rules), ""), missing)
    return Made(FIELDS, rows, grid.sheet(spec, line, backbones, grids), runs, sorted(seeds), missing, problems)


def _rationales(path: str, result: dict[str, Any]) -> tuple[list[Row], list[Problem]]:
    """All rationales of a file, and those that are not whole."""
    rows: list[Row] = []
    problems: list[Problem] = []
    cases = result.get("cases")
    if not isinstance(cases, list):
        return [], [Problem(path, None, "broken", f"{path} holds no cases: {results.AGAIN}.")]
    for case in cases:
        case = case if isinstance(case, dict) else {}
        known = case.get("rationales") if isinstance(case.get("text"), str) else None
        said: Any
        for said in known if isinstance(known, list) else [None]:
            whole = isinstance(said, dict) and isinstance(said.get("text"), str) and "run" in said
            if not whole or not isinstance(said.get("step"), int | None):
                where = f"case {case.get('id')}" if case else "a case"
                sentence = f"{path}: {where} holds no rationale that can be shown: {results.AGAIN}."
                problems.append(Problem(path, None, "broken", sentence))
                continue
            tokens = said.get("tokens")
            if tokens is not None and not isinstance(tokens, int):
                sentence = f"{path}: the tokens of a rationale of case {case.get('id')} are no number: {results.AGAIN}."
                problems.append(Problem(path, None, "score", sentence))
                tokens = None
            row = {"case": str(case.get("id")), "kind": str(case.get("kind")), "text": case["text"], "tokens": tokens}
            row |= {"run": str(said["run"]), "rationale": said["text"]}
            rows.append({**row, **{name: said.get(name) for name in ("step", "truncated", "well_formed")}})
    return rows, problems


def _progress(rows: list[Row]) -> list[Row]:
    """The first document: the followed run by its steps, then its end, then the ends of others."""
    first = next((row["case"] for row in rows if row["kind"] == "document"), None)
    found = [row for row in rows if row["case"] == first]
    steps = sorted((row for row in found if row["step"] is not None), key=lambda row: row["step"])
    return steps + [row for row in found if row["step"] is None]


def _grids(
    spec: specs.TablesSpec, rows: list[Row], problems: list[Problem], rule: str, missing: list[str]
) -> list[Grid]:
    """One for each backbone and text, the text above it. rule: how the texts were chosen."""
    footnotes = Footnotes(problems)
    progress = spec.table.kind == "progress"
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["case"]), []).append(row)
    grids = []
    for number, group in enumerate(groups.values(), 1):
        first = group[0]
        head = ["run", *(["step"] if progress else []), "tokens", "rationale"]
        made = Grid(head, [_cells(row, progress, problems, footnotes) for row in group], prose=True)
        made.heading = label(first["backbone"]) + ("" if progress else f", text {number}")
        if first["text"] is not None:
            kind = Piece(f"{first['kind'] or ''}".capitalize(), "bold")
            made.before = [[kind, Piece(": "), Piece(first["text"], "prose")]]
        grids.append(made)
    long = any(len(row[name] or "") > LIMIT for row in rows for name in ("text", "rationale"))
    said = [
        (any(row["truncated"] for row in rows), "Cut: the rationale had the most tokens that it may have."),
        (long, f"In Markdown and LaTeX a text ends after {LIMIT} characters with …; elsewhere it is whole."),
        (missing, f"Missing result files: {', '.join(f'`{path}`' for path in missing)}."),
    ]
    if grids:
        notes = [[Piece(rule)]] if rule else []
        grids[-1].notes = footnotes.notes([*notes, *(marked(note) for applies, note in said if applies)])
    return grids


def _cells(row: Row, progress: bool, problems: list[Problem], footnotes: Footnotes) -> list[TableCell]:
    """The run, in a table of progress the step, the length with a mark where it was cut, the rationale."""
    missing = row["rationale"] is None
    step = MISSING if missing else {0: "0 (backbone)", None: "end"}.get(row["step"], str(row["step"]))
    name = "backbone" if row["step"] == 0 and not progress else row["run"] or MISSING
    length = MISSING if row["tokens"] is None else f"{row['tokens']}{', cut' if row['truncated'] else ''}"
    rationale = text(MISSING) if missing else text(row["rationale"], "prose")
    if found := [one for one in problems if one.path == row["source"]]:
        rationale.main.append(Piece(footnotes.of(found), "sign"))
    return [text(name), *([text(step)] if progress else []), text(length), rationale]

"""Rule `report`: the study on one page that needs nothing else: no server, no network, no script."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from markupsafe import Markup

from grace.config.section import UserError
from grace.config.specs import Exhibit, PageSpec
from grace.jobs import stage
from grace.jobs.files import sha256, writing
from grace.report.page import cost, deviations
from grace.report.page.folder import MARKDOWN, Folder, Record, markdown, number, objects, part, problems, sentences
from grace.report.scoring.results import AGAIN
from grace.report.scoring.verdicts import OWN, VERDICTS, split
from grace.report.sheets import formats
from grace.report.sheets.grid import Sheet

FINDING = ("title", "claim", "found", "verdict", "arithmetic", "where")
CLAIM = ("id", "group", "text", "measure", "backbone", "verdict", "headline", "comparable", "runs")
# Files of a study beside its tables and figures; folders with a number of files.
LISTED = ("claims.md", "claims.json", "audit.md", "audit.json", "plan.md", "plan.json")
FOLDERS = ("mteb", "general", "latency", "cases", "models", "data", "logs", "benchmarks")
FORMS = {"table": ("csv", "md", "tex", "html", "json"), "figure": ("svg", "png", "csv", "json")}
# Keys that the command line may change.
USUAL = {"seeds": None, "preset": "as_printed", "backbones": None, "tradeoff": False}
REFERENCE = "For reference"  # how the heading of the paper's other rows begins


def render(spec: PageSpec, folder: Folder, audit: Path, claims: Path, records: list[Path]) -> str:
    """The page. What cannot be read becomes a problem of `folder`."""
    given = {(path.parent.name, path.stem): path for path in records}
    shown = []
    for one in spec.exhibits:
        path = given.get((f"{one.form}s", one.name), _record(folder, one))
        if one.shown:
            shown.append(exhibit(folder, one, path, folder.record(path)))
    claimed = folder.record(claims, "claims") or {}
    audited = folder.record(audit, "findings") or {}
    read = [claimed, *(one["record"] for one in shown)]
    took = cost.read(folder, [part(one, "manifest") for one in (*read, audited)])
    recorded, missing = ([text for one in read for text in sentences(one, key)] for key in ("problems", "missing"))
    wrong = problems(folder.problems, recorded)
    try:
        differing, undecided = deviations.deviations(spec.config, spec.study), ""
    except UserError as error:
        differing, undecided = [], str(error)
    page = formats.templates().overlay()
    page.filters |= {"duration": cost.duration, "memory": cost.memory, "markdown": markdown, "signed": signed}
    page.filters["inline"] = lambda text: Markup(MARKDOWN.renderInline(text))
    return page.get_template("page.html").render(
        spec=spec,
        shown=shown,
        command=partial(command, spec.study, spec.config),
        links=partial(links, folder),
        summary=summary(claimed),
        verdicts=VERDICTS,
        beyond=OWN,
        findings=objects(audited, "findings", *FINDING),
        cost=took,
        deviations=[(section, list(some)) for section, some in groupby(differing, key=lambda one: one.section)],
        undecided=undecided,
        files_of=_files(folder),
        facts=_facts(spec, took),
        missing=list(dict.fromkeys(missing)),
        problems=wrong,
        problem_count=sum(max(len(paths), 1) for _, paths in wrong),
    )


def exhibit(folder: Folder, about: Exhibit, path: Path, record: Record | None) -> dict[str, Any]:
    """A table or figure: `blocks` or `drawing`, or why there is nothing to see (`lost`).

    Args:
        path: of its record; `record` is None when it could not be read.
    """
    blocks: list[formats.Block] = []
    drawing, lost, found = "", "", record or {}
    if record is None:
        lost = f"{folder.name(path)} is missing or broken, so this {about.form} is not shown."
    elif about.form == "table":
        try:
            blocks = list(formats.blocks(Sheet.of_json(record["sheet"]), about.name))
        except (KeyError, TypeError, ValueError):
            lost = f"{folder.name(path)} holds no table, so there is none to show: {AGAIN}."
    else:
        picture = path.with_suffix(".svg")
        text = folder.text(picture)
        if text is None:
            lost = f"{folder.name(picture)} is missing, so there is no figure to show."
        elif sha256(picture) != str(record.get("svg")):  # it might run or load something
            folder.problem(picture, "is not the drawing that was made")
            lost = f"{folder.name(picture)} was changed after it was made, so it is not shown."
        else:
            drawing = text
    others = (n for n, one in enumerate(blocks) if one.kind == "heading" and one.html.startswith(REFERENCE))
    own = next(others, len(blocks))
    return {
        "about": about,
        "record": found,
        "line": str(found.get("line", "")),
        "blocks": blocks[:own],
        "reference": blocks[own:],
        "drawing": Markup(drawing),
        "lost": lost,
        "missing": sentences(found, "missing"),
        "problems": sentences(found, "problems"),
    }


def _record(folder: Folder, about: Exhibit) -> Path:
    return folder.root / f"{about.form}s" / f"{about.name}.json"


def links(folder: Folder, about: Exhibit) -> list[tuple[str, str]]:
    """The files of a table or figure that are there: ending and address."""
    paths = {ending: _record(folder, about).with_suffix(f".{ending}") for ending in FORMS[about.form]}
    return [(ending, folder.link(path)) for ending, path in paths.items() if path.exists()]


def command(study: str, config: dict[str, Any], target: str = "", **more: str) -> str:
    """The call of snakemake that makes a target, or all, of the study as it was configured.

    Args:
        config: whose seeds, preset and backbones are passed on where they are not the usual ones.
        more: further keys for `--config`, which come last.
    """
    changed = {key: config[key] for key, usual in USUAL.items() if config.get(key, usual) not in (None, usual)}
    given = {
        key: f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        for key, value in {"study": study, **changed, **more}.items()
    }
    pairs = [shlex.quote(f"{key}={value}") for key, value in given.items()]
    return " ".join(["snakemake --cores all", *([target] if target else []), "--config", *pairs])


def summary(record: Record) -> dict[str, Any]:
    """The claims of a claims.json. Entries that lack what is shown are left out, and counted nowhere.

    Returns:
        `groups`: (name, its claims), each with its `tests`, its verdicts that count (`tally`) and the backbones on
        which its measures disagree (`split`). `counts`: verdict -> the paper's claims, each once per backbone.
    """
    found = [_test(one) for one in objects(record, "claims", *CLAIM) if isinstance(one["runs"], list)]
    scales: dict[tuple[str, str], float] = defaultdict(float)  # the intervals of a group and measure share one
    for one in found:
        drawn = [one[key] for key in ("ours", "low", "high", "bound", "mark") if one[key] is not None]
        scales[one["group"], one["measure"]] = max([scales[one["group"], one["measure"]], *map(abs, drawn)])
    for one in found:
        one["x"] = _position(scales[one["group"], one["measure"]])
    counted = Counter(one["verdict"] for one in found if one["group"] not in OWN and one["headline"])
    return {
        "counts": {name: counted[name] for name in VERDICTS},
        "groups": [
            (group, [_claim(list(tests)) for _, tests in groupby(some, key=itemgetter("id"))])
            for group, some in groupby(found, key=itemgetter("group"))
        ],
        "comparable": sum(bool(one["comparable"]) for one in found),
        "notes": sentences(record, "notes"),
        "tests": len(found),
    }


def _test(entry: Record) -> dict[str, Any]:
    """A claim on one backbone by one measure, its numbers None where they are none."""
    given = entry["levels"] if isinstance(entry.get("levels"), list) else []
    numbers = {key: number(entry.get(key)) for key in ("ours", "low", "high", "bound", "printed")}
    return {
        **entry,
        **{key: str(entry[key]) for key in ("group", "text", "measure", "backbone", "verdict")},
        **numbers,
        "word": str(entry.get("word", entry["verdict"])),
        "mark": numbers["printed"] if entry["comparable"] else None,
        "levels": [one for one in zip(entry["runs"], map(number, given), strict=False) if one[1] is not None],
        "problems": sentences(entry, "problems"),
    }


def _position(scale: float) -> Callable[[float], float] | None:
    """Of a difference in a drawing that is 160 wide, -scale at its left and scale at its right."""
    return (lambda value: round(80 + value / scale * 75, 2)) if scale else None


def _claim(tests: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tests": tests,
        "text": tests[0]["text"],
        "where": tests[0].get("where", ""),
        "tally": Counter((one["verdict"], one["word"]) for one in tests if one["headline"]),
        "split": len(split((one["backbone"], one["verdict"]) for one in tests)),
        "backbones": len({one["backbone"] for one in tests}),
    }


def signed(value: float) -> str:
    """Two decimals with a sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def _facts(spec: PageSpec, took: cost.Cost) -> list[tuple[str, str]]:
    """What is said of the study below the title."""
    at = deviations.settings(spec.config, spec.study)
    found = {"Study": spec.study, "Preset": str(spec.config.get("preset", ""))}
    for key in ("backbones", "seeds"):
        values = at.get(key, [])
        found[key.capitalize()] = ", ".join(map(str, values if isinstance(values, list) else [values]))
    commits = sorted(name[:12] + "+" * name.endswith("+") for name in took.commits if name != cost.UNKNOWN)
    found["Commit"] = ", ".join(commits[:3]) + " and others" * (len(commits) > 3)
    return [(name, value) for name, value in found.items() if value]


def _files(folder: Folder) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Groups of links: name -> (text, address, what is there)."""
    single = [(name, folder.link(folder.root / name), "") for name in LISTED if (folder.root / name).exists()]
    many = []
    for name in FOLDERS:
        if count := sum(path.is_file() for path in (folder.root / name).rglob("*")):
            many.append((f"{name}/", folder.link(folder.root / name) + "/", f"{count:,} file{'s' * (count != 1)}"))
    return [(title, entries) for title, entries in (("Summaries", single), ("Folders", many)) if entries]


@stage.entry(PageSpec, inputs=("audit", "claims", "records*"), outputs=("out",))
def main(spec: PageSpec, paths: SimpleNamespace) -> None:
    text = render(spec, Folder(paths.out), paths.audit, paths.claims, paths.records)
    with writing(paths.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

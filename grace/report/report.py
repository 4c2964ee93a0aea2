"""Rule `report`: the study on one page that needs nothing else: no server, no network, no script."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grace import stage
from grace.files import writing
from grace.report.page import cost, deviations, exhibits, markup
from grace.report.page.reading import Folder, Record, objects, said, together, unsaid
from grace.report.page.summary import MEANING, summary
from grace.report.scoring.statements import OWN, VERDICTS
from grace.report.sheets.html import templates
from grace.section import UserError
from grace.specs import PageSpec

AUDITED = ("contradicted", "confirmed", "cannot be checked")
FINDING = ("title", "claim", "found", "verdict", "arithmetic", "where")
# Files of a study beside its tables and figures; folders with a number of files.
LISTED = ("claims.md", "claims.json", "audit.md", "audit.json", "plan.md", "plan.json")
FOLDERS = ("mteb", "general", "latency", "cases", "models", "data", "logs", "benchmarks")


def view(spec: PageSpec, folder: Folder, audit: Path, claims: Path, records: list[Path]) -> dict[str, Any]:
    """All that the page shows, for its template. What cannot be read becomes a problem of `folder`."""
    given = {(path.parent.name, path.stem): path for path in records}
    shown, read = [], []
    for one in spec.exhibits:
        if one.shown:
            made, record = exhibits.read(folder, one, given.get((f"{one.form}s", one.name)))
            shown.append(made)
            read.append(record or {})
    claimed = folder.record(claims, "claims") or {}
    audited = folder.record(audit, "findings") or {}
    took = cost.read(folder, [_manifest(one) for one in (*read, claimed, audited)])
    problems = [text for record in (claimed, *read) for text in said(record, "problems")]
    missing = [text for record in (claimed, *read) for text in said(record, "missing")]
    differing, undecided = _deviations(spec)
    wrong = together([*unsaid(folder.problems, problems), *problems])
    return {
        "spec": spec,
        "tables": [one for one in shown if one.form == "table"],
        "figures": [one for one in shown if one.form == "figure"],
        "absent": [exhibits.absent(folder, one, spec.study, spec.config) for one in spec.exhibits if not one.shown],
        "all_of_them": exhibits.command(spec.study, spec.config, ablations="true"),
        "summary": summary(claimed),
        "findings": _findings(audited),
        "cost": took,
        "deviations": differing,
        "undecided": undecided,
        "standing": markup.html(deviations.standing()),
        "files_of": _files(folder),
        "facts": _facts(spec, took),
        "missing": list(dict.fromkeys(missing)),
        "problems": wrong,
        "problem_count": sum(max(len(one.paths), 1) for one in wrong),
    }


def _facts(spec: PageSpec, took: cost.Cost) -> list[tuple[str, str]]:
    """What stands below the title."""
    found = [("Study", spec.study), ("Preset", str(spec.config.get("preset", "")))]
    at = deviations.settings(spec.config, spec.study)
    for key in ("backbones", "seeds"):
        values = at.get(key, [])
        found.append((key.capitalize(), ", ".join(map(str, values if isinstance(values, list) else [values]))))
    commits = [name[:12] + ("+" if name.endswith("+") else "") for name in took.commits if name != cost.UNKNOWN]
    found.append(("Commit", ", ".join(sorted(commits)[:3]) + (" and others" if len(commits) > 3 else "")))
    return [(name, value) for name, value in found if value]


def _manifest(record: Record) -> dict[str, Any]:
    made = record.get("manifest")
    return made if isinstance(made, dict) else {}


def _findings(record: Record) -> list[dict[str, Any]]:
    """The audit's findings, their arithmetic as HTML."""
    found = objects(record, "findings", *FINDING)
    return [{**one, "arithmetic": markup.html(str(one["arithmetic"]))} for one in found]


def _deviations(spec: PageSpec) -> tuple[list[tuple[str, list[deviations.Deviation]]], str]:
    """By section, or why there are none to show."""
    try:
        return deviations.sections(spec.config, spec.study), ""
    except UserError as error:
        return [], str(error)


def _files(folder: Folder) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Groups of links: name -> (text, address, what is there)."""
    single = [(name, folder.link(folder.root / name), "") for name in LISTED if (folder.root / name).exists()]
    many = []
    for name in FOLDERS:
        if count := sum(path.is_file() for path in (folder.root / name).rglob("*")):
            many.append((f"{name}/", folder.link(folder.root / name) + "/", f"{count:,} file{'s' * (count != 1)}"))
    return [(title, entries) for title, entries in (("Summaries", single), ("Folders", many)) if entries]


def render(content: dict[str, Any]) -> str:
    """The page of what `view` gives."""
    counts = Counter(one["verdict"] for one in content["findings"])
    page = templates().overlay()
    page.filters |= {"duration": cost.duration, "memory": cost.memory}
    page.globals |= {"verdicts": VERDICTS, "meaning": MEANING, "beyond": OWN}
    return page.get_template("page.html").render(**content, audited=[(name, counts[name]) for name in AUDITED])


@stage.entry(PageSpec, inputs=("audit", "claims", "records*"), outputs=("out",))
def main(spec: PageSpec, paths: SimpleNamespace) -> None:
    folder = Folder(paths.out)
    text = render(view(spec, folder, paths.audit, paths.claims, paths.records))
    with writing(paths.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

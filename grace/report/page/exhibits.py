"""Tables and figures as the page shows them: with caption, the runs behind them, problems and files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from grace import specs
from grace.files import sha256
from grace.report.page import markup
from grace.report.page.reading import Folder, Record, said
from grace.report.scoring.results import AGAIN
from grace.report.sheets import html
from grace.report.sheets.grid import Sheet
from grace.report.sheets.html import Block

FILES = {"table": ("csv", "md", "tex", "html", "json"), "figure": ("svg", "png", "csv", "json")}
# Keys that the command line may change.
USUAL = {"seeds": None, "preset": "as_printed", "backbones": None, "tradeoff": False}
REFERENCE = "For reference"  # how the heading of the paper's other rows begins


class Link(NamedTuple):
    text: str
    address: str


class Shown(NamedTuple):
    """A table or figure.

    line: which runs and seeds are behind it; reference: what the paper prints of other models; lost: why there is
    nothing to see; missing: result files that it lacks.
    """

    name: str
    form: str
    title: str
    caption: Markup
    line: str
    blocks: list[Block]
    reference: list[Block]
    drawing: Markup
    lost: str
    missing: list[str]
    problems: list[str]
    links: list[Link]


class Absent(NamedTuple):
    """One that was not asked for. links: to its files from an earlier time."""

    name: str
    title: str
    command: str
    links: list[Link]


def read(folder: Folder, exhibit: specs.Exhibit, path: Path | None) -> tuple[Shown, Record | None]:
    """A table or figure that was asked for, and its record.

    Args:
        path: of its record; None when there is none.
    """
    path = path or folder.root / f"{exhibit.form}s" / f"{exhibit.name}.json"
    record = folder.record(path)
    line = str((record or {}).get("line", ""))
    blocks: list[Block] = []
    drawing, lost = Markup(""), ""
    if record is None:
        lost = f"{folder.name(path)} is missing or broken, so this {exhibit.form} is not shown."
    elif exhibit.form == "table":
        try:
            blocks = html.blocks(Sheet.of_json(record["sheet"]), exhibit.name)
        except (KeyError, TypeError, ValueError):
            lost = f"{folder.name(path)} holds no table, so there is none to show: {AGAIN}."
    else:
        drawing, lost = _drawing(folder, path.with_suffix(".svg"), str(record.get("svg")))
    others = (n for n, one in enumerate(blocks) if one.kind == "heading" and one.html.startswith(REFERENCE))
    own = next(others, len(blocks))
    shown = Shown(
        name=exhibit.name,
        form=exhibit.form,
        title=exhibit.title,
        caption=markup.inline(exhibit.caption),
        line=line,
        blocks=blocks[:own],
        reference=blocks[own:],
        drawing=drawing,
        lost=lost,
        missing=said(record or {}, "missing"),
        problems=said(record or {}, "problems"),
        links=links(folder, path, exhibit),
    )
    return shown, record


def absent(folder: Folder, exhibit: specs.Exhibit, study: str, config: dict[str, Any]) -> Absent:
    """A table or figure that was not asked for, and how to ask."""
    path = folder.root / f"{exhibit.form}s" / f"{exhibit.name}.json"
    return Absent(exhibit.name, exhibit.title, command(study, config, exhibit.name), links(folder, path, exhibit))


def command(study: str, config: dict[str, Any], target: str = "", **more: str) -> str:
    """The call of snakemake that makes a target, or all, of the study as it was configured.

    Args:
        config: whose seeds, preset and backbones are passed on where they are not the usual ones.
        more: further keys for `--config`, which come last.
    """
    changed = {key: config[key] for key, usual in USUAL.items() if config.get(key, usual) not in (None, usual)}
    given = {"study": study, **changed, **more}
    pairs = [shlex.quote(f"{key}={_flow(value)}") for key, value in given.items()]
    return " ".join(["snakemake --cores all", *([target] if target else []), "--config", *pairs])


def _flow(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _drawing(folder: Folder, path: Path, digest: str) -> tuple[Markup, str]:
    """A figure as it was made. One that was changed since is not shown: it might run or load something."""
    text = folder.text(path)
    if text is None:
        return Markup(""), f"{folder.name(path)} is missing, so there is no figure to show."
    if sha256(path) != digest:
        folder.say(path, "is not the drawing that was made")
        return Markup(""), f"{folder.name(path)} was changed after it was made, so it is not shown."
    return Markup(text), ""


def links(folder: Folder, record: Path, exhibit: specs.Exhibit) -> list[Link]:
    """The files of a table or figure that are there."""
    paths = [record.with_suffix(f".{ending}") for ending in FILES[exhibit.form]]
    return [Link(path.suffix[1:], folder.link(path)) for path in paths if path.exists()]

"""Rule `figures`: a figure of the paper as CSV, SVG and PNG, ours beside what the paper prints.

The CSV is tidy: one row per point, with its source file; the figure is drawn from these rows. A point without
result is empty there and is not drawn; the figure names it. Adding a figure is adding an entry to `figures` in
studies/exhibits.yaml, adding a kind is a class of `grace.report.plots` and its line in KINDS.
"""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from grace.config import specs
from grace.jobs import manifest, stage
from grace.jobs.files import sha256, writing
from grace.paper.checks import listed
from grace.report.plots import ablations, style, tradeoffs
from grace.report.plots.marks import Mark, Plot, label, load_times, names
from grace.report.scoring.scores import load

KINDS: dict[str, type[Plot]] = {
    "scatter": tradeoffs.Scatter,
    "heatmap": ablations.Heatmap,
    "latency": tradeoffs.Latency,
    "progression": ablations.Progression,
    "bars": ablations.Bars,
    "lines": ablations.Lines,
    "pareto": tradeoffs.Pareto,
}
DPI = 150
NAMED = 5  # runs without result that are named below the figure; the record has them all


def build(spec: specs.FiguresSpec) -> tuple[Plot, list[Mark]]:
    """The results that a figure reads and the rows of its csv.

    Raises:
        UserError: for an ablation that does not vary what this kind of figure shows.
    """
    models, general = load(spec.cells, spec.bootstrap), load(spec.general, spec.bootstrap)
    plot = KINDS[spec.figure.kind](spec, models, general, load_times(spec.latency))
    return plot, plot.marks()


def draw(plot: Plot, marks: list[Mark]) -> Figure:
    """The figure with its notes; one that says so where there is nothing to show."""
    absent = left_out(marks)
    if not any(mark.drawn for mark in marks):
        figure, [[axes]] = style.canvas(1.4)
        style.nothing(axes, f"{plot.spec.figure.title}: no result yet.")
        style.annotate(figure, absent)
        return figure
    several = len({cell.seed for cell in plot.spec.cells}) > 1
    seeds = (
        "the csv has the deviation between seeds beside them"
        if several
        else "they say nothing about how another training would turn out"
    )
    resamples = f"Intervals are of {plot.spec.bootstrap} resamples of the items within each task; {seeds}."
    figure = plot.draw(marks)
    style.annotate(figure, [*absent, " ".join([*plot.notes(marks), resamples])])
    return figure


def left_out(marks: list[Mark]) -> list[str]:
    """A sentence that names the runs without result; empty when there are none."""
    planned: dict[str, list[str]] = {}  # run -> its backbones
    absent: dict[str, list[str]] = {}
    for one in marks:
        run = one.run or one.series
        planned.setdefault(run, []).append(str(one.backbone))
        if one.left_out:
            absent.setdefault(run, []).append(str(one.backbone))
    if not absent:
        return []
    single = len({one.backbone for one in marks if one.backbone}) == 1
    named = [
        run if single or set(on) == set(planned[run]) > {on[0]} else f"{run} on {listed(dict.fromkeys(on))}"
        for run, on in absent.items()
    ]
    more = f" and {len(named) - NAMED} more, which the csv names" if len(named) > NAMED else ""
    return [f"No result: {'; '.join(named[:NAMED])}{more}."]


def sentence(plot: Plot, marks: list[Mark]) -> str:
    """Which runs are shown, of which backbones, and how many seeds are behind each."""
    shown = [one for one in marks if one.drawn and one.seeds]
    if not shown:
        return "No run of this study has a result here yet."
    of = {point.run: point.of for point in plot.spec.points}
    points: dict[str, set[str]] = {}
    for run in names(shown, "run"):
        points.setdefault(of.get(run, run), set()).add(run)
    runs = [run if found == {run} else f"{run} ({len(found)} points)" for run, found in points.items()]
    seeds = sorted(set(names(shown, "seeds")))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    where = listed(dict.fromkeys(label(name) for name in names(shown, "backbone")))
    return (
        f"Run{'s' * (len(runs) > 1)} {listed(dict.fromkeys(runs))} on {where}, {count} seed{'s' * (seeds != [1])} each."
    )


def record(plot: Plot, marks: list[Mark]) -> dict[str, Any]:
    """What the page says of the figure beside its picture."""
    shown, loaded = [one for one in marks if one.drawn and one.seeds], (plot.models, plot.general, plot.times)
    place = ("panel", "backbone", "run", "x", "y", "note")
    return {
        "missing": sorted({path for one in loaded for path in one.missing}),
        "problems": list(dict.fromkeys(problem.text for one in loaded for problem in one.problems)),
        "left_out": [{key: getattr(one, key) for key in place} for one in marks if one.left_out],
        "runs": names(shown, "run"),
        "seeds": sorted({cell.seed for cell in plot.spec.cells}),
        "backbones": names(shown, "backbone"),
        "title": plot.spec.figure.title,
        "caption": plot.spec.figure.caption,
        "line": sentence(plot, marks),
    }


def table(name: str, marks: list[Mark]) -> pd.DataFrame:
    """The csv: a row for each mark; numbers with four decimals."""
    frame = pd.DataFrame(marks, columns=[one.name for one in fields(Mark)]).drop(columns="planned")
    frame.insert(0, "figure", name)
    return frame.map(lambda cell: round(cell, 4) if isinstance(cell, float) else cell).astype({"seeds": "Int64"})


@stage.entry(specs.FiguresSpec, outputs=("csv", "svg", "png", "record"))
def main(spec: specs.FiguresSpec, paths: SimpleNamespace) -> None:
    plot, marks = build(spec)
    about = record(plot, marks)
    with matplotlib.rc_context({**style.RC, "svg.hashsalt": f"{spec.study}/{spec.name}"}):
        figure = draw(plot, marks)
        drawn = style.svg(figure, spec.name, spec.figure.title, f"{spec.figure.caption} {about['line']}")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    with writing(paths.csv) as temporary:
        table(spec.name, marks).to_csv(temporary, index=False)
    with writing(paths.svg) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    with writing(paths.png) as temporary:
        temporary.write_bytes(picture.getvalue())
    files = {path for cell in spec.cells + spec.general for path in cell.results} | set(spec.latency.values())
    made = manifest.make("figures", spec, sorted(path for path in files if Path(path).is_file()), paths.started)
    manifest.write_result(paths.record, made, svg=sha256(paths.svg), **about)


if __name__ == "__main__":
    main()

"""Rule `figures`: a figure of the paper as CSV, SVG and PNG, ours beside what the paper prints.

The CSV is tidy: one row per point, with its source file; the figure is drawn from these rows. A point without
result is empty there and is not drawn; the figure names it. Adding a figure is adding an entry to `figures` in
studies/exhibits.yaml, adding a kind is a module of `grace.report.plots` and its line in KINDS.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from grace import manifest, specs, stage
from grace.files import sha256, writing
from grace.paper.finding import listed
from grace.report.plots import bars, heatmap, latency, lines, pareto, progression, scatter, style, svg, times
from grace.report.plots.marks import FIELDS, Mark, Results, label, names
from grace.report.scoring.scores import load

KINDS: dict[str, Any] = {
    "scatter": scatter,
    "heatmap": heatmap,
    "latency": latency,
    "progression": progression,
    "bars": bars,
    "lines": lines,
    "pareto": pareto,
}
DPI = 150
NAMED = 5  # runs without result that are named below the figure; the record has them all


def build(spec: specs.FiguresSpec) -> tuple[Results, list[Mark]]:
    """The results that a figure reads and the rows of its csv.

    Raises:
        UserError: for an ablation that does not vary what this kind of figure shows.
    """
    results = Results(
        spec=spec,
        models=load(spec.cells, spec.bootstrap),
        general=load(spec.general, spec.bootstrap),
        times=times.load(spec.latency),
    )
    return results, KINDS[spec.figure.kind].marks(results)


def draw(results: Results, marks: list[Mark]) -> Figure:
    """The figure with its notes; one that says so where there is nothing to show."""
    kind = KINDS[results.spec.figure.kind]
    absent = left_out(marks)
    if not any(mark.drawn for mark in marks):
        figure = style.empty(f"{results.spec.figure.title}: no result yet.")
        style.annotate(figure, absent)
        return figure
    figure = kind.draw(results, marks)
    style.annotate(figure, [*absent, " ".join([*kind.notes(results, marks), _resamples(results)])])
    return figure


def left_out(marks: list[Mark]) -> list[str]:
    """A sentence that names the runs without result; empty when there are none."""
    gone: dict[str, list[str]] = {}
    for one in [one for one in marks if one.left_out]:
        gone.setdefault(one.run or one.series, []).append(str(one.backbone))
    if not gone:
        return []
    backbones = names([one for one in marks if one.backbone], "backbone")
    every = {run: set(names([one for one in marks if (one.run or one.series) == run], "backbone")) for run in gone}
    said = [
        run if len(backbones) == 1 or set(on) == every[run] > {on[0]} else f"{run} on {listed(dict.fromkeys(on))}"
        for run, on in gone.items()
    ]
    more = f" and {len(said) - NAMED} more, which the csv names" if len(said) > NAMED else ""
    return [f"No result: {'; '.join(said[:NAMED])}{more}."]


def _resamples(results: Results) -> str:
    seeds = {cell.seed for cell in results.spec.cells}
    between = (
        "they say nothing about how another training would turn out"
        if len(seeds) < 2
        else "the csv has the deviation between seeds beside them"
    )
    return f"Intervals are of {results.spec.bootstrap} resamples of the items within each task; {between}."


def sentence(results: Results, marks: list[Mark]) -> str:
    """Which runs are shown, of which backbones, and how many seeds are behind each."""
    shown = [one for one in marks if one.drawn and one.seeds]
    if not shown:
        return "No run of this study has a result here yet."
    of = {point.run: point.of for point in results.spec.points}
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


def record(results: Results, marks: list[Mark]) -> dict[str, Any]:
    """What the page says of the figure beside its picture."""
    spec, shown = results.spec, [one for one in marks if one.drawn and one.seeds]
    loaded = (results.models, results.general, results.times)
    return {
        "missing": sorted({path for one in loaded for path in one.missing}),
        "problems": list(dict.fromkeys(problem.text for one in loaded for problem in one.problems)),
        "left_out": [
            {"panel": one.panel, "backbone": one.backbone, "run": one.run, "x": one.x, "y": one.y, "note": one.note}
            for one in marks
            if one.left_out
        ],
        "runs": names(shown, "run"),
        "seeds": sorted({cell.seed for cell in spec.cells}),
        "backbones": names(shown, "backbone"),
        "title": spec.figure.title,
        "caption": spec.figure.caption,
        "line": sentence(results, marks),
    }


@stage.entry(specs.FiguresSpec, outputs=("csv", "svg", "png", "record"))
def main(spec: specs.FiguresSpec, paths: SimpleNamespace) -> None:
    results, marks = build(spec)
    about = record(results, marks)
    with matplotlib.rc_context({**style.RC, "svg.hashsalt": f"{spec.study}/{spec.name}"}):
        figure = draw(results, marks)
        described = f"{spec.figure.caption} {about['line']}"
        drawn = svg.render(figure, spec.name, spec.figure.title, described)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    with writing(paths.csv) as temporary:
        frame = pd.DataFrame([mark.row(spec.name) for mark in marks], columns=FIELDS)
        frame.astype({"seeds": "Int64"}).to_csv(temporary, index=False)
    with writing(paths.svg) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    with writing(paths.png) as temporary:
        temporary.write_bytes(picture.getvalue())
    files = [path for cell in spec.cells + spec.general for path in cell.results] + list(spec.latency.values())
    made = manifest.make("figures", spec, sorted(path for path in set(files) if Path(path).is_file()), paths.started)
    manifest.write_result(paths.record, made, svg=sha256(paths.svg), **about)


if __name__ == "__main__":
    main()

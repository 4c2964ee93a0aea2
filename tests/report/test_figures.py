"""The stage `figures`: every kind from result files to csv, svg, png and record."""

from __future__ import annotations

import json
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from matplotlib.text import Text

from grace.report import figures
from grace.report.plots import style
from grace.report.plots.marks import Mark
from tests.report.plots import made

NAMES = ("figure1", "figure3", "figure4", "figure5", "figure6", "figure7", "budget", "pareto")
FORMS = ("csv", "svg", "png", "record")
FIELDS = "figure panel series backbone run x x_low x_high y ours low high seeds seed_sd paper note source"


def fill(spec, without=()) -> None:
    """Every result that a figure reads, with scores that differ, but those of some runs."""
    for place, cell in enumerate(spec.cells):
        if cell.run not in without:
            made.evaluate(cell, spec.tasks, 0.3 + 0.02 * (place % 9), tokens=20.0 + place, own=place + 1)
    for place, cell in enumerate(spec.general):
        made.general(cell, {"docstring_perplexity": 80.0, "docstring_choice": 0.4 + 0.05 * place}, 0.9)
    for path in spec.latency.values():
        made.timed(path, (20, 40))


def write(spec, folder):
    paths = {form: folder / f"{spec.name}.{'json' if form == 'record' else form}" for form in FORMS}
    figures.main(["--spec", spec.model_dump_json(), *(f"--{form}={path}" for form, path in paths.items())])
    return paths


def boxes(figure, monkeypatch) -> list[tuple[str, object]]:
    """The texts that are really drawn, with the box of each."""
    drawn: list[Text] = []
    draw = Text.draw

    def spy(self, renderer):
        drawn.append(self)
        draw(self, renderer)

    monkeypatch.setattr(Text, "draw", spy)
    figure.canvas.draw()
    shown = [one for one in drawn if one.get_visible() and one.get_text().strip()]
    return [(one.get_text(), Text.get_window_extent(one)) for one in dict.fromkeys(shown)]


@pytest.mark.parametrize("name", NAMES)
def test_no_text_covers_another_or_leaves_the_figure(tmp_path, monkeypatch, name):
    spec = made.spec(name, tmp_path)
    fill(spec)
    with matplotlib.rc_context(style.RC):
        figure = figures.draw(*figures.build(spec))
        found = boxes(figure, monkeypatch)
    width, height = figure.canvas.get_width_height()
    assert len(found) > 10
    for text, box in found:
        assert box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1, text
    for (one, a), (other, b) in combinations(found, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, f"{one!r} covers {other!r}"


@pytest.mark.parametrize("name", NAMES)
def test_without_any_result_a_figure_says_so(tmp_path, name):
    paths = write(made.spec(name, tmp_path / "nothing"), tmp_path)
    said = "".join(ElementTree.parse(paths["svg"]).getroot().itertext())
    record = json.loads(paths["record"].read_text())
    assert "No result:" in said and (name == "figure3" or "no result yet" in said)
    assert record["line"] == "No run of this study has a result here yet." and record["missing"]
    assert record["left_out"] and not record["runs"]
    assert pd.read_csv(paths["csv"])["ours"].isna().all()


def test_the_stage_writes_everything_and_repeats_byte_for_byte(tmp_path):
    spec = made.spec("figure6", tmp_path, seeds=[0, 1])
    fill(spec, without=("grace.pooling-max",))
    paths, again = write(spec, tmp_path), write(spec, tmp_path / "again")
    for form in ("csv", "svg", "png"):
        assert paths[form].read_bytes() == again[form].read_bytes(), form
    frame = pd.read_csv(paths["csv"])
    assert list(frame.columns) == FIELDS.split() and len(frame) == 8 and set(frame["figure"]) == {"figure6"}
    ours = frame.set_index("run")["ours"]
    assert ours.isna().sum() == 1 and pd.isna(ours["grace.pooling-max"])
    places = [place for place, cell in enumerate(spec.cells) if cell.run == "grace.pooling-eos"]
    assert ours["grace.pooling-eos"] == pytest.approx(sum(30 + 2 * (place % 9) for place in places) / 2, abs=1e-3)
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    said = [text for text in ElementTree.parse(paths["svg"]).getroot().itertext() if text.strip()]
    assert "mean-penultimate" in said and f"{ours['grace.pooling-eos']:.1f}" in said
    assert any(text.startswith("No result: grace.pooling-max.") for text in said)
    record = json.loads(paths["record"].read_text())
    assert record["manifest"]["stage"] == "figures" and record["manifest"]["content"]
    assert len(record["manifest"]["inputs"]) == 16 and len(record["missing"]) == 2
    assert [one["run"] for one in record["left_out"]] == ["grace.pooling-max"]
    assert (record["seeds"], record["backbones"], record["problems"]) == ([0, 1], ["tiny"], [])
    assert record["line"] == "Runs grace (3 points) and grace-unsup (4 points) on tiny, 2 seeds each."
    assert (record["title"], record["caption"]) == (spec.figure.title, spec.figure.caption)


def test_a_row_has_four_decimals_and_nothing_where_a_number_is_missing():
    frame = figures.table("figure9", [Mark(panel="p", series="s", x=1.0, ours=1 / 3, planned=False)])
    assert frame.to_csv(index=False).splitlines() == [FIELDS.replace(" ", ","), "figure9,p,s,,,1.0,,,,0.3333,,,,,,,"]


def test_a_figure_whose_ablations_are_dropped_still_comes(tmp_path):
    spec = made.spec("figure6", tmp_path).model_copy(update={"points": []})
    said = "".join(ElementTree.parse(write(spec, tmp_path)["svg"]).getroot().itertext())
    assert "no result yet" in said


def test_an_ablation_of_another_kind_is_one_sentence(tmp_path):
    spec = made.spec("figure5", tmp_path).model_copy(update={"points": made.spec("figure6", tmp_path).points})
    with pytest.raises(SystemExit, match=r"^error: config: figures\.figure5\.ablations: .*name another\.$"):
        write(spec, tmp_path)


def test_many_missing_runs_are_counted(tmp_path):
    spec = made.spec("figure3", tmp_path)
    [said] = figures.left_out(figures.build(spec)[1])
    assert said.startswith("No result: grace.lambda1-0.lambda2-0; ")
    assert said.endswith(" and 13 more, which the csv names.")

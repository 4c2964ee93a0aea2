"""Embeddings against generation: marks by hand, the front against a slow search, and the drawing."""

import json
from itertools import pairwise

import numpy as np
import pytest

from grace import specs
from grace.report.plots import pareto
from grace.report.plots.marks import Results, among
from grace.report.plots.times import load as no_times
from grace.report.scoring.scores import load
from tests.report import traded


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("pareto")
    made = traded.spec(root, only=("base", "cl-long", "adapter", "fence-direct")).traded
    traded.fill(made)
    spec = json.loads(traded.plan().spec_figures("pareto"))
    spec |= {"bootstrap": 50, "cells": made.cells, "general": made.general, "points": made.points}
    spec = specs.FiguresSpec.model_validate(spec)
    return Results(spec, load(spec.cells, 50), load(spec.general, 50), no_times({}))


def test_a_mark_for_each_run_and_mode_and_one_for_each_of_its_seeds(results):
    found = pareto.marks(results)
    assert len(among(found, series="mean")) == 2 + 2 * 3 and len(found) == 4 * (2 + 2 * 3)
    [mean] = among(found, series="mean", run="adapter.reasoning")
    assert (mean.x, mean.ours) == pytest.approx((0.0, 100 * (0.36 + 2.5) / 6)) and mean.y == "reasoning"
    seeds = [among(found, series=f"seed {seed}", run="adapter.reasoning")[0].ours for seed in (0, 1, 2)]
    assert np.mean(seeds) == pytest.approx(mean.ours) and np.std(seeds, ddof=1) == pytest.approx(mean.seed_sd)
    [cl] = among(found, series="mean", run="cl-long")
    assert cl.x == pytest.approx(150.0) and "only 0 % of its rationales are well formed" in cl.note


def test_the_front_is_what_no_other_beats():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = [tuple(map(float, point)) for point in rng.integers(0, 6, (12, 2))]
        slow = {
            one for one in points
            if not any(a >= one[0] and b >= one[1] and (a, b) != one for a, b in points)
        }  # fmt: skip
        found = [points[place] for place in pareto.front(points)]
        assert set(found) == slow and len(found) == len(slow)
        assert all(a[0] > b[0] and a[1] < b[1] for a, b in pairwise(found))
    assert pareto.front([]) == []


def test_the_drawing_has_the_front_and_names_the_runs_that_lost_their_format(results):
    found = pareto.marks(results)
    figure = pareto.draw(results, found)
    [axes] = [axes for axes in figure.axes if axes.get_visible()]
    assert axes.xaxis_inverted() and axes.get_xscale() == "symlog"
    front = max(axes.lines, key=lambda line: len(line.get_xdata()))
    assert list(front.get_xdata()) == pytest.approx([0.0, 150.0])  # the adapter and cl-long
    assert "Of cl-long fewer than 90 % of the rationales are well formed." in pareto.notes(results, found)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["embeds directly", "embeds after a rationale"] and "fence-direct" in labels


def test_without_perplexity_it_is_the_general_average(results):
    general = {key: [one for one in seeds] for key, seeds in results.general.items()}
    for seeds in general.values():
        for one in seeds:
            one.scores = {name: score for name, score in one.scores.items() if name != "docstring_perplexity"}
    assert pareto.generation(pareto.trade(results)) == "general_change"
    [mean] = among(pareto.marks(results), series="mean", run="adapter")
    assert mean.x == pytest.approx(0.0)
    figure = pareto.draw(results, pareto.marks(results))
    assert not figure.axes[0].xaxis_inverted()

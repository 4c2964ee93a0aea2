"""Figures 1 and 4 and the Pareto front: both scores by hand, times, arrows, what no other model beats."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from grace.config import specs
from grace.paper import numbers
from grace.report import figures
from grace.report.plots import tradeoffs
from grace.report.plots.marks import PAPER, Times, among
from grace.report.plots.tradeoffs import Latency, Pareto
from grace.report.scoring.scores import Models, load
from tests.report import traded
from tests.report.plots import made

# ---- scatter (figure 1) -----------------------------------------------------------------------------

SIX = dict.fromkeys(numbers.GENERAL.values(), 0.4)


def scattered(spec, general=None, without=()):
    """A figure with general results too."""
    for cell in spec.general:
        made.general(cell, general or {"docstring_perplexity": 80.0, "docstring_choice": 0.5}, 0.9)
    return made.filled(spec, without=without)


def test_in_the_demo_generation_is_multiple_choice_and_well_formed_rate(tmp_path):
    plot, marks = scattered(made.spec("figure1", tmp_path))
    found = {one.run: one for one in marks}
    assert list(found) == list(plot.spec.figure.rows)
    assert found["base"].x == pytest.approx(70)  # of 50 and 90 percent; a perplexity is none
    assert found["base"].ours == pytest.approx(30) and found["reasoning"].x == found["base"].x
    assert found["base"].x_low < 70 < found["base"].x_high
    [axes] = plot.draw(marks).axes
    assert axes.get_xlabel() == "generative score: mean of multiple choice accuracy and well-formed rate (%)"
    assert len(axes.lines) == 6 and len(axes.collections) == 12  # points; intervals of both scores
    [arrow] = axes.texts
    assert arrow.arrow_patch and arrow.xy == pytest.approx((found["grace"].x, found["grace"].ours))


def test_the_papers_points_stand_on_the_same_axes(tmp_path):
    plot, marks = scattered(made.spec("figure1", tmp_path, "paper", backbones=["qwen2.5-3b"]), SIX)
    ours = {one.run: one for one in marks if one.series != PAPER}
    papers = {one.run: one for one in marks if one.series == PAPER}
    assert ours["grace"].x == pytest.approx(40) and set(papers) == {"base", "reasoning", "cl", "grace"}
    row = [numbers.printed("table1", "qwen2.5-3b", "grace", name) for name in numbers.COUNTS]
    assert papers["grace"].paper == pytest.approx(np.average(row, weights=[15, 4, 11, 3, 12, 10, 1]))
    assert papers["grace"].ours is None and "54.74" in papers["grace"].note
    assert papers["grace"].x == numbers.printed("table5", "qwen2.5-3b", "grace_sup", "Avg")
    assert papers["reasoning"].x == papers["base"].x
    [axes] = plot.draw(marks).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 4 and len(axes.lines) == 10 and len(axes.texts) == 2


def test_other_tasks_than_the_papers_are_not_set_beside_it(tmp_path):
    plot, marks = scattered(made.spec("figure1", tmp_path, "paper", backbones=["qwen2.5-3b"]), {"gsm8k": 0.4})
    assert not among(marks, series=PAPER)
    assert marks[0].x == pytest.approx(65)  # of 40 and 90
    assert any("left out" in note for note in plot.notes(marks))


def test_a_point_without_one_of_its_scores_is_left_out(tmp_path):
    plot, marks = scattered(made.spec("figure1", tmp_path), without=("grace",))
    [grace] = among(marks, run="grace")
    assert grace.left_out and grace.ours is None and grace.x is not None
    assert not plot.draw(marks).axes[0].texts  # no arrow


# ---- Pareto front -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pareto(tmp_path_factory):
    root = tmp_path_factory.mktemp("pareto")
    compared = traded.spec(root, only=("base", "cl-long", "adapter", "fence-direct")).traded
    traded.fill(compared)
    spec = json.loads(traded.plan().spec_figures("pareto"))
    spec |= {"bootstrap": 50, "cells": compared.cells, "general": compared.general, "points": compared.points}
    spec = specs.FiguresSpec.model_validate(spec)
    return Pareto(spec, load(spec.cells, 50), load(spec.general, 50), Times())


def test_a_mark_for_each_run_and_mode_and_one_for_each_of_its_seeds(pareto):
    found = pareto.marks()
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
        slow = {(x, y) for x, y in points if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)}
        found = [points[place] for place in tradeoffs.front(points)]
        assert set(found) == slow and len(found) == len(slow)
        assert all(a[0] > b[0] and a[1] < b[1] for a, b in pairwise(found))
    assert tradeoffs.front([]) == []


def test_the_drawing_has_the_front_and_names_the_runs_that_lost_their_format(pareto):
    marks = pareto.marks()
    figure = pareto.draw(marks)
    [axes] = [axes for axes in figure.axes if axes.get_visible()]
    assert axes.xaxis_inverted() and axes.get_xscale() == "symlog"
    front = max(axes.lines, key=lambda line: len(line.get_xdata()))
    assert list(front.get_xdata()) == pytest.approx([0.0, 150.0])  # the adapter and cl-long
    assert "Of cl-long fewer than 90 % of the rationales are well formed." in pareto.notes(marks)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["embeds directly", "embeds after a rationale"] and "fence-direct" in labels


def test_without_perplexity_it_is_the_general_average(pareto):
    general = {
        key: [
            replace(one, scores={k: v for k, v in one.scores.items() if k != "docstring_perplexity"}) for one in seeds
        ]
        for key, seeds in pareto.general.items()
    }
    plot = replace(pareto, general=Models(general))
    assert plot.generation == "general_change"
    [mean] = among(plot.marks(), series="mean", run="adapter")
    assert mean.x == pytest.approx(0.0)
    assert not plot.draw(plot.marks()).axes[0].xaxis_inverted()


# ---- latency (figure 4) -----------------------------------------------------------------------------

SCORES = {"encoder": 0.42, "base": 0.30, "reasoning": 0.35, "grace": 0.5}
SCORES |= {"reasoning.max_new_tokens-20": 0.34, "grace.max_new_tokens-20": 0.48}


def timed(spec, budgets=(20, 40), without=()):
    """A figure with times too, and the marks of its scores by series."""
    for path in spec.latency.values():
        made.timed(path, budgets)
    plot, marks = made.filled(spec, SCORES, without)
    return plot, marks, {one.series: one for one in among(marks, panel=Latency.SCORE)}


def test_a_score_stands_at_the_time_of_its_system(tmp_path):
    _, _, found = timed(made.spec("figure4", tmp_path))
    direct, short, long = (found[name] for name in ("direct", "grace, 20 tokens", "grace, 40 tokens"))
    assert (direct.run, direct.ours, direct.x) == ("base", pytest.approx(30), pytest.approx(0.021))
    assert (short.run, short.ours) == ("grace.max_new_tokens-20", pytest.approx(48))
    assert (long.run, long.x, long.x_low) == ("grace", pytest.approx(0.501), pytest.approx(0.8 * 0.501))


def test_the_encoder_has_its_own_score_where_it_has_a_row(tmp_path):
    spec = made.spec("figure4", tmp_path, "single-gpu")
    assert {cell.run for cell in spec.cells} >= {"encoder", "base", "grace"}
    score = timed(spec)[2]["encoder only"]
    assert (score.run, score.ours, score.x) == ("encoder", pytest.approx(42), pytest.approx(0.007))
    without = timed(made.spec("figure4", tmp_path))[2]["encoder only"]
    assert without.ours is None and without.note == "not part of this study" and not without.left_out


def test_bars_are_stacked_and_points_drawn(tmp_path):
    plot, marks, _ = timed(made.spec("figure4", tmp_path), without=("reasoning",))
    left, right = plot.draw(marks).axes
    assert len(left.patches) == 6 * 3
    widths = [one.get_width() for one in left.patches[-3:]]
    assert widths == pytest.approx([0.02, 0.48, 0.001]) and left.patches[-1].get_x() == pytest.approx(0.5)
    assert [one.get_text() for one in left.texts] == ["7 ms", "21 ms", "261 ms", "501 ms", "261 ms", "501 ms"]
    assert right.get_xscale() == "log" and sum(len(one.get_xdata()) for one in right.lines) == 4


def test_a_budget_that_is_not_evaluated_is_no_missing_result(tmp_path):
    plot, marks, found = timed(made.spec("figure4", tmp_path), budgets=(20, 30))
    late = [one for series, one in found.items() if series.endswith(" 30 tokens")]
    assert [one.ours for one in late] == [None, None] and not any(one.left_out for one in late)
    assert any("reasoning, 30 tokens, grace, 30 tokens" in note for note in plot.notes(marks))


def test_a_backbone_that_is_not_timed_is_named(tmp_path):
    spec = made.spec("figure4", tmp_path, "paper", backbones=["qwen2.5-3b", "qwen3-4b"])
    made.timed(spec.latency["qwen2.5-3b"], (256,))
    plot, marks = figures.build(spec)
    assert [one.backbone for one in marks if one.series == "all systems"] == ["qwen3-4b"]
    assert "all systems on qwen3-4b" in figures.left_out(marks)[0]
    assert [one.get_text() for one in plot.draw(marks).axes[2].texts] == ["no result"]


def test_seconds_read_well():
    assert list(map(tradeoffs.seconds, (0.00712, 0.5, 1.234, 61.5))) == ["7.12 ms", "500 ms", "1.23 s", "61.5 s"]

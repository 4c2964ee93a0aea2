"""Figure 4: seconds by part, and scores that stand at the right time."""

from __future__ import annotations

import pytest

from grace.report import figures
from grace.report.plots import latency
from tests.report.plots import made

SCORES = {
    "encoder": 0.42,
    "base": 0.30, "reasoning": 0.35, "reasoning.max_new_tokens-20": 0.34, "grace": 0.5, "grace.max_new_tokens-20": 0.48,
}  # fmt: skip


def filled(spec, budgets=(20, 40), without=()):
    for cell in spec.cells:
        if cell.run in SCORES and cell.run not in without:
            made.evaluate(cell, spec.tasks, SCORES[cell.run])
    for path in spec.latency.values():
        made.timed(path, budgets)
    return figures.build(spec)


def test_a_score_stands_at_the_time_of_its_system(tmp_path):
    _, marks = filled(made.spec("figure4", tmp_path))
    found = {one.series: one for one in marks if one.panel == latency.SCORE}
    assert (found["direct"].run, found["direct"].ours) == ("base", pytest.approx(30))
    assert found["direct"].x == pytest.approx(0.021)
    assert (found["grace, 20 tokens"].run, found["grace, 20 tokens"].ours) == (
        "grace.max_new_tokens-20", pytest.approx(48),
    )  # fmt: skip
    assert (found["grace, 40 tokens"].run, found["grace, 40 tokens"].x) == ("grace", pytest.approx(0.501))
    assert found["grace, 40 tokens"].x_low == pytest.approx(0.8 * 0.501)


def test_the_encoder_has_its_own_score(tmp_path):
    spec = made.spec("figure4", tmp_path, "single-gpu")
    assert {cell.run for cell in spec.cells} >= {"encoder", "base", "grace"}
    _, marks = filled(spec)
    score = next(one for one in marks if one.panel == latency.SCORE and one.series == "encoder only")
    assert (score.run, score.ours, score.x) == ("encoder", pytest.approx(42), pytest.approx(0.007))


def test_an_encoder_without_a_row_has_a_time_alone(tmp_path):
    _, marks = filled(made.spec("figure4", tmp_path))
    score = next(one for one in marks if one.panel == latency.SCORE and one.series == "encoder only")
    assert score.ours is None and score.note == "not part of this study" and not score.left_out


def test_bars_are_stacked_and_points_drawn(tmp_path):
    results, marks = filled(made.spec("figure4", tmp_path), without=("reasoning",))
    left, right = latency.draw(results, marks).axes
    assert len(left.patches) == 6 * 3
    widths = [one.get_width() for one in left.patches[-3:]]
    assert widths == pytest.approx([0.02, 0.48, 0.001]) and left.patches[-1].get_x() == pytest.approx(0.5)
    assert [one.get_text() for one in left.texts] == ["7 ms", "21 ms", "261 ms", "501 ms", "261 ms", "501 ms"]
    assert right.get_xscale() == "log" and sum(len(one.get_xdata()) for one in right.lines) == 4


def test_a_budget_that_is_not_evaluated_is_no_missing_result(tmp_path):
    results, marks = filled(made.spec("figure4", tmp_path), budgets=(20, 30))
    late = [one for one in marks if one.panel == latency.SCORE and one.series.endswith(" 30 tokens")]
    assert [one.ours for one in late] == [None, None] and not any(one.left_out for one in late)
    assert any("reasoning, 30 tokens, grace, 30 tokens" in note for note in latency.notes(results, marks))


def test_a_backbone_that_is_not_timed_is_named(tmp_path):
    spec = made.spec("figure4", tmp_path, "paper", backbones=["qwen2.5-3b", "qwen3-4b"])
    made.timed(spec.latency["qwen2.5-3b"], (256,))
    results, marks = figures.build(spec)
    assert [one.backbone for one in marks if one.series == "all systems"] == ["qwen3-4b"]
    assert "all systems on qwen3-4b" in figures.left_out(marks)[0]
    figure = latency.draw(results, marks)
    assert [one.get_text() for one in figure.axes[2].texts] == ["no result"]


def test_seconds_read_well():
    assert [latency.seconds(value) for value in (0.00712, 0.5, 1.234, 61.5)] == [
        "7.12 ms",
        "500 ms",
        "1.23 s",
        "61.5 s",
    ]

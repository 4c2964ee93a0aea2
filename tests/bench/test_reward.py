"""Scores against scikit-learn and scipy, and the rule for rationales on cases that a reader can judge."""

import json
from argparse import Namespace

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from bench import reward
from bench.ceiling import ndcg_of_each
from grace.encoder.encoder import Rationale


def said(text: str, truncated: bool = False) -> Rationale:
    return Rationale(text, [1], truncated, False)


def test_ndcg_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    scores, relevant = random.random((5, 30)), random.random((5, 30)) < 0.2
    assert ndcg_of_each(scores, relevant) == pytest.approx(
        [ndcg_score([gold], [row], k=10) for gold, row in zip(relevant, scores, strict=True)]
    )


@pytest.mark.parametrize(
    "rationale, truncated, right",
    [
        ("A woman plays the guitar for children.", False, True),
        ("A woman plays the guitar for children.", True, False),  # not finished
        ("The text describes a classic example of human creativity.", False, False),  # about anything
        ("woman", False, False),  # says nothing
        ("The woman played a guitar. The woman played a guitar.", False, False),  # loops
        ("", False, False),
    ],
)
def test_a_rationale_is_acceptable(rationale, truncated, right):
    assert reward.acceptable("A woman is playing the guitar to some children.", said(rationale, truncated)) is right


def test_the_share_of_words_from_the_text():
    assert reward.about("Dogs were barking loudly", "barks loud: barking, loudly, music") == pytest.approx(4 / 5)


def kept(run: str, seed: int, right: float) -> dict:
    random = np.random.default_rng(seed)
    items = {name: (random.random(40) < right).astype(float).tolist() for name in ("pairs", "banking", "cacm")}
    gold = random.random(30)
    items["sts"] = (gold + random.random(30)).tolist()
    return {"run": run, "seed": seed, "items": items, "gold": gold.tolist()}


def test_the_table_of_a_run_and_its_control(tmp_path, capsys):
    for one in [
        kept("grace", 0, 0.9),
        kept("grace", 1, 0.9),
        kept("random", 0, 0.4),
        kept("random", 1, 0.4),
        kept("base", 0, 0.4),
    ]:
        (tmp_path / f"{one['run']}.seed{one['seed']}.json").write_text(json.dumps(one))
    given = Namespace(out=tmp_path, to=tmp_path / "docs", differences=["grace-over-random", "grace-over-base"])
    reward.table(given)
    frame = reward.pd.read_csv(tmp_path / "docs/differences.csv")
    first = frame[(frame.task == "pairs") & (frame.control == "random")].iloc[0]
    each = [
        100
        * (np.mean(kept("grace", seed, 0.9)["items"]["pairs"]) - np.mean(kept("random", seed, 0.4)["items"]["pairs"]))
        for seed in (0, 1)
    ]
    assert first.points == pytest.approx(np.mean(each), abs=1e-4) and 0 < first.low < first.points < first.high
    assert "| grace | 2 |" in capsys.readouterr().out and len(frame) == 10
    with pytest.raises(SystemExit, match="no scores of cl"):
        reward.table(Namespace(out=tmp_path, to=tmp_path / "docs", differences=["cl-over-base"]))

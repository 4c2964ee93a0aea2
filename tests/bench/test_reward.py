"""Scores against scikit-learn and scipy, and the rule for rationales on cases that a reader can judge."""

import json
from argparse import Namespace
from pathlib import Path

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


GOLD = np.arange(30) / 30


def data(folder: Path) -> Path:
    """Of STSBenchmark every tenth pair is taken."""
    path = folder / "data/stsbenchmark/validation.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"score": score}) + "\n" for score in GOLD for _ in range(10)))
    return folder / "data"


def kept(run: str, seed: int, right: float) -> dict:
    random = np.random.default_rng(seed)
    items = {name: (random.random(40) < right).astype(float).tolist() for name in ("pairs", "banking", "cacm")}
    items["sts"] = (GOLD + random.random(30)).tolist()
    return {"run": run, "seed": seed, "items": items}


def test_the_table_of_a_run_and_its_control(tmp_path, capsys):
    for one in [
        kept("grace", 0, 0.9),
        kept("grace", 1, 0.9),
        kept("random", 0, 0.4),
        kept("random", 1, 0.4),
        kept("base", 0, 0.4),
    ]:
        (tmp_path / f"{one['run']}.seed{one['seed']}.json").write_text(json.dumps(one))
    given = Namespace(
        out=tmp_path, to=tmp_path / "docs", data=data(tmp_path), differences=["grace-over-random", "grace-over-base"]
    )
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
        reward.table(Namespace(**{**vars(given), "differences": ["cl-over-base"]}))


def test_a_race_has_as_many_steps_as_fit(tmp_path, monkeypatch):
    """The trainings and the scoring are stood in for; the real ones ran on a tiny backbone (docs/measurements.md)."""
    trained, seen = {}, []

    def train(command, check):
        given = dict(zip(command[3::2], command[4::2], strict=True))
        spec = json.loads(given["--spec"])
        out = Path(given["--out"])
        trained[out.parent.name] = (spec["run"], spec["grace"]["max_steps"], spec["grace"]["instances"])
        out.parent.mkdir(parents=True)
        history = [{"step_time": "9.0"}, {"step_time": "2.0"}, {"step_time": "2.0"}, {"train_loss": 0}]
        out.write_text(json.dumps({"history": history}))

    def scored(plan, tasks, name, seed, model, out):
        seen.append((name, model.name))
        (out / f"{name}.seed{seed}.json").write_text(json.dumps(kept(name, seed, 0.5)))

    monkeypatch.setattr(reward.subprocess, "run", train)
    monkeypatch.setattr(reward, "scored", scored)
    monkeypatch.setattr(reward, "Tasks", lambda *_: None)
    given = [
        "race",
        "--study",
        "smoke",
        "--pairs",
        "p",
        "--data",
        str(data(tmp_path)),
        "--backbone",
        str(tmp_path / "backbone"),
    ]
    given += ["--rows", "r", "--out", str(tmp_path / "out"), "--seconds", "40"]
    given += ["--set", '{"grace": {"instances": 8}}', "grace-rollout", "grace-random"]
    monkeypatch.setattr("sys.argv", ["reward", *given])
    reward.main()
    assert trained == {
        "trial": ("grace-rollout", 3, 8), "grace-rollout": ("grace-rollout", 10, 8),
        "grace-random": ("grace-random", 10, 8),
    }  # fmt: skip
    assert seen == [
        ("grace-rollout", "grace-rollout"), ("grace-random", "grace-random"), ("reasoning", "backbone"),
        ("one-word", "backbone"),
    ]  # fmt: skip
    assert "grace-random" in (tmp_path / "out/tables/tables.md").read_text()

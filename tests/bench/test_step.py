"""The step's benchmark compares like with like, and a GRACE step keeps its limit on a toy model."""

import json
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from bench import step
from bench.step import EndAt

TOY = ["--random", "64x1", "--instances", "2", "--rollouts", "4", "--new", "12", "--steps", "2", "--repeats", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The benchmark's entry, and of both trainers' generations prompts and numbers of new tokens."""
    seen = {"Plain": [], "GraceTrainer": []}
    original = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        made = original(self, inputs)
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(made["prompt_ids"], made["prompt_mask"], strict=True)]
        seen[type(self).__name__].append((prompts, made["completion_mask"].sum(1).tolist()))
        return made

    path = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
        step.main([*TOY, "--json", str(path)])
    (entry,) = json.loads(path.read_text())
    return SimpleNamespace(entry=entry, plain=seen["Plain"], grace=seen["GraceTrainer"])


def test_both_trainers_write_as_many_tokens_for_the_same_prompts(run):
    assert len(run.plain) == len(run.grace) == 3 * 2  # steps, and a repeat, with one not counted each
    assert run.plain == run.grace
    lengths = [length for _, lengths in run.plain for length in lengths]
    assert min(lengths) >= 3 and max(lengths) <= 12 and len(set(lengths)) > 3


def test_a_step_keeps_its_limit(run):
    """About a third when this was written; slower by far only when something is done twice."""
    assert run.entry["name"] == "step_vs_limit" and 0 < run.entry["low"] <= run.entry["ratio"] <= run.entry["high"]
    assert run.entry["ratio"] < 1.1


def test_the_limit_is_made_of_the_plain_step(run):
    plain, grace = run.entry["split"]["plain"], run.entry["split"]["grace"]
    assert run.entry["limit"] == pytest.approx(1.5 * plain["generate"] + plain["update"], rel=0.3)  # medians of few
    assert plain["step"] >= plain["generate"] + plain["update"] - 0.3 * plain["step"]
    parts = ("generate", "pool", "reward", "other", "update")
    assert sum(grace[part] for part in parts) == pytest.approx(grace["step"], rel=0.3)


def test_a_row_ends_with_its_length_and_not_before():
    at = EndAt(3, torch.tensor([1, 2]), ends=[7, 0], end=7)
    first = at(torch.zeros(2, 3), torch.zeros(2, 9))
    assert torch.isfinite(first[0]).nonzero().flatten().tolist() == [7]
    assert torch.isinf(first[1]).nonzero().flatten().tolist() == [0, 7]
    assert at(torch.zeros(2, 4), torch.zeros(2, 9))[1].argmax() == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--random", "64"], "--random must be WIDTHxLAYERS, such as 384x8, not '64'"),
        (["--random", "64x1", "--shortest", "41"], "--shortest must lie between 1 and --new"),
        (["--backbone", "qwen3-5b"], "unknown backbone"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, sentence):
    with pytest.raises(SystemExit, match=f"error: .*{sentence}"):
        step.main(arguments)

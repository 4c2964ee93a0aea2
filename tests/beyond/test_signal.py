"""The signal in GRACE's gradient: against plain loops, and for rewards whose signal is known."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from grace.beyond import signal
from grace.beyond.signal import products, statistics
from grace.config.schema import RewardConfig
from grace.config.section import UserError
from grace.training.run import load
from grace.training.trainer import Embeddings, GraceTrainer, grpo_config
from tests.training.settings import grace_spec, rows


def trainer_of(folder, out, kind=GraceTrainer, reward=None, **changes):
    spec = grace_spec(reward=reward, **{"rollouts_per_forward": 8, **changes})
    model, tokenizer = load(folder, spec)
    data = rows(80)
    return kind(model, tokenizer, spec, data, grpo_config(spec, str(out), len(data)))


def test_gradient_is_that_of_a_plain_sum(tiny_folder, tmp_path):
    """Advantage times log-probability, one rollout at a time and unpadded, in double precision (eq. 19)."""
    trainer = trainer_of(tiny_folder, tmp_path, rollouts_per_forward=4)
    whole = next(signal.write_rollouts(trainer, 2, 0))
    part = whole.part(slice(2, 5), 3)
    advantage = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    advantage[1] = 0.0
    got = signal.gradient(trainer, part, advantage)

    model = trainer.model.double().eval()
    model.zero_grad()
    for row, weight in enumerate(advantage.flatten().tolist()):
        prompt, rollout = (
            part.inputs[f"{name}_ids"][row][part.inputs[f"{name}_mask"][row] == 1] for name in ("prompt", "completion")
        )
        logits = model(torch.cat((prompt, rollout)).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        (-weight * logits.log_softmax(-1).gather(1, rollout.unsqueeze(1)).sum()).backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(got.double() * 9 * trainer.max_completion_length, wanted, atol=2e-3, rtol=1e-3)


def test_smaller_batches_are_scored_among_themselves(tiny_folder, tmp_path):
    reward = RewardConfig(negatives="rollout", gamma=0.5)
    trainer = trainer_of(tiny_folder, tmp_path, reward=reward)
    whole = next(signal.write_rollouts(trainer, 2, 0))
    assert whole.failed.any() and not whole.failed.all()
    both = signal.advantages(trainer, whole)
    torch.testing.assert_close(both["reward"] + both["length"], trainer.advantages)
    part = whole.part(slice(0, 4), 3)
    at = whole.embeddings
    few = at._replace(query=at.query[:4], negatives=at.negatives[:4])
    again = trainer.score(few, at.positives[:4, :3], whole.failed[:4, :3])
    torch.testing.assert_close(
        sum(signal.advantages(trainer, part).values()), again.total - again.total.mean(1, keepdim=True)
    )


def test_length_part_is_the_rules(tiny_folder, tmp_path):
    """By hand: rewards 3 and 5 of two finished rollouts, -1 of a truncated one; spared, it would get 4."""
    trainer = trainer_of(tiny_folder, tmp_path, rollouts=3, rollouts_per_forward=3)

    class Given:
        total = torch.tensor([[3.0, 5.0, -1.0], [1.0, 2.0, 3.0]])

    trainer.score = lambda *_: Given
    truncated = torch.tensor([[False, False, True], [False, False, False]])
    at = signal.Rollouts({}, Embeddings(None, torch.zeros(2, 3, 4), None, None), truncated)
    got = signal.advantages(trainer, at)
    torch.testing.assert_close(got["reward"], torch.tensor([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]))
    torch.testing.assert_close(got["length"], torch.tensor([[5 / 3, 5 / 3, -10 / 3], [0.0, 0.0, 0.0]]))


class Towards(GraceTrainer):
    """Rewards a rollout for how much likelier it is after a step of the weights along `direction`, so that the gradient
    is known to lead there."""

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        trained = [p for p in self.model.parameters() if p.requires_grad]
        draw = torch.Generator().manual_seed(0)
        self.direction = [torch.randn(p.shape, generator=draw) for p in trained]
        texts = self.template.ids([row["prompt"] for row in self.rows])
        found = []
        for sign in (0.0, 0.02):
            with torch.no_grad():
                for p, v in zip(trained, self.direction, strict=True):
                    p += sign * v
                logps = []
                for prompt, ids in zip(texts, completion_ids_list, strict=True):
                    logits = self.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
                    logps.append(logits.log_softmax(-1).gather(1, torch.tensor(ids).unsqueeze(1)).sum())
                for p, v in zip(trained, self.direction, strict=True):
                    p -= sign * v
                found.append(torch.stack(logps))
        self.given = (found[1] - found[0]).view(-1, self.num_generations)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def score(self, at, positives, truncated):
        return super().score(at, positives, truncated)._replace(total=self.given)


def test_known_direction_and_no_direction(tiny_folder, tmp_path):
    found = {}
    none = RewardConfig(reward="random", gamma=None)
    for name, kind in (("towards", Towards), ("random", GraceTrainer)):
        trainer = trainer_of(tiny_folder, tmp_path / name, kind, reward=none, frozen=["proj", "embed"])
        (found[name],) = signal.measure(trainer, {name: trainer.spec}, [(8, 4)], 6)
        if name == "towards":  # a step against the gradient of the loss is one along the direction
            last = next(signal.write_rollouts(trainer, 2, 0))
            step = -signal.gradient(trainer, last, trainer.given - trainer.given.mean(1, keepdim=True))
            assert step @ torch.cat([v.flatten() for v in trainer.direction]) > 0
    towards, random = (found[name]["cosine"]["reward"] for name in ("towards", "random"))
    assert towards["interval"][0] > 0.2
    assert abs(random["value"]) < 0.1 and random["interval"][0] < 0.0 < random["interval"][1]
    assert found["random"]["cosine"]["length"] is None and found["random"]["length_share"] is None
    assert found["towards"]["length_share"]["value"] == 0


def test_command(tiny_folder, tmp_path, monkeypatch):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    out = tmp_path / "signal.json"
    given = ["--model", str(tiny_folder), "--rows", str(data), "--out", str(out), "--study", "smoke", "--batches", "2"]
    signal.main([*given, "--runs", "grace", "grace-random", "--instances", "4", "8", "--rollouts", "2"])
    made = json.loads(out.read_text())
    assert {(row["run"], row["instances"], row["batches"]) for row in made["sizes"]} == {
        (run, b, n) for run in ("grace", "grace-random") for b, n in ((4, 4), (8, 2))
    }
    assert all(np.isfinite(row["cosine"]["total"]["value"]) for row in made["sizes"])


def test_a_line_says_that_there_is_no_gradient():
    nothing = {"cosine": dict.fromkeys(("total", "reward", "length")), "length_of_norm": None}
    assert signal.line({"run": "grace", "instances": 4, "rollouts": 2, **nothing}).endswith(signal.NOTHING)


def test_runs_that_fail_other_rollouts_are_not_compared():
    one = grace_spec(reward=RewardConfig())
    signal.check_comparable({"a": one, "b": grace_spec(reward=RewardConfig(reward="random", gamma=None))})
    with pytest.raises(UserError, match=r"b differs from a in more than its reward \(but reward\.form\)"):
        signal.check_comparable({"a": one, "b": grace_spec(reward=RewardConfig(form=True))})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--runs", "cl"], "not trained by policy gradient"),
        (["--runs", "grace", "grace-unsup"], "measure it alone"),
        (["--instances", "16", "3"], "must divide"),
        (["--instances", "0"], "must divide"),
        (["--out", "nowhere/x.json"], "nowhere: no such folder; make it first"),
        (["--batches", "9"], "9 independent batches of 16"),
        (["--config", "nowhere.yaml"], "correct --config"),
        (["--model", "nowhere"], "correct --model"),
    ],
)
def test_wrong_input_is_one_sentence(tiny_folder, tmp_path, changes, said):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(20)))
    given = ["--model", str(tiny_folder), "--rows", str(data), "--out", str(tmp_path / "x.json"), "--study", "smoke"]
    with pytest.raises(SystemExit) as stopped:
        signal.main([*given, *changes])
    message = str(stopped.value)
    assert said in message and message.startswith("error: ") and "\n" not in message


def vectors(common, n=7, size=40, seed=0):
    """Gradients of n batches, in two parts, that have `common` of something in common."""
    draw = torch.Generator().manual_seed(seed)
    same = torch.randn(size, generator=draw)
    return {
        part: [share * common * same + torch.randn(size, generator=draw) for _ in range(n)]
        for part, share in (("reward", 1.0), ("length", 0.5))
    }


def test_statistics_against_a_loop():
    parts = vectors(1.0)
    got = statistics(products(parts), rollouts=32, seed=0)
    reward, length = ([v.double().tolist() for v in parts[name]] for name in ("reward", "length"))
    whole = [[a + b for a, b in zip(r, s, strict=True)] for r, s in zip(reward, length, strict=True)]

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def cosine(of):
        pairs = list(itertools.combinations(of, 2))
        return math.fsum(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in pairs) / len(pairs)

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    share = math.fsum(dot(length[i], whole[j]) for i, j in pairs) / math.fsum(dot(whole[i], whole[j]) for i, j in pairs)
    norms = math.fsum(dot(length[i], whole[i]) for i in range(7)) / math.fsum(dot(v, v) for v in whole)
    for name, of in (("total", whole), ("reward", reward), ("length", length)):
        assert got["cosine"][name]["value"] == pytest.approx(cosine(of), rel=1e-9)
    assert got["length_share"]["value"] == pytest.approx(share, rel=1e-9)
    assert got["length_of_norm"]["value"] == pytest.approx(norms, rel=1e-9)
    assert got["rollouts_for_half"] == pytest.approx(32 * (1 - cosine(whole)) / cosine(whole))


def test_intervals_hold_the_truth_nine_times_in_ten():
    """|signal|^2 / E |gradient|^2 of these vectors is known; the interval of few batches is narrow, but not blind."""
    held = 0
    for seed in range(40):
        parts = vectors(0.0, n=12, seed=seed)
        low, high = statistics(products(parts), 32, 0)["cosine"]["total"]["interval"]
        held += low <= 0 <= high
    assert held >= 32


def test_gradients_that_are_zero_have_no_cosine():
    parts = {part: [torch.ones(4), *[torch.zeros(4)] * 3] for part in ("reward", "length")}
    found = statistics(products(parts), rollouts=8, seed=0)
    assert found["batches"] == 4 and set(found["cosine"].values()) == {None}
    assert found["rollouts_for_half"] is found["length_share"] is found["length_of_norm"] is None


def test_products_do_not_depend_on_the_block(monkeypatch):
    parts = vectors(0.5)
    whole = products(parts)
    monkeypatch.setattr(signal, "BLOCK", 7)
    for pair, dots in products(parts).items():
        assert dots == pytest.approx(whole[pair], rel=1e-12)

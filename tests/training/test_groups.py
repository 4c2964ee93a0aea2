"""Groups of rationales: what they are scored by, what is chosen, what a kill and a batch leave alone."""

import json

import numpy as np
import pytest
import torch

from grace.encoder.engines.transformers import Rationales
from grace.encoder.loading import load_model
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.settings import Pooling, RewardConfig
from grace.training import groups
from grace.training.groups import chosen
from tests.training.settings import offline_spec, rows

RULES = RewardConfig(negatives="rollout", lambda1=0.3, lambda2=0.7, gamma=2.0)


def plain(model, prefix, sequence):
    """The embedding of a prompt and rationale by transformers' own forward pass."""
    with torch.no_grad():
        hidden = model(torch.tensor([sequence[:-1]]), output_hidden_states=True).hidden_states[-1][0]
    vector = hidden[prefix:].mean(0).double().numpy()
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("credit", ["positives", "all"])
def test_the_chosen_one_has_the_largest_reward(tiny_folder, tmp_path, monkeypatch, credit):
    """The reward anew: vectors by another forward pass, the formulas of docs/method.md in loops."""
    spec, seen, generate = offline_spec(RULES, credit=credit), [], groups.engine.generate

    def watched(model, prompts, **settings):
        made = generate(model, prompts, **settings)
        seen.append((prompts, made.token_ids))
        return made

    monkeypatch.setattr(groups.engine, "generate", watched)
    found = groups.write(spec, rows(16), tiny_folder, tmp_path)
    model, tokenizer = load_model(tiny_folder, "cpu")
    prefix = len(PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, 100).prefix)
    assert len(found) == (16 if credit == "positives" else 32)
    for batch, (prompts, written) in enumerate(seen):
        at = [plain(model, prefix, p + r) for p, r in zip(prompts, written, strict=True)]
        near = [at[32 + 2 * n] for n in range(8)]  # after the rollouts each row's q and d-, or d+ and d-
        for n, group in enumerate(found[8 * batch : 8 * batch + 8]):
            rewards = []
            for k in range(4):
                own, others = at[4 * n + k], [at[4 * n + j] for j in range(4) if j != k]
                terms = own @ near[n] - own @ at[32 + 2 * n + 1]
                terms += 0.3 * np.mean([own @ other for other in others])
                terms -= 0.7 * np.mean([own @ near[m] for m in range(8) if m != n])
                rewards.append(-2.0 if group["truncated"][k] else 10 * terms)
            np.testing.assert_allclose(group["rewards"], rewards, atol=1e-4)
            assert group["dealt"] == group["rewards"] and group["token_ids"] == written[4 * n : 4 * n + 4]
            finished = [k for k in range(4) if not group["truncated"][k]]
            if finished:
                best, worst = chosen(group)
                assert best == max(finished, key=lambda k: rewards[k])
                assert rewards[worst] == pytest.approx(min(rewards[k] for k in range(4) if k != best), abs=1e-4)


def test_both_sides_write_of_documents_and_of_queries(tiny_folder, tmp_path):
    data = rows(8)
    found = groups.write(offline_spec(credit="all"), data, tiny_folder, tmp_path)
    assert [(group["id"], group["text"]) for group in found] == [
        *((row["id"], row["positive"]) for row in data), *((f"{row['id']}/q", row["query"]) for row in data)
    ]  # fmt: skip


def composed(monkeypatch, reward, number, failed=()):
    """Groups of 64 made-up rows with random vectors; of each group the rationales `failed` do not end."""
    dice = np.random.default_rng(5)
    pooled = torch.tensor(dice.normal(size=(64 * 6, 8)), dtype=torch.float32)
    written = [[7, 8] if i < 256 and i % 4 in failed else [7, 2] for i in range(64 * 6)]

    class Template:
        prefix, tokenizer = (), None

        def ids(self, texts):
            return [[1]] * len(texts)

    monkeypatch.setattr(groups.engine, "end_tokens", lambda *_: [2])
    monkeypatch.setattr(groups.engine, "generate", lambda *_, **__: Rationales(written, torch.zeros(0), pooled))
    data = [{"id": str(n), "prompt": "d", "query": "q", "negatives": ["n"]} for n in range(64)]
    generator = torch.Generator().manual_seed(number)
    return groups.compose(None, Template(), offline_spec(reward), data, generator)


def test_the_control_chooses_whatever_the_reward_says(monkeypatch):
    """Each finished rationale equally often, the one with the largest reward too; the real rewards are kept."""
    ranks, places = [], []
    for number in range(20):
        found = composed(monkeypatch, RewardConfig(reward="random", negatives="rollout"), number, failed=(1,))
        real = composed(monkeypatch, RewardConfig(negatives="rollout"), number, failed=(1,))
        for group, other in zip(found, real, strict=True):
            assert group["rewards"] == other["rewards"] and sorted(group["dealt"]) == sorted(group["rewards"])
            best, worst = chosen(group)
            order = sorted((0, 2, 3), key=lambda k: group["rewards"][k])
            assert best != 1 and chosen(other)[0] == order[-1] and worst != best
            ranks.append(order.index(best))
            places.append(best)
    for values in (ranks, places):
        counts = np.unique(values, return_counts=True)[1]
        # 1,280 draws of three: the deviation of a count is 17.
        assert len(counts) == 3 and abs(counts - 1280 / 3).max() < 4 * 17


def test_what_does_not_end_is_not_chosen_and_groups_without_an_end_are_counted(monkeypatch):
    some = composed(monkeypatch, RewardConfig(gamma=None), 0, failed=(0, 2, 3))
    assert {chosen(group)[0] for group in some} == {1}
    assert any(group["rewards"][1] < max(group["rewards"]) for group in some)
    none = composed(monkeypatch, RewardConfig(), 0, failed=(0, 1, 2, 3))
    assert {chosen(group) for group in none} == {None}
    known = groups.summary([*some, *none])
    assert (known["groups"], known["groups_failed"]) == (128, 64)
    assert known["truncated"] == pytest.approx((3 * 64 + 4 * 64) / (4 * 128))
    assert known["tokens_written"] == 128 * 6 * 2
    assert known["reward/chosen"] == pytest.approx(np.mean([group["rewards"][1] for group in some]), abs=1e-4)
    every = np.array([group["rewards"] for group in [*some, *none]])
    assert known["reward/mean"] == pytest.approx(every.mean(), abs=1e-4)
    assert known["reward/best"] == pytest.approx(every.max(1).mean(), abs=1e-4)
    template = type("Template", (), {"ids": lambda self, texts: [[1]] * len(texts)})()
    assert len(groups.examples([*some, *none], template, "sft")) == 64


def test_an_ill_formed_rationale_fails_where_form_is_asked_for(tiny_folder, tmp_path):
    """The tiny model writes noise, which is never well formed."""
    free, strict = (
        groups.write(offline_spec(RewardConfig(form=form)), rows(8), tiny_folder, tmp_path / str(form))
        for form in (False, True)
    )
    assert any(chosen(group) for group in free) and not any(chosen(group) for group in strict)
    assert [group["truncated"] for group in free] == [group["truncated"] for group in strict]


def test_a_rows_rationales_do_not_depend_on_its_batch(tiny_folder, tmp_path):
    data = rows(16)
    one = groups.write(offline_spec(), data, tiny_folder, tmp_path / "one")
    other = groups.write(offline_spec().model_copy(update={"instances": 16}), data[::-1], tiny_folder, tmp_path / "two")
    said = {group["id"]: group["token_ids"] for group in other}
    assert len(said) == 16 and all(said[group["id"]] == group["token_ids"] for group in one)


def test_only_what_a_kill_has_not_left_is_written(tiny_folder, tmp_path, monkeypatch):
    spec, data, compose, done = offline_spec(RewardConfig(reward="random")), rows(28), groups.compose, []
    whole = groups.write(spec, data, tiny_folder, tmp_path / "whole")
    assert len(whole) == 24  # the last four rows fill no batch

    def dying(*given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given)
        return compose(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(groups, "compose", dying)
        groups.write(spec, data, tiny_folder, tmp_path / "killed")
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}
    assert len(left) == 2
    assert groups.write(spec, data, tiny_folder, tmp_path / "killed") == whole
    assert all(path.stat().st_mtime_ns == at for path, at in left.items())
    (first, *_) = sorted((tmp_path / "whole").iterdir())
    assert json.loads(first.read_text().split("\n")[0])["token_ids"] == whole[0]["token_ids"]


def test_two_processes_share_the_batches(tiny_folder, tmp_path, monkeypatch):
    whole = groups.write(offline_spec(), rows(32), tiny_folder, tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(groups.time, "sleep", lambda _: 1 / 0)  # the first waits for what is the other's
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ZeroDivisionError):
        groups.write(offline_spec(), rows(32), tiny_folder, tmp_path / "two")
    assert len(list((tmp_path / "two").iterdir())) == 2
    monkeypatch.setenv("RANK", "1")
    assert groups.write(offline_spec(), rows(32), tiny_folder, tmp_path / "two") == whole


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_the_loss_is_on_the_rationale_and_its_end(tiny, objective):
    _, tokenizer = tiny
    template = PromptTemplate.from_tokenizer(tokenizer, "Name the key words.", 100)
    [prompt] = template.ids(["sort a list"])
    group = {
        "text": "sort a list", "token_ids": [[9, 8], [5, 6, 2], [4, 2]], "failed": [True, False, False],
        "dealt": [30.0, 1.0, 3.0],
    }  # fmt: skip
    [example] = groups.examples([group], template, objective)
    if objective == "dpo":
        assert example == {"prompt_ids": prompt, "chosen_ids": [4, 2], "rejected_ids": [5, 6, 2]}
    else:
        assert example == {"input_ids": [*prompt, 4, 2], "labels": [*[-100] * len(prompt), 4, 2]}


def test_too_few_rows_are_one_sentence(tiny_folder, tmp_path):
    with pytest.raises(
        UserError, match=r"config: offline\.rows: 7 training rows are fewer than grace\.instances \(8\)"
    ):
        groups.write(offline_spec(), rows(7), tiny_folder, tmp_path / "groups")
    assert not (tmp_path / "groups").exists()


def test_a_pooling_without_the_rationale_is_one_sentence(tiny_folder, tmp_path):
    spec = offline_spec()
    spec = spec.model_copy(update={"pooling": spec.pooling.model_copy(update={"tokens": "text"})})
    with pytest.raises(UserError, match=r"config: pooling\.tokens: text, so the rationale has no part"):
        groups.write(spec, rows(8), tiny_folder, tmp_path / "groups")
    assert not (tmp_path / "groups").exists()


def test_a_closing_is_read_after_the_rationale(tiny_folder, tmp_path):
    """The same words are written, and rewarded by other vectors."""
    spec = offline_spec()
    closing = Pooling(method="eos", layer="last", closing=" in short")
    one = groups.write(spec, rows(8), tiny_folder, tmp_path / "one")
    two = groups.write(spec.model_copy(update={"pooling": closing}), rows(8), tiny_folder, tmp_path / "two")
    assert [group["token_ids"] for group in one] == [group["token_ids"] for group in two]
    assert all(mine["rewards"] != other["rewards"] for mine, other in zip(one, two, strict=True))

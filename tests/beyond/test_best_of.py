"""best-of: what is scored, chosen and learnt, by which model it is written, where a killed run resumes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from grace import RationaleEncoder
from grace.beyond import best_of
from grace.beyond.best_of import chosen
from grace.config.schema import Pooling, RewardConfig
from grace.config.section import UserError
from grace.encoder.engines.transformers import Written
from grace.encoder.loading import load_model
from grace.method.prompt import PromptTemplate
from grace.training import hardware
from tests.training import settings
from tests.training.settings import LORA, offline_spec, rows

DATA = rows(24)


def trained(backbone, folder, name, spec):
    return settings.trained(backbone, folder, name, spec, DATA)


def likelihood(model, example, said="input_ids"):
    """(log-probability, tokens) of an example's rationale, by transformers' own forward pass."""
    ids = example["input_ids"] if said == "input_ids" else example["prompt_ids"] + example[said]
    start = example["labels"].count(-100) if said == "input_ids" else len(example["prompt_ids"])
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logps[i - 1, ids[i]]) for i in range(start, len(ids))), len(ids) - start


@pytest.fixture
def taught(monkeypatch):
    """The examples of each round, as they are trained on."""
    found, make = [], best_of.examples

    def watched(*given):
        found.append(make(*given))
        return found[-1]

    monkeypatch.setattr(best_of, "examples", watched)
    return found


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_best_become_likelier_and_the_loss_is_theirs_alone(tiny_folder, tmp_path, taught, lora):
    spec = offline_spec(lora=lora, batch_size=16, rows_per_forward=4, learning_rate=3e-3)
    short = spec.generation.model_copy(update={"max_new_tokens": 4})  # so that some groups have no end
    spec = spec.model_copy(update={"generation": short})
    folder = trained(tiny_folder, tmp_path, "model", spec)
    [examples], record = taught, json.loads((folder / "manifest.json").read_text())
    before, after = load_model(tiny_folder, "cpu")[0], load_model(folder, "cpu")[0]
    old, new = ([likelihood(model, example) for example in examples] for model in (before, after))
    assert sum(logp for logp, _ in new) > sum(logp for logp, _ in old) + 1
    assert 4 < len(examples) < 16 and record["steps"] == 2  # all in one batch, twice
    known, first, *_ = record["history"]
    assert known["groups"] == 16 and known["groups_failed"] == 16 - len(examples)
    # The mean over the tokens of all rationales of the batch, whatever goes through the model together.
    assert first["loss"] == pytest.approx(-sum(logp for logp, _ in old) / sum(n for _, n in old), rel=1e-4)
    assert record["tokens"]["written"] == known["tokens_written"]
    assert record["tokens"]["read"] == 2 * sum(len(example["input_ids"]) for example in examples)


@pytest.mark.parametrize("lora", [None, LORA])
def test_dpo_parts_the_best_from_the_worst(tiny_folder, tmp_path, taught, lora):
    folder = trained(tiny_folder, tmp_path, "model", offline_spec(objective="dpo", lora=lora, rows_per_forward=4))
    [examples], record = taught, json.loads((folder / "manifest.json").read_text())
    margin = {}
    for name, at in (("before", tiny_folder), ("after", folder)):
        model, _ = load_model(at, "cpu")
        pairs = [[likelihood(model, one, said)[0] for said in ("chosen_ids", "rejected_ids")] for one in examples]
        margin[name] = sum(best - worst for best, worst in pairs)
    assert margin["after"] > margin["before"] + 1
    # The model that has written is the reference: nothing is gained at the start.
    assert record["history"][1]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert len(load_file(folder / "model.safetensors")) == len(load_file(tiny_folder / "model.safetensors"))


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """Two rounds that nobody kills, and of each round the folder that wrote, copies of its weights, and the groups."""
    seen, write = [], best_of.write_groups

    def watched(spec, data, backbone, folder):
        found = write(spec, data, backbone, folder)
        seen.append((spec, data, load_file(Path(backbone) / "model.safetensors"), found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_of, "write_groups", watched)
        return trained(tiny_folder, tmp_path_factory.mktemp("whole"), "model", offline_spec(rounds=2)), seen


def test_the_second_round_is_written_by_the_model_of_the_first(tiny_folder, tmp_path, whole):
    folder, ((one, first, old, _), (two, second, new, found)) = whole
    assert one.seed != two.seed and first != second and len(second) == 16
    assert any(not torch.equal(old[name], new[name]) for name in old)
    model, tokenizer = load_model(tiny_folder, "cpu")
    assert best_of.write_groups(two, second, tiny_folder, tmp_path / "old") != found
    model.load_state_dict(new, strict=False)  # a tied head is saved once
    model.save_pretrained(tmp_path / "new")
    tokenizer.save_pretrained(tmp_path / "new")
    assert best_of.write_groups(two, second, tmp_path / "new", tmp_path / "again") == found
    record = json.loads((folder / "manifest.json").read_text())
    assert {entry["round"] for entry in record["history"]} == {0, 1} and list(record["preflight"]) == [
        "round0",
        "round1",
    ]
    assert record["resumed_from"] is None and record["steps"] == 8


def test_a_run_that_is_killed_at_every_turn_ends_the_same(tiny_folder, tmp_path, monkeypatch, whole):
    """While the first round is written and trained, between the rounds, and while the second is written and trained."""
    spec, build, compose, written = offline_spec(rounds=2), best_of.build_trainer, best_of.score_groups, []

    def dying(*given, **more):
        trainer = build(*given, **more)
        step = trainer.training_step

        def training_step(*arguments, **keywords):
            if trainer.state.global_step == 3:
                raise KeyboardInterrupt
            return step(*arguments, **keywords)

        trainer.training_step = training_step
        return trainer

    def stopping(after):
        def composed(*given):
            if len(written) == after:
                raise KeyboardInterrupt
            written.append(given[3])
            return compose(*given)

        return composed

    for after, built in ((1, build), (9, dying), (2, build), (3, build), (9, dying)):
        monkeypatch.setattr(best_of, "score_groups", stopping(after))
        monkeypatch.setattr(best_of, "build_trainer", built)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_folder, tmp_path, "killed", spec)
        assert not (tmp_path / "killed/manifest.json").exists()
    monkeypatch.setattr(best_of, "build_trainer", build)
    out = trained(tiny_folder, tmp_path, "killed", spec)
    assert len(written) == 4  # two batches a round, each once
    one, two = load_file(out / "model.safetensors"), load_file(whole[0] / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in two)
    record, expected = (json.loads((at / "manifest.json").read_text()) for at in (out, whole[0]))
    assert record["resumed_from"] == "round1/checkpoint-3" and record["tokens"] == expected["tokens"]
    ours, theirs = (
        [{k: v for k, v in entry.items() if not k.startswith("train_")} for entry in at["history"]]
        for at in (record, expected)
    )
    assert ours == theirs
    assert not list(tmp_path.glob("killed-checkpoints/*/*"))


def test_the_folder_is_an_ordinary_model_that_reasons(whole, texts):
    folder = whole[0]
    assert {"config.json", "model.safetensors", "grace.json"} <= {path.name for path in folder.iterdir()}
    assert RationaleEncoder.from_pretrained(folder, device="cpu").encode(texts).rationales
    assert "GRACE's reward without its policy gradient" in (folder / "README.md").read_text()


def test_texts_without_queries_serve_too(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.DATA", rows(16, "unsupervised"))
    folder = trained(tiny_folder, tmp_path, "model", offline_spec(data="unsupervised", epochs=1.0))
    assert json.loads((folder / "manifest.json").read_text())["steps"] == 2


def test_no_rationale_to_learn_from_is_one_sentence(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(best_of.engine, "end_tokens", lambda *_: [399])
    said = (
        r"^config: offline: of 16 groups none has a rationale that ended within generation\.max_new_tokens \(12\), so"
    )
    with pytest.raises(UserError, match=said):
        trained(tiny_folder, tmp_path, "model", offline_spec())
    with pytest.raises(UserError, match=r"in the form that reward\.form asks for"):
        trained(tiny_folder, tmp_path, "model", offline_spec(RewardConfig(form=True)))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (offline_spec().model_copy(update={"keep_steps": [1]}), "config: ablations: grace-offline trains in rounds"),
        (offline_spec(precision="bf16"), "config: offline.precision: bf16 needs a GPU"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(monkeypatch, spec, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=said):
        hardware.check(spec)


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
    spec, seen, generate = offline_spec(RULES, credit=credit), [], best_of.engine.generate

    def watched(model, prompts, **settings):
        made = generate(model, prompts, **settings)
        seen.append((prompts, made.token_ids))
        return made

    monkeypatch.setattr(best_of.engine, "generate", watched)
    found = best_of.write_groups(spec, rows(16), tiny_folder, tmp_path)
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
    found = best_of.write_groups(offline_spec(credit="all"), data, tiny_folder, tmp_path)
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

    monkeypatch.setattr(best_of.engine, "end_tokens", lambda *_: [2])
    monkeypatch.setattr(best_of.engine, "generate", lambda *_, **__: Written([], written, pooled))
    data = [{"id": str(n), "prompt": "d", "query": "q", "negatives": ["n"]} for n in range(64)]
    generator = torch.Generator().manual_seed(number)
    return best_of.score_groups(None, Template(), offline_spec(reward), data, generator)


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
    known = best_of.summary([*some, *none])
    assert (known["groups"], known["groups_failed"]) == (128, 64)
    assert known["truncated"] == pytest.approx((3 * 64 + 4 * 64) / (4 * 128))
    assert known["tokens_written"] == 128 * 6 * 2
    assert known["reward/chosen"] == pytest.approx(np.mean([group["rewards"][1] for group in some]), abs=1e-4)
    every = np.array([group["rewards"] for group in [*some, *none]])
    assert known["reward/mean"] == pytest.approx(every.mean(), abs=1e-4)
    assert known["reward/best"] == pytest.approx(every.max(1).mean(), abs=1e-4)
    template = type("Template", (), {"ids": lambda self, texts: [[1]] * len(texts)})()
    assert len(best_of.examples([*some, *none], template, "sft")) == 64


def test_an_ill_formed_rationale_fails_where_form_is_asked_for(tiny_folder, tmp_path):
    """The tiny model writes noise, which is never well formed."""
    free, strict = (
        best_of.write_groups(offline_spec(RewardConfig(form=form)), rows(8), tiny_folder, tmp_path / str(form))
        for form in (False, True)
    )
    assert any(chosen(group) for group in free) and not any(chosen(group) for group in strict)
    assert [group["truncated"] for group in free] == [group["truncated"] for group in strict]


def test_a_rows_rationales_do_not_depend_on_its_batch(tiny_folder, tmp_path):
    data = rows(16)
    one = best_of.write_groups(offline_spec(), data, tiny_folder, tmp_path / "one")
    other = best_of.write_groups(
        offline_spec().model_copy(update={"instances": 16}), data[::-1], tiny_folder, tmp_path / "two"
    )
    said = {group["id"]: group["token_ids"] for group in other}
    assert len(said) == 16 and all(said[group["id"]] == group["token_ids"] for group in one)


def test_two_processes_share_the_batches(tiny_folder, tmp_path, monkeypatch):
    whole = best_of.write_groups(offline_spec(), rows(36), tiny_folder, tmp_path / "whole")
    assert len(whole) == 32  # the last four rows fill no batch
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(best_of.time, "sleep", lambda _: 1 / 0)  # the first waits for what is the other's
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ZeroDivisionError):
        best_of.write_groups(offline_spec(), rows(36), tiny_folder, tmp_path / "two")
    assert len(list((tmp_path / "two").iterdir())) == 2
    monkeypatch.setenv("RANK", "1")
    assert best_of.write_groups(offline_spec(), rows(36), tiny_folder, tmp_path / "two") == whole


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_the_loss_is_on_the_rationale_and_its_end(tiny, objective):
    _, tokenizer = tiny
    template = PromptTemplate.from_tokenizer(tokenizer, "Name the key words.", 100)
    [prompt] = template.ids(["sort a list"])
    group = {
        "text": "sort a list", "token_ids": [[9, 8], [5, 6, 2], [4, 2]], "failed": [True, False, False],
        "dealt": [30.0, 1.0, 3.0],
    }  # fmt: skip
    [example] = best_of.examples([group], template, objective)
    if objective == "dpo":
        assert example == {"prompt_ids": prompt, "chosen_ids": [4, 2], "rejected_ids": [5, 6, 2]}
    else:
        assert example == {"input_ids": [*prompt, 4, 2], "labels": [*[-100] * len(prompt), 4, 2]}


@pytest.mark.parametrize(
    ("count", "tokens", "said"),
    [
        (7, "both", r"config: offline\.rows: 7 training rows are fewer than grace\.instances \(8\)"),
        (8, "text", r"config: pooling\.tokens: text, so the rationale has no part"),
    ],
)
def test_groups_that_cannot_be_scored_are_one_sentence(tiny_folder, tmp_path, count, tokens, said):
    spec = offline_spec()
    spec = spec.model_copy(update={"pooling": spec.pooling.model_copy(update={"tokens": tokens})})
    with pytest.raises(UserError, match=said):
        best_of.write_groups(spec, rows(count), tiny_folder, tmp_path / "groups")
    assert not (tmp_path / "groups").exists()


def test_a_closing_is_read_after_the_rationale(tiny_folder, tmp_path):
    """The same words are written, and rewarded by other vectors."""
    spec = offline_spec()
    closing = Pooling(method="eos", layer="last", closing=" in short")
    one = best_of.write_groups(spec, rows(8), tiny_folder, tmp_path / "one")
    two = best_of.write_groups(spec.model_copy(update={"pooling": closing}), rows(8), tiny_folder, tmp_path / "two")
    assert [group["token_ids"] for group in one] == [group["token_ids"] for group in two]
    assert all(mine["rewards"] != other["rewards"] for mine, other in zip(one, two, strict=True))

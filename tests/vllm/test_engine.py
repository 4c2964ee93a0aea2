"""A real vLLM on the CPU against the fused engine and a plain float64 forward pass."""

import copy

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

from grace.config.schema import Pooling, Prompt
from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.engines import transformers as fused
from grace.encoder.engines.vllm import VllmEngine
from grace.encoder.loading import load_model
from grace.encoder.sampling import text_key
from grace.method.prompt import PromptTemplate

LIMIT = 24
MEAN = Pooling(method="mean", layer="last")


def spec_of(engine="vllm", temperature=1.0, room=120, pooling=MEAN):
    return EncodeSpec(
        prompt=Prompt(instruction="Name the key words.", max_prompt_tokens=room), pooling=pooling, engine=engine,
        rationales=True, direct_prompt="chat", max_new_tokens=LIMIT, sampling_temperature=temperature, batch_size=16,
        seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine(folder):
    made = VllmEngine(folder, spec_of())
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(folder):
    spec = spec_of()
    return PromptTemplate.from_tokenizer(load_model(folder, "cpu")[1], spec.prompt.instruction, 120)


@pytest.fixture(scope="module")
def ends(folder):
    return fused.end_tokens(*load_model(folder, "cpu"))


@pytest.fixture(scope="module")
def prompts(template, texts):
    """Different lengths, one text empty, one cut at the limit."""
    made = template.ids([*texts, " ".join(texts), *(text[: 7 * i] for i, text in enumerate(texts * 5))])
    assert len({len(ids) for ids in made}) > 10 and max(map(len, made)) == 120
    return made


def settings(template, ends, count, temperature=1.0):
    return {
        "keys": [text_key(0, i) for i in range(count)], "temperatures": [temperature] * count, "max_new_tokens": LIMIT,
        "ends": ends, "batch_size": 16,
    }  # fmt: skip


def collect(batches, count):
    """Token ids in the order of the prompts; each row comes once."""
    tokens = [None] * count
    for batch in batches:
        assert len(batch.rows) <= 16
        for row, ids in zip(batch.rows, batch.token_ids, strict=True):
            assert tokens[row] is None
            tokens[row] = ids
    assert None not in tokens
    return tokens


def hidden_states(model, ids):
    """Of one row in float64, by the model's public interface."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(torch.tensor([ids]), output_hidden_states=True)


def test_greedy_rationales_equal_the_fused_engines(engine, template, ends, prompts):
    kwargs = settings(template, ends, len(prompts), temperature=0.0)
    tokens = collect(engine.generate_batches(prompts, **kwargs), len(prompts))
    expected = fused.generate(engine.model, prompts, pool_from=0, pooling=None, **kwargs)
    same = [mine == theirs for mine, theirs in zip(tokens, expected.token_ids, strict=True)]
    assert sum(same) >= 0.9 * len(prompts)
    for prompt, mine, theirs in zip(prompts, tokens, expected.token_ids, strict=True):
        if mine != theirs:  # only where two tokens were as good as tied
            at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
            first, second = hidden_states(engine.model, prompt + mine[:at]).logits[0, -1].topk(2).values
            assert first - second < 1e-3


def test_rationales_end_or_are_cut_at_the_limit(engine, template, ends, prompts):
    kwargs = settings(template, ends, len(prompts))
    tokens = collect(engine.generate_batches(prompts, **kwargs), len(prompts))
    truncated = [ids[-1] not in ends for ids in tokens]
    assert any(truncated) and not all(truncated)
    assert len({len(ids) for ids in tokens}) > 3
    for ids, cut in zip(tokens, truncated, strict=True):
        assert not set(ids[:-1]) & set(ends)
        assert len(ids) == LIMIT if cut else len(ids) <= LIMIT


def test_a_rationale_depends_on_its_key_and_not_on_its_company(engine, template, ends, prompts):
    kwargs = settings(template, ends, len(prompts))
    together = collect(engine.generate_batches(prompts, **kwargs), len(prompts))
    few = {**kwargs, "keys": kwargs["keys"][:3], "temperatures": [1.0] * 3}
    alone = collect(engine.generate_batches(prompts[:3], **few), 3)
    assert alone == together[:3]
    again = collect(engine.generate_batches(prompts[:1] * 20, **settings(template, ends, 20)), 20)
    assert again[0] == together[0] and len({tuple(ids) for ids in again}) > 10


def test_each_prompt_is_sampled_at_its_own_temperature(engine, template, ends, prompts):
    count = 1000
    kwargs = settings(template, ends, 2 * count) | {"max_new_tokens": 1, "temperatures": [0.5, 2.0] * count}
    tokens = collect(engine.generate_batches(prompts[:1] * 2 * count, **kwargs), 2 * count)
    logits = hidden_states(engine.model, prompts[0]).logits[0, -1]
    for first, mine, other in ((0, 0.5, 2.0), (1, 2.0, 0.5)):  # the mean logit of what is drawn follows from it
        probability, elsewhere = (logits / mine).softmax(-1), (logits / other).softmax(-1)
        expected = (probability * logits).sum()
        error = ((probability * (logits - expected) ** 2).sum() / count).sqrt()
        found = logits[torch.tensor(tokens[first::2]).flatten()].mean()
        assert (found - expected).abs() < 5 * error < 15 * error < (found - (elsewhere * logits).sum()).abs()


def test_a_caller_that_stops_early_leaves_nothing_running(engine, template, ends, prompts):
    batches = engine.generate_batches(prompts, **settings(template, ends, len(prompts)))
    assert len(next(batches).rows) == 16
    with pytest.raises(RuntimeError, match="one generate_batches at a time"):
        next(engine.generate_batches(prompts, **settings(template, ends, len(prompts))))
    batches.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    collect(engine.generate_batches(prompts, **settings(template, ends, len(prompts))), len(prompts))


def test_a_prompt_without_room_is_refused(engine, template, ends):
    for prompt in ([], [5] * 121):
        with pytest.raises(ValueError, match="prompt 0"):
            next(engine.generate_batches([prompt], **settings(template, ends, 1)))


def test_a_temperature_over_vllms_limit_is_one_sentence(engine, template, ends, prompts):
    with pytest.raises(UserError, match=r"sampling_temperature: vLLM takes at most 2\.0, not 3\.0"):
        next(engine.generate_batches(prompts[:1], **settings(template, ends, 1, temperature=3.0)))


@pytest.mark.parametrize("more", [{}, {"tokens": "rationale", "layer": 1}, {"method": "eos", "closing": "\nIt is:"}])
def test_the_encoder_gives_the_same_with_either_engine(engine, folder, texts, more):
    model, tokenizer = load_model(folder, "cpu")
    pooling = Pooling(**{"method": "mean", "layer": "last", **more})
    mine = RationaleEncoder(model, tokenizer, spec_of(temperature=0.0, pooling=pooling), engine).encode(texts)
    theirs = RationaleEncoder(model, tokenizer, spec_of("transformers", 0.0, pooling=pooling)).encode(texts)
    assert mine.rationales == theirs.rationales
    torch.testing.assert_close(torch.tensor(mine.embeddings), torch.tensor(theirs.embeddings), atol=1e-4, rtol=0)


def test_more_context_than_the_model_has_is_one_sentence(folder):
    with pytest.raises(UserError, match=r"vLLM cannot serve this model with .* = 3024 tokens"):
        VllmEngine(folder, spec_of(room=3000))

"""The transformers engine against transformers' own forward pass, and its sampling."""

from contextlib import contextmanager

import pytest
import torch
from scipy import stats
from transformers import AutoConfig, AutoModelForCausalLM

from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.sampling import gumbel, sample, text_key
from grace.method.prompt import PromptTemplate

MEAN = Pooling(method="mean", layer="last")


def prompts_of(tiny, texts):
    template = PromptTemplate.from_tokenizer(tiny[1], "Name the key words.", 120)
    return template, template.ids(texts)


def write(tiny, template, prompts, *, temperature=1.0, batch_size=64, limit=24, **more):
    count, ends = len(prompts), engine.end_tokens(*tiny)
    settings = {"pool_from": len(template.prefix), "pooling": MEAN, "keys": [text_key(0, i) for i in range(count)]}
    settings |= {"temperatures": [temperature] * count, "max_new_tokens": limit, "ends": ends, "batch_size": batch_size}
    return engine.generate(tiny[0], prompts, **settings | more)


def test_first_token_follows_the_models_distribution(tiny, texts):
    template, prompts = prompts_of(tiny, texts[:1])
    made = write(tiny, template, prompts * 4000, limit=1, batch_size=2000)
    with torch.no_grad():
        probability = tiny[0](torch.tensor(prompts)).logits[0, -1].softmax(-1)
    found = torch.bincount(torch.tensor(made.token_ids).flatten(), minlength=len(probability)) / 4000
    assert (found - probability).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_a_rationale_ends_with_an_end_token_or_at_the_limit(tiny, texts):
    template, prompts = prompts_of(tiny, texts)
    ends = {*engine.end_tokens(*tiny)}
    for ids in write(tiny, template, prompts, limit=12).token_ids:
        assert not ends & {*ids[:-1]} and (len(ids) == 12 or (len(ids) < 12 and ids[-1] in ends))


def test_a_rationale_ends_with_the_turn_where_eos_is_the_base_models(tiny):
    model, tokenizer = tiny
    tokenizer.eos_token, model.generation_config.eos_token_id = "<|endoftext|>", 0
    assert engine.end_tokens(model, tokenizer) == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    assert engine.end_tokens(model, tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_model_that_no_token_ends_or_no_number_is_refused(tiny):
    model, tokenizer = tiny
    usual, model.generation_config.eos_token_id = model.generation_config.eos_token_id, "</s>"
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id is '</s>'; give a token's number"):
        engine.end_tokens(model, tokenizer)
    model.generation_config.eos_token_id = usual
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert engine.end_tokens(model, tokenizer)
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="no token ends a reply, so no rationale would ever end; set eos_token"):
        engine.end_tokens(model, tokenizer)


SHAPE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8}
FAMILIES = {
    "llama": {"num_key_value_heads": 1, "num_hidden_layers": 2},
    "qwen3": {"num_key_value_heads": 2, "num_hidden_layers": 2},
    "mistral": {"num_key_value_heads": 4, "num_hidden_layers": 2, "sliding_window": 9},
    "gemma3_text": {"num_key_value_heads": 2, "num_hidden_layers": 4, "sliding_window": 9, "sliding_window_pattern": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_architectures_write_and_pool_as_transformers_does(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **FAMILIES[family])).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    prompts = [[7, 8, 9, *range(20, 20 + n)] for n in (1, 2, 3, 5, 8, 8, 13, 21, 30)]
    made = engine.generate(
        model, prompts, pool_from=3, pooling=MEAN, keys=[0] * 9,
        temperatures=[0.0] * 9, max_new_tokens=20, ends=[*range(300, 340)], batch_size=4,
    )  # fmt: skip
    for prompt, written, vector in zip(prompts, made.token_ids, made.pooled, strict=True):
        ids = list(prompt)
        for token in written:  # one token at a time, without a cache
            with torch.no_grad():
                out = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
            assert out.logits[0, -1].argmax() == token
            ids.append(token)
        torch.testing.assert_close(vector, out.hidden_states[-1][0, 3:].mean(0), atol=2e-5, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


@contextmanager
def counted(model):
    """Tokens that each of the decoder's forward passes reads, padding included: (rows, tokens a row)."""
    shapes = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def test_little_of_what_is_computed_is_padding(tiny):
    """Lengths as in real corpora, rationales of very different lengths, 16 side by side."""
    dice = torch.Generator().manual_seed(0)
    lengths = torch.empty(300).log_normal_(3.5, 0.8, generator=dice).clamp(5, 500).int().tolist()
    limits = torch.empty(300).exponential_(1 / 20, generator=dice).clamp(1, 100).int().tolist()
    prompts = [[7, 8, i, *([9] * (n - 1))] for i, n in enumerate(lengths)]
    with counted(tiny[0]) as shapes:
        made = engine.generate(
            tiny[0], prompts, pool_from=2, pooling=MEAN,
            keys=list(range(300)), temperatures=[1.0] * 300, max_new_tokens=limits, ends=[], batch_size=16,
        )  # fmt: skip
    assert [len(ids) for ids in made.token_ids] == limits
    computed = sum(rows * tokens for rows, tokens in shapes)
    needed = 2 + sum(lengths) + sum(limit - 1 for limit in limits)
    assert needed <= computed <= 1.1 * needed
    # A batch that waits for its slowest rationale would take 300 / 16 times the longest one's steps.
    steps = [rows for rows, tokens in shapes if tokens == 1]
    assert len(steps) < 1.5 * sum(limits) / 16 < 300 / 16 * max(limits) / 3


def test_equal_prompts_are_read_once(tiny, texts):
    template, prompts = prompts_of(tiny, texts[:2])
    with counted(tiny[0]) as shapes:
        made = write(tiny, template, prompts * 8)
    assert sum(rows * tokens for rows, tokens in shapes if tokens > 1) <= 2 * max(map(len, prompts))
    alone = [write(tiny, template, prompts[:1] * count, temperature=0.0) for count in (1, 9)]
    assert alone[1].token_ids == alone[0].token_ids * 9
    torch.testing.assert_close(alone[1].pooled, alone[0].pooled.expand(9, -1), atol=1e-5, rtol=0)
    assert len({tuple(ids) for ids in made.token_ids}) > 8  # each has noise of its own


def test_each_prompt_may_have_a_limit_of_its_own(tiny, texts):
    template, prompts = prompts_of(tiny, texts)
    whole = write(tiny, template, prompts, limit=24)
    limits = [1, 3, 24, 7, 2, 12]
    cut = write(tiny, template, prompts, limit=limits)
    assert cut.token_ids == [ids[:limit] for ids, limit in zip(whole.token_ids, limits, strict=True)]


def test_nothing_is_pooled_where_nothing_is_asked_for(tiny, texts):
    template, prompts = prompts_of(tiny, texts)
    bare, pooled = (write(tiny, template, prompts, limit=9, pooling=pooling) for pooling in (None, MEAN))
    assert bare.pooled.shape == (len(prompts), 0) and bare.token_ids == pooled.token_ids


def test_compiled_decoding_gives_the_same_and_is_compiled_once_for_a_width(tiny, texts, monkeypatch):
    """Traced whole, as for CUDA graphs; only the kernels are torch's own here."""
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(forward, "COMPILER", {"backend": compiler})
    monkeypatch.setattr(forward, "NARROWEST", 32)
    forward.compiled.cache_clear()
    template, prompts = prompts_of(tiny, texts)
    prompts = [prompt + [i] for i, prompt in enumerate(prompts * 3)]
    settings = {"pooling": Pooling(method="mean", layer="penultimate"), "batch_size": 4}
    plain = write(tiny, template, prompts, **settings)
    assert not graphs
    for _ in range(2):
        made = write(tiny, template, prompts, compile=True, **settings)
        assert made.token_ids == plain.token_ids
        torch.testing.assert_close(made.pooled, plain.pooled, atol=1e-5, rtol=0)
    assert 2 <= len(graphs) <= 4  # to draw, and widths of 32 to 128; none again in the second call
    forward.compiled.cache_clear()


def test_prompts_of_other_lengths_are_no_other_shape(tiny, monkeypatch):
    graphs = []
    monkeypatch.setattr(forward, "COMPILER", {"backend": lambda graph, _: graphs.append(graph) or graph.forward})
    forward.compiled.cache_clear()
    for length in range(10, 21):
        engine.generate(
            tiny[0], [[*range(20, 20 + length)]] * 2, pool_from=0, pooling=None, keys=[0, 1], temperatures=[0.0, 0.0],
            max_new_tokens=3, ends=[], batch_size=2, compile=True,
        )  # fmt: skip
    assert 1 <= len(graphs) <= 2
    forward.compiled.cache_clear()


def at(step, count):
    return torch.full((count,), step)


def keys(count):
    return torch.tensor([text_key(0, i) for i in range(count)])


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1])
    draws = sample(logits.expand(40_000, 5), keys(40_000), at(3, 40_000), torch.full((40_000,), 0.7))
    expected = (logits.double() / 0.7).softmax(0) * 40_000
    assert stats.chisquare(torch.bincount(draws, minlength=5).numpy(), expected.numpy()).pvalue > 1e-3


def test_noise_is_gumbel():
    noise = gumbel(keys(64), at(0, 64), 1001).flatten()
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise[::7].numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_steps_rows_and_entries_are_uncorrelated():
    noise = torch.stack([gumbel(keys(32), at(step, 32), 512) for step in range(32)])
    for flat in (noise.flatten(1), noise.transpose(0, 1).flatten(1)):
        assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.04  # 5 deviations of 1 / sqrt(16384)


def test_the_noise_of_a_row_depends_on_its_own_key_and_step_alone():
    some, steps = keys(3), torch.tensor([0, 7, 2**20])
    noise = gumbel(some, steps, 50)
    for row in range(3):
        assert torch.equal(noise[row], gumbel(some[row : row + 1], steps[row : row + 1], 50)[0])
    assert not torch.equal(noise[0], gumbel(some[:1], at(1, 1), 50)[0])


def test_zero_temperature_is_greedy_in_a_mixed_batch():
    logits = torch.randn(6, 50)
    drawn = sample(logits, keys(6), at(0, 6), torch.tensor([0.0, 5.0] * 3))
    assert torch.equal(drawn[::2], logits.argmax(-1)[::2])


def test_key_is_stable():
    assert text_key(0, "text") == text_key(0, "text") != text_key(1, "text")
    assert text_key("a", "b") != text_key("ab", "")

"""The fused engine against transformers' own generate and a separate forward pass."""

import pytest
import torch

from grace.encoder.engines import transformers as engine
from grace.encoder.sampling import text_key
from grace.method.prompt import PromptTemplate
from grace.settings import Pooling


def prompts_of(tiny, texts):
    template = PromptTemplate.from_tokenizer(tiny[1], "Name the key words.", 120)
    return template, template.ids(texts)


def write(tiny, template, prompts, *, temperature=1.0, pooling=None, batch_size=64, limit=24):
    return engine.generate(
        tiny[0],
        prompts,
        pool_from=len(template.prefix),
        pooling=pooling or Pooling(method="mean", layer="last", normalize=False),
        keys=[text_key(0, i) for i in range(len(prompts))],
        temperatures=[temperature] * len(prompts),
        max_new_tokens=limit,
        ends=engine.end_tokens(*tiny),
        batch_size=batch_size,
    )


@pytest.mark.parametrize("method", ["mean", "max", "eos"])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_fused_pooling_equals_a_separate_forward(tiny, texts, method, layer):
    template, prompts = prompts_of(tiny, texts)
    pooling = Pooling(method=method, layer=layer, normalize=False)
    made = write(tiny, template, prompts, pooling=pooling)
    assert len({len(ids) for ids in made.token_ids}) > 1  # rows of different lengths were compacted
    for prompt, written, vector in zip(prompts, made.token_ids, made.pooled, strict=True):
        with torch.no_grad():  # one row, no padding, by the model's public interface
            out = tiny[0](torch.tensor([prompt + written[:-1]]), output_hidden_states=True)
        hidden = out.hidden_states[-1 if layer == "last" else -2][0, len(template.prefix) :]
        expected = {"mean": hidden.mean(0), "max": hidden.amax(0), "eos": hidden[-1]}[method]
        torch.testing.assert_close(vector, expected, atol=2e-5, rtol=1e-4)


def test_greedy_tokens_equal_transformers_generate(tiny, texts):
    template, prompts = prompts_of(tiny, texts)
    made = write(tiny, template, prompts, temperature=0.0)
    for prompt, written in zip(prompts, made.token_ids, strict=True):
        expected = (
            tiny[0]
            .generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=24
            )[0, len(prompt) :]
            .tolist()
        )
        assert written == expected


def test_first_token_follows_the_models_distribution(tiny, texts):
    template, prompts = prompts_of(tiny, texts[:1])
    made = write(tiny, template, prompts * 4000, limit=1, batch_size=2000)
    with torch.no_grad():
        probability = tiny[0](torch.tensor(prompts)).logits[0, -1].softmax(-1)
    found = torch.bincount(torch.tensor(made.token_ids).flatten(), minlength=len(probability)) / 4000
    assert (found - probability).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_truncated(tiny, texts):
    template, prompts = prompts_of(tiny, texts)
    ends = engine.end_tokens(*tiny)
    made = write(tiny, template, prompts, limit=12)
    for ids, cut in zip(made.token_ids, made.truncated.tolist(), strict=True):
        assert cut == (ids[-1] not in ends) and len(ids) <= 12
        assert not set(ids[:-1]) & set(ends)


def test_embed_is_safe_under_padding(tiny):
    sequences = [[5, 9, 11, 40], [7], [8, 3, 2, 6, 7, 9, 30, 31, 32]]
    pooling = Pooling(method="mean", layer="last", normalize=False)
    together = engine.embed(tiny[0], sequences, pool_from=0, pooling=pooling, batch_size=3)
    alone = engine.embed(tiny[0], sequences, pool_from=0, pooling=pooling, batch_size=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    right_ids = torch.tensor([[5, 9, 11, 40, 0, 0], [7, 0, 0, 0, 0, 0]])
    right_mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    right = engine.forward_pooled(tiny[0], right_ids, right_mask, 0, pooling)
    torch.testing.assert_close(right, alone[:2], atol=1e-5, rtol=1e-4)

import numpy as np
import pytest
import torch

from bench import peers

LENGTHS = [5, 2, 9]


@pytest.fixture
def prompts(tiny, texts):
    _, tokenizer = tiny
    return tokenizer(texts[:3], add_special_tokens=False)["input_ids"]


def by_hand(model, prompt: list[int], length: int, ends: list[int]) -> list[int]:
    """Greedy decoding by a whole forward pass a token."""
    ids = list(prompt)
    while len(ids) - len(prompt) < length and (len(ids) == len(prompt) or ids[-1] not in ends):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_each_row_of_a_batch_ends_at_its_own_length_or_end_token(tiny, prompts):
    model, tokenizer = tiny
    free = [by_hand(model, prompt, length, []) for prompt, length in zip(prompts, LENGTHS, strict=True)]
    assert peers.write(model, prompts, LENGTHS, [399], tokenizer.pad_token_id) == free
    ends = [free[2][3]]
    expected = [by_hand(model, prompt, length, ends) for prompt, length in zip(prompts, LENGTHS, strict=True)]
    assert len(expected[2]) <= 4
    assert peers.write(model, prompts, LENGTHS, ends, tokenizer.pad_token_id) == expected


def test_the_released_way_is_two_passes_over_text(tiny, prompts):
    model, tokenizer = tiny
    ends, skip = [tokenizer.eos_token_id], 2
    made = peers.released(model, tokenizer, prompts, LENGTHS, pool_from=skip, ends=ends, batch_size=2)
    for row, (prompt, length) in enumerate(zip(prompts, LENGTHS, strict=True)):
        written = by_hand(model, prompt, length, ends)
        again = tokenizer(tokenizer.decode(prompt + written[:-1]), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model(torch.tensor([again]), output_hidden_states=True).hidden_states[-1][0].double()
        mean = hidden[skip:].mean(0)
        assert made.written[row] == written
        assert made.pooled[row] == again
        np.testing.assert_allclose(made.embeddings[row], mean.numpy(), atol=1e-5)


def test_continuous_batching_writes_the_same(tiny, prompts):
    model, tokenizer = tiny
    ends, before = [tokenizer.eos_token_id], model.config._attn_implementation
    expected = peers.write(model, prompts, LENGTHS, ends, tokenizer.pad_token_id)
    assert peers.continuous(model, prompts, LENGTHS, ends, tokenizer.pad_token_id, batch_size=2) == expected
    assert model.config._attn_implementation == before

"""The tokenizer, the token ids and the first embeddings of a corpus."""

import numpy as np
import pytest
import torch

from grace.method.prompt import PromptTemplate
from grace.training import corpus
from tests.training.settings import PROMPT
from tests.training.test_backbone import ROWS


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.train_tokenizer([f"{row['query']}\n{row['positive']}" for row in ROWS], 400)


def test_tokenizer_round_trip(tokenizer):
    text = "Naïve <think> x </think> tensor[0] → ∂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 400


def test_a_stream_is_the_tokens_of_the_whole_texts(tokenizer):
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    texts = [f"{row['query']}\n{row['positive']}<|endoftext|>" for row in ROWS[:20]]
    whole = [token for ids in tokenizer(texts)["input_ids"] for token in ids]
    assert corpus.text_stream(corpus.token_pairs(ROWS[:20], template), tokenizer).tolist() == whole


def test_ppmi_puts_like_tokens_near():
    """Tokens 0 and 1 occur in the same contexts, 2 and 3 in others."""
    dice = np.random.default_rng(0)
    stream = np.concatenate([[dice.choice([0, 1]), 4, 5, dice.choice([2, 3]), 6, 7] for _ in range(2000)])
    vectors = torch.nn.functional.normalize(corpus.ppmi_embeddings(stream, 8, 4, window=1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.9 > 0.5 > (vectors[0] @ vectors[2]).abs()

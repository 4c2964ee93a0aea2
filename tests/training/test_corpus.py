"""The tokenizer, the token ids and the first embeddings of a corpus."""

import numpy as np
import pytest
import torch

from grace.config import Backbone
from grace.encoder.loading import load_tokenizer
from grace.method.prompt import PromptTemplate
from grace.training import corpus
from grace.training.backbone import build_model
from tests.training.settings import PROMPT
from tests.training.test_backbone import ROWS


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.train_tokenizer([f"{row['query']}\n{row['positive']}" for row in ROWS], 400)


def test_tokenizer_round_trip(tokenizer):
    text = "Naïve <think> x </think> tensor[0] → ∂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 400


def test_it_cuts_a_text_as_it_does_when_it_is_loaded_with_its_model(tokenizer, tmp_path):
    """transformers gives a Qwen model's tokenizer the pre-tokenizer of Qwen's, whatever the folder has."""
    shape = dict(layers=1, width=32, heads=4, kv_heads=2, feed_forward=64)
    build_model(Backbone(kind="trained", vocab_size=400, **shape), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in ("of 12345 items.\n\n1. First\n2. it's", "a   b\t\tc\r\n\r\nd 3.14159", "Naïve e\u0301", "x_1[0, :]"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], text


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

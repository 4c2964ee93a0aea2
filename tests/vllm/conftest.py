"""A model that vLLM serves on a CPU: its attention there takes heads of 32 numbers, not the other tests' 8."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A Qwen2 of 2 layers with random weights; its rationales are noise of which some end and some are cut."""
    from grace.config.schema import Backbone
    from grace.training.backbone import build_model, train_tokenizer

    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts * 20, 400)
    config = Backbone(kind="trained", vocab_size=400, layers=2, width=128, heads=4, kv_heads=2, feed_forward=128)
    model = build_model(config, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():  # larger weights: tokens and embeddings that depend on the text
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 330)]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

"""Tiny chat models as GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grace.training.backbone import train_tokenizer
from tests.conftest import TEXTS

KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
ENDS = {"bos": 0, "eos": 2, "padding": 0}
TEXT = "1. Sort.\n\n2. Sort 1234 lists.\n\n\n34 of them, it's said"


def make_model(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config, model = KINDS[kind]
    width_of_head = {"head_dim": 16} if kind == "qwen3" else {}  # not width / heads
    shape = dict(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=5e4,
        tie_word_embeddings=kind != "qwen3",
    )  # fmt: skip
    made = model(config(**{**shape, **width_of_head, **more}))
    with torch.no_grad():
        for parameter in made.parameters():  # no bias is 0, no norm is 1
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


def make_tokenizer() -> Any:
    """One that splits as GPT-2 does; knows two new lines and a number of four digits."""
    with patch("grace.training.backbone.Qwen2Tokenizer") as qwen:
        own = qwen.return_value.backend_tokenizer
        own.normalizer, own.pre_tokenizer = None, pre_tokenizers.ByteLevel(add_prefix_space=False)
        return train_tokenizer([*TEXTS * 5, *[TEXT] * 20, *["\n\n", "1234"] * 200], 400)


def splits_of(kind: str) -> str:
    return "gpt-2" if kind == "llama" else "qwen2"


# As llama.cpp has it.
QWEN2 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def as_qwen2(tokenizer: Any) -> Any:
    """The same vocabulary with the splits of Qwen2."""
    made = copy.deepcopy(tokenizer)
    made.backend_tokenizer.normalizer = normalizers.NFC()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def write_gguf(path: Path, model: Any, tokenizer: Any, quantized: Any = None, without: str = "", **keys: Any) -> Path:
    """Write a file.

    Args:
        quantized: type of the matrices; float32 unless given.
        without: a key to leave out.
        keys: what to write under other keys, or other values; "__" stands for a dot.
    """
    config: PretrainedConfig = model.config
    kind = config.model_type
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {entry["id"]: 3 if entry["special"] else 4 for entry in told["added_tokens"]}
    size = len(tokenizer)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values: dict[str, Any] = {
        "general.type": "model",
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.key_length": width,
        f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{kind}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": splits_of(kind),
        "tokenizer.ggml.tokens": tokenizer.convert_ids_to_tokens(range(size)),
        "tokenizer.ggml.token_type": [special.get(i, 1) for i in range(size)],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in told["model"]["merges"]],
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in ENDS.items()},
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    values |= {key.replace("__", "."): value for key, value in keys.items()}
    writer = gguf.GGUFWriter(path, str(values.pop("general.architecture", kind)))
    for key, value in values.items():
        if key != without:
            {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[
                type(value)
            ](key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written == without or (written == "output.weight" and config.tie_word_embeddings):
            continue
        if kind == "llama" and (".attn_q." in written or ".attn_k." in written):  # its halves take turns
            heads = config.num_attention_heads if ".attn_q." in written else config.num_key_value_heads
            weight = weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
        array = weight.numpy()
        if quantized is not None and array.ndim == 2:
            writer.add_tensor(written, gguf.quantize(array, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(written, array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

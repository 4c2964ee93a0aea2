"""Converts a GGUF file, the format of llama.cpp, into an ordinary folder of a Hugging Face model.

transformers reads such files (5.19), but does not save them again, and ignores how a text is split before it is
tokenised and how positions are scaled. Both are read here, or refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from grace.config.section import UserError
from grace.encoder.loading import load_tokenizer
from grace.encoder.saved import loading_from
from grace.jobs.files import sha256

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ENDS = {"bos": "bos", "eos": "eos", "pad": "padding"}  # transformers' names -> GGUF's
# Of tokenizer.ggml.pre. transformers knows the splits of all but smollm; tokens equal llama.cpp's (bench/gguf.py).
SPLITS = ("gpt-2", "llama-bpe", "qwen2", "smollm")


def convert(file: Path, folder: Path, dtype: str, pinned: str | None = None) -> str:
    """Write the model of `file`, dequantized, and its tokenizer to the empty folder `folder`.

    Args:
        dtype: float32 or bf16, of the weights.
        pinned: SHA-256 that the file must have; None for any.

    Returns:
        The file's SHA-256.

    Raises:
        UserError: when it is no whole GGUF file of a chat model of ARCHITECTURES, or has settings that cannot be kept.
    """
    import gguf

    if not file.is_file():
        raise UserError(f"{file}: no such file; give the path of a GGUF file.")
    if (found := sha256(file)) != (pinned or found):
        raise UserError(f"{file}: its SHA-256 is {found}, not the {pinned} that is asked for; fetch it again.")
    try:
        reader = gguf.GGUFReader(file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        fields = {key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1}
    except (OSError, ValueError, IndexError, KeyError) as error:  # of numpy at the end of the file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: cut off, or no GGUF file ({reason}); fetch it again.") from None
    _check(file, fields, tensors)
    architecture = fields["general.architecture"]
    config = _config(architecture, fields, tensors)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    if unread := sorted(tensors.keys() - names.keys()):
        raise UserError(
            f"{file}: {len(unread)} of its tensors have no place in a plain {architecture} model, {unread[0]} among "
            "them; take a file without them, or the model of the hub (kind: hub)."
        )
    weights = {}
    for name, tensor in tensors.items():
        whole = processor.process(gguf.dequantize(tensor.data, tensor.tensor_type), name=name).weights
        weights[names[name]] = torch.from_numpy(np.copy(whole)).to(model.dtype)
    try:
        model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:  # of shapes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: its tensors do not fit its own settings ({reason}); fetch it again.") from None
    model.tie_weights()
    if lost := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise UserError(f"{file}: lacks {len(lost)} tensors, that of {lost[0]} among them; fetch it again.")
    model.save_pretrained(folder)
    tokenizer = load_split(file, split := fields["tokenizer.ggml.pre"])
    tokenizer.save_pretrained(folder)
    if _pre_tokenizer(load_tokenizer(folder)) != _pre_tokenizer(tokenizer):  # some architectures have their own
        raise UserError(
            f"{file}: its tokenizer has the splits of {split}, with which transformers loads no {architecture} model; "
            "take the model of the hub (kind: hub)."
        )
    return found


def _check(file: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> None:
    architecture, kind = fields.get("general.architecture"), fields.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{file}: holds {kind} and no whole model; give the file of the model itself.")
    if architecture not in ARCHITECTURES:
        raise UserError(f"{file}: holds {architecture}, but only {', '.join(ARCHITECTURES)} are read; give another.")
    if (parts := fields.get("split.count", 1)) > 1:
        raise UserError(f"{file}: one of {parts} parts; join them with llama.cpp's `llama-gguf-split --merge`.")
    if not tensors:
        raise UserError(f"{file}: holds a vocabulary and no weights; give the file of the whole model.")
    scaled = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaled != "none" or "rope_freqs.weight" in tensors:
        raise UserError(
            f"{file}: its positions are scaled ({scaled if scaled != 'none' else 'as in Llama 3.1'}), which is not "
            "read from a GGUF file; take the model of the hub (kind: hub)."
        )
    if "tokenizer.chat_template" not in fields:
        raise UserError(f"{file}: has no chat template; give the file of an instruction-tuned model.")
    split = fields.get("tokenizer.ggml.pre")
    if fields.get("tokenizer.ggml.model") != "gpt2" or split not in SPLITS:
        raise UserError(
            f"{file}: its tokenizer is {fields.get('tokenizer.ggml.model')} with the splits of {split}, but only gpt2 "
            f"with those of {', '.join(SPLITS)} is read; take the model of the hub (kind: hub)."
        )


def _config(architecture: str, fields: dict[str, Any], tensors: dict[str, Any]) -> Any:
    # transformers reads no width of a head, and would take Qwen3's default.
    mapping: Any = GGUF_CONFIG_MAPPING[architecture]
    names = {key: name for key, name in mapping.items() if name} | {"attention.key_length": "head_dim"}
    values = {name: fields[f"{architecture}.{key}"] for key, name in names.items() if f"{architecture}.{key}" in fields}
    values |= {f"{name}_token_id": fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in ENDS.items()}
    if "token_embd.weight" in tensors:
        values["vocab_size"] = int(tensors["token_embd.weight"].shape[-1])
    return AutoConfig.for_model(architecture, **values, tie_word_embeddings="output.weight" not in tensors)


def load_split(file: Path, split: str) -> Any:
    """The tokenizer of a file, with the splits that the file names."""
    with loading_from(file, "tokenizer"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    if split == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if split == "qwen2":  # as Qwen's own tokenizers do; llama.cpp does not
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.model.ignore_merges = split == "llama-bpe"
    return tokenizer


def _pre_tokenizer(tokenizer: Any) -> Any:
    return json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]

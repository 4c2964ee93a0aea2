"""GGUF files against the models that they were written from."""

import gguf
import numpy as np
import pytest
import torch

from grace.config.section import UserError
from grace.encoder.gguf import convert
from grace.encoder.loading import load_model
from tests.gguf_files import KINDS, TEXT, as_qwen2, make_model, make_tokenizer, write_gguf

SAMPLES = [TEXT, "", " \n\n7", "Größe \U0001f600\u3042 e\u0301", "def f(x):\n    return x[0]\n", "<|im_end|> <think>"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def converted(file, dtype="float32"):
    folder = file.with_suffix("")
    folder.mkdir()
    convert(file, folder, dtype)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_tokens_are_the_originals(kind, tokenizer, tmp_path):
    model = make_model(kind)
    folder = converted(write_gguf(tmp_path / "model.gguf", model, tokenizer))
    again, its = load_model(folder, "cpu")
    ids = torch.randint(0, 400, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)
    original = tokenizer if kind == "llama" else as_qwen2(tokenizer)
    assert its(SAMPLES)["input_ids"] == original(SAMPLES)["input_ids"]
    assert its.chat_template == tokenizer.chat_template
    assert (its.bos_token_id, its.eos_token_id, its.pad_token_id) == (0, 2, 0)
    ends = again.generation_config
    assert (ends.bos_token_id, ends.eos_token_id, ends.pad_token_id) == (0, 2, 0)


@pytest.mark.parametrize(("kind", "levels"), [("Q8_0", 127), ("Q5_1", 16), ("Q4_1", 8)])
def test_quantized_weights_are_as_near_as_their_levels(kind, levels, tokenizer, tmp_path):
    model = make_model("qwen2")
    file = write_gguf(tmp_path / "model.gguf", model, tokenizer, quantized=gguf.GGMLQuantizationType[kind])
    again = load_model(converted(file), "cpu")[0].state_dict()
    for name, weight in model.state_dict().items():
        off, step = (weight - again[name]).abs(), weight.abs().max() / levels
        assert off.max() < 0.6 * step and (weight.ndim == 1 or off.max() > 0)


def test_bf16_is_kept(tokenizer, tmp_path):
    from safetensors.torch import load_file

    model = make_model("llama")
    folder = converted(write_gguf(tmp_path / "model.gguf", model, tokenizer), "bf16")
    kept = load_file(folder / "model.safetensors")
    assert torch.equal(kept["model.norm.weight"], model.model.norm.weight.bfloat16())


def spelled(folder, text):
    tokenizer = load_model(folder, "cpu")[1]
    return [tokenizer.decode([id]) for id in tokenizer(text)["input_ids"]]


@pytest.mark.parametrize(
    ("split", "first", "digits"),
    [("gpt-2", ["\n", "\n"], "1234"), ("smollm", ["\n\n"], "1 2 3 4"), ("qwen2", ["\n\n"], "1 2 3 4")],
)
def test_a_text_is_split_as_the_file_says(split, first, digits, tokenizer, tmp_path):
    """The vocabulary has two new lines and 1234, which a split before a digit or within a number keeps apart."""
    made = write_gguf(tmp_path / "model.gguf", make_model("llama"), tokenizer, tokenizer__ggml__pre=split)
    assert spelled(converted(made), "\n\n1234") == [*first, *digits.split()]


def test_llama_3_takes_a_whole_word_of_the_vocabulary_before_merges(tokenizer, tmp_path):
    tokens = tokenizer.convert_ids_to_tokens(range(400))
    tokens[tokens.index("1234")] = "zqx"  # which no merge makes
    for split, parts in (("llama-bpe", ["zqx"]), ("gpt-2", ["z", "q", "x"])):
        keys = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__merges": ["e r"], "tokenizer__ggml__pre": split}
        file = write_gguf(tmp_path / f"{split}.gguf", make_model("llama"), tokenizer, **keys)
        assert spelled(converted(file), "zqx") == parts


REFUSED = {  # how the file is written -> what is said
    "another architecture": (
        {"general__architecture": "gemma3"},
        "holds gemma3, but only llama, qwen2, qwen3 are read",
    ),
    "a projector": ({"general__architecture": "clip", "general__type": "mmproj"}, "holds mmproj and no whole model"),
    "an old projector": ({"general__architecture": "clip"}, "holds clip, but only"),
    "an adapter": ({"general__type": "adapter"}, "holds adapter and no whole model; give the file of the model itself"),
    "a part": ({"split__count": 3}, "one of 3 parts; join them with llama.cpp's `llama-gguf-split --merge`"),
    "no chat template": ({"without": "tokenizer.chat_template"}, "has no chat template; give the file of an instr"),
    "another split": (
        {"tokenizer__ggml__pre": "default"},
        "its tokenizer is gpt2 with the splits of default, but only",
    ),
    "no split": ({"without": "tokenizer.ggml.pre"}, "its tokenizer is gpt2 with the splits of None, but only gpt2"),
    "sentencepiece": ({"tokenizer__ggml__model": "llama"}, "its tokenizer is llama with the splits of gpt-2, but only"),
    "scaled positions": ({"llama__rope__scaling__type": "yarn"}, "its positions are scaled .yarn., which is not read"),
    "broken merges": ({"tokenizer__ggml__merges": ["q z"]}, "no tokenizer can be loaded from here .*`qz` out of voc"),
    "a lost tensor": ({"without": "blk.1.ffn_up.weight"}, "lacks 1 tensors, that of model.layers.1.mlp.up_proj"),
    "other shapes": ({"llama__feed_forward_length": 96}, "its tensors do not fit its own settings .*size mismatch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_one_sentence(case, tokenizer, tmp_path):
    keys, said = REFUSED[case]
    file = write_gguf(tmp_path / "model.gguf", make_model("llama"), tokenizer, **keys)
    refused(file, said)


def refused(file, said):
    with pytest.raises(UserError, match=f"^{file}: {said}") as error:
        converted(file)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_tensor_without_a_place(tokenizer, tmp_path):
    model = make_model("llama", attention_bias=True)
    refused(write_gguf(tmp_path / "model.gguf", model, tokenizer), "8 of its tensors have no place in a plain llama")


def test_splits_that_transformers_does_not_keep(tokenizer, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", make_model("qwen2"), tokenizer, tokenizer__ggml__pre="gpt-2")
    with pytest.raises(UserError, match=f"^{file}: its tokenizer has the splits of gpt-2, with which transformers"):
        converted(file)


def test_the_scaled_positions_of_llama_3(tokenizer, tmp_path, monkeypatch):
    write = gguf.GGUFWriter.write_header_to_file

    def more(self):
        self.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
        write(self)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", more)
    refused(
        write_gguf(tmp_path / "model.gguf", make_model("llama"), tokenizer),
        "its positions are scaled .as in Llama 3.1., which is not read",
    )


def test_a_vocabulary_alone(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", lambda *_, **__: None)
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", lambda *_: None)
    file = write_gguf(tmp_path / "model.gguf", make_model("llama"), tokenizer)
    refused(file, "holds a vocabulary and no weights")


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.02, 0.5, 0.9999])
def test_a_file_that_is_cut_off(share, tokenizer, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", make_model("llama"), tokenizer).read_bytes()
    file = tmp_path / "model.gguf"
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, "cut off, or no GGUF file .*; fetch it again")


def test_what_is_no_gguf_file(tmp_path):
    (tmp_path / "model.gguf").write_text("Not Found\n" * 100)
    refused(tmp_path / "model.gguf", "cut off, or no GGUF file .*magic")

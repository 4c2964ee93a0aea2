"""Embeddings of given sequences, and one token a row, against transformers' forward pass of the same model."""

from contextlib import nullcontext

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grace.config.schema import Pooling
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.forward import OneToken, fits
from grace.encoder.reads import Read
from tests.pooled import by_hand

SEQUENCES = [
    [5, 9, 11, 40], [7, 8, 9], [8, 3, 2, 6, 7, 9, 30, 31, 32, 50, 60], [1, 2, 3, 4],
    *([4, 5, i, 7, i] for i in range(9)),
]  # fmt: skip
LAYERS = ["last", "penultimate", 0, 1, 2]  # of two


def reads_of(sequences, start=2, short=0):
    """Pooled from `start` on, without the last `short` tokens."""
    return [Read(ids, start, len(ids) - short) for ids in sequences]


def pooling_of(method="mean", layer="last"):
    return Pooling(method=method, layer=layer)


@pytest.mark.parametrize("max_tokens", [1, 16, 1000])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["mean", "max", "eos"])
def test_equals_one_at_a_time(tiny, method, layer, max_tokens):
    pooling, reads = pooling_of(method, layer), reads_of(SEQUENCES[::2]) + reads_of(SEQUENCES[1::2], 0, 1)
    expected = by_hand(tiny[0], reads, pooling)
    made = forward.embed(tiny[0], reads, pooling=pooling, max_tokens=max_tokens)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_of_an_early_layer_only_the_blocks_below_are_computed(tiny):
    model, calls = tiny[0], []
    blocks = list(model.get_decoder().layers)
    hooks = [block.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, block in enumerate(blocks)]
    forward.embed(model, reads_of(SEQUENCES), pooling=pooling_of(layer=1))
    assert {*calls} == {0}
    forward.embed(model, reads_of(SEQUENCES), pooling=pooling_of())
    assert {*calls} == {0, 1} and list(model.get_decoder().layers) == blocks
    for hook in hooks:
        hook.remove()


def test_no_sequences(tiny):
    assert forward.embed(tiny[0], [], pooling=pooling_of()).shape == (0, 32)


def test_batches_bound_the_padded_tokens():
    lengths = [3, 50, 0, 7, 7, 8, 1, 120]
    made = list(forward.batches(lengths, 32))
    assert sorted(i for rows in made for i in rows) == [0, 1, 3, 4, 5, 6, 7]
    assert made[:2] == [[7], [1]]  # too long for company
    assert all(len(rows) * max(lengths[i] for i in rows) <= 32 for rows in made[2:])
    assert list(forward.batches([40, 30, 9, 8, 7, 1], 2000)) == [[0, 1, 2, 3, 4, 5]]  # too little to go apart
    assert list(forward.batches([400, 390, 300, 9, 8], 1000)) == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer])  # without a block there is nothing to share
def test_a_shared_prefix_is_read_once(tiny, layer):
    reads = reads_of([[5, 6, 7, *ids] for ids in SEQUENCES], 3)
    read = []
    decoder = tiny[0].get_decoder()
    hook = decoder.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    made = forward.embed(tiny[0], reads, pooling=pooling_of(layer=layer))
    hook.remove()
    assert read[0].tolist() == [[5, 6, 7]] and not any((ids[:, 0] == 5).all() and ids.shape[1] > 12 for ids in read)
    torch.testing.assert_close(made, by_hand(tiny[0], reads, pooling_of(layer=layer)), atol=1e-5, rtol=0)


SHAPE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8}

SHAPE |= {"num_hidden_layers": 3, "max_position_embeddings": 64}

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KNOWN = {
    "llama": {"num_key_value_heads": 1, "mlp_bias": True},
    "llama, rope of 3.2": {
        "num_key_value_heads": 4,
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16},
    },
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2},
}
UNKNOWN = {
    "mistral": {"num_key_value_heads": 4, "sliding_window": 9},
    "llama": {"num_key_value_heads": 4, "hidden_act": "gelu"},
    "llama, rope that grows": {
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    },
    "qwen2": {"num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
}


def model_of(name, more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(",")[0], **SHAPE, **more)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # far from zero, biases and norms too, so that nothing can be left out
        parameter.data.mul_(4).add_(0.1 * torch.randn_like(parameter))
    return model


def write(model, layer="last"):
    prompts = [[7, 8, 9, *range(20, 20 + n)] for n in (1, 2, 3, 5, 8, 8, 13, 21, 30, 30)]
    return engine.generate(
        model, prompts, pool_from=3, pooling=Pooling(method="mean", layer=layer, normalize=False), keys=[*range(10)],
        temperatures=[0.0, 1.0] * 5, max_new_tokens=20, ends=[*range(390, 400)], batch_size=4,
    )  # fmt: skip


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("name", KNOWN)
def test_equals_transformers(name, layer, monkeypatch):
    model, steps = model_of(name, KNOWN[name]), []
    real = OneToken.__call__
    monkeypatch.setattr(OneToken, "__call__", lambda self, *given: steps.append(len(given[0])) or real(self, *given))
    ours = write(model, layer)
    assert sum(steps) == sum(len(ids) - 1 for ids in ours.token_ids) > 100  # each token but the last is read once
    monkeypatch.setattr(forward, "fits", lambda _: False)
    theirs = write(model, layer)
    assert sum(steps) == sum(len(ids) - 1 for ids in ours.token_ids) and ours.token_ids == theirs.token_ids
    torch.testing.assert_close(ours.pooled, theirs.pooled, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_architectures_are_left_to_transformers(name):
    assert not fits(model_of(name, UNKNOWN[name]))


def test_what_is_wrapped_or_cast_is_left_to_transformers():
    model = model_of("qwen2", KNOWN["qwen2"])
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            assert fits(model) is not autocast
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert not fits(model)
    hook.remove()
    assert fits(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["v_proj"], task_type="CAUSAL_LM"))
    assert not fits(adapted.get_base_model())


def test_a_model_that_was_asked_for_its_hidden_states_is_read_as_before():
    model = model_of("qwen2", KNOWN["qwen2"])
    expected = write(model)
    model(torch.tensor([[5]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())  # transformers' own, which stay
    assert fits(model)
    made = write(model)
    assert made.token_ids == expected.token_ids and torch.equal(made.pooled, expected.pooled)
    model.model.layers[1].register_forward_hook(lambda *_: None)
    assert not fits(model)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj", "down_proj"], ["embed_tokens"]])
def test_a_backbone_whose_adapters_are_off_is_read_as_it_is(targets):
    model = model_of("qwen2", KNOWN["qwen2"])
    expected = write(model)
    config = peft.LoraConfig(target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    assert not fits(adapted.get_base_model())
    with adapted.disable_adapter():
        assert fits(adapted.get_base_model())
        made = write(adapted.get_base_model())
    assert made.token_ids == expected.token_ids and torch.equal(made.pooled, expected.pooled)
    adapted.merge_adapter()
    with adapted.disable_adapter():  # its weights are not the backbone's
        assert not fits(adapted.get_base_model())


def test_under_autocast_keys_are_kept_as_attention_takes_them(monkeypatch):
    model, kinds = model_of("qwen2", KNOWN["qwen2"]), set()
    real = forward._SlotLayer.update

    def update(*given, **more):
        kept = real(*given, **more)
        kinds.update(part.dtype for part in kept)
        return kept

    monkeypatch.setattr(forward._SlotLayer, "update", update)
    with torch.autocast("cpu", torch.bfloat16):
        write(model)
    assert kinds == {torch.bfloat16}

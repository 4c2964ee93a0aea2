"""Adapters for pooling and for writing: what is on, what is written, what comes back from a folder."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load

from grace.encoder import adapters
from grace.encoder.adapters import EMBEDDING, GENERATOR, embedding, separate, writing
from grace.encoder.engines import transformers as engine
from grace.encoder.loading import load_model
from grace.encoder.sampling import text_key
from grace.method.prompt import PromptTemplate
from grace.settings import Pooling
from tests.adapted import adapted

POOLING = Pooling(method="mean", layer="last", normalize=True)
IDS = torch.tensor([[5, 9, 60, 7, 33]])


def written(model, tokenizer, texts, temperature):
    template = PromptTemplate.from_tokenizer(tokenizer, "Think.", 64)
    made = engine.generate(
        model, template.ids(texts), pool_from=len(template.prefix), pooling=None,
        keys=[text_key(0, text) for text in texts], temperatures=[temperature] * len(texts), max_new_tokens=24,
        ends=engine.end_tokens(model, tokenizer), batch_size=4,
    )  # fmt: skip
    return made.token_ids


@torch.no_grad()
def states(model):
    return model.get_decoder()(input_ids=IDS).last_hidden_state


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rationales_beside_an_adapter_for_pooling_are_the_backbones_token_for_token(
    tiny, tiny_folder, texts, temperature
):
    bare, tokenizer = tiny
    model = adapted(tiny_folder)
    expected = written(bare, tokenizer, texts, temperature)
    with writing(model) as writer:
        assert written(writer, tokenizer, texts, temperature) == expected
    with embedding(model) as other:  # the comparison can tell them apart
        assert written(other, tokenizer, texts, temperature) != expected


def test_each_use_has_its_own_adapter_alone(tiny, tiny_folder):
    bare, _ = tiny
    model = adapted(tiny_folder, generator=True)
    expected = {}
    for name in (EMBEDDING, GENERATOR):
        model.set_adapter(name)
        expected[name] = states(model)
    assert (expected[EMBEDDING] - expected[GENERATOR]).abs().max() > 0.01
    for on in (EMBEDDING, GENERATOR):
        model.set_adapter(on)
        with embedding(model) as pools:
            assert torch.equal(states(pools), expected[EMBEDDING])
        with writing(model) as writes:
            assert torch.equal(states(writes), expected[GENERATOR])
        assert torch.equal(states(model), expected[on])
    with model.disable_adapter():
        assert torch.equal(states(model), states(bare))
        with embedding(model) as pools:
            assert torch.equal(states(pools), expected[EMBEDDING])
        assert torch.equal(states(model), states(bare))


@pytest.mark.parametrize("generator", [False, True])
def test_nested_use_and_exceptions_restore_what_was_on(tiny_folder, generator):
    model = adapted(tiny_folder, generator)
    model.set_adapter(GENERATOR if generator else EMBEDDING)
    modules = dict(model.named_modules())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = states(model)
    with embedding(model) as pools:
        pooled = states(pools)
    with writing(model) as writes:
        wrote = states(writes)
    assert (pooled - wrote).abs().max() > 0.01
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), writing(model) as outer:
            with embedding(model) as inner:
                assert torch.equal(states(inner), pooled)
                with writing(model) as deepest, writing(model):
                    assert torch.equal(states(deepest), wrote)
                assert torch.equal(states(inner), pooled)
            with pytest.raises(KeyError), embedding(model):
                raise KeyError
            assert torch.equal(states(outer), wrote)
            raise ZeroDivisionError
    assert torch.equal(states(model), before)
    assert dict(model.named_modules()) == modules
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained


def test_gradients_reach_the_adapter_that_pools_and_no_other(tiny_folder):
    model = adapted(tiny_folder, generator=True).train()
    model.base_model.set_adapter([EMBEDDING, GENERATOR])
    with writing(model):
        pass
    with embedding(model) as pools:
        pools.get_decoder()(input_ids=IDS).last_hidden_state.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if EMBEDDING in name}


def test_an_ordinary_model_is_used_as_it_is(tiny):
    model, _ = tiny
    assert not separate(model)
    with writing(model) as writes, embedding(model) as pools:
        assert writes is model and pools is model


def test_what_is_saved_is_loaded_by_the_project_and_by_peft_itself(tiny_folder, generator_folder):
    model = adapted(tiny_folder, generator=True)
    loaded, _ = load_model(generator_folder, "cpu")
    plain = PeftModel.from_pretrained(load_model(tiny_folder, "cpu")[0], str(generator_folder))
    with embedding(model) as pools, torch.no_grad():
        expected = states(pools)
        assert torch.equal(states(plain), expected)
    with writing(model) as writes:
        wrote = states(writes)
    with embedding(loaded) as pools:
        assert torch.equal(states(pools), expected)
    with writing(loaded) as writes:
        assert torch.equal(states(writes), wrote)
    assert not any(parameter.requires_grad for name, parameter in loaded.named_parameters() if "lora_" in name)


def test_a_saved_folder_has_no_weights_of_the_backbone_and_the_same_bytes_wherever_it_is_made(tiny_folder, tmp_path):
    folders = [tmp_path / name / "adapter" / "seed0" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        at = adapters.save(folder, adapted(tiny_folder, generator=True))
    one, other = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders
    )
    assert one == other
    assert {*one} == {
        f"{part}adapter_{name}" for part in ("", "generator/") for name in ("config.json", "model.safetensors")
    }
    assert json.loads(one["adapter_config.json"])["base_model_name_or_path"] == at.base
    for name in ("adapter_model.safetensors", "generator/adapter_model.safetensors"):
        assert all("lora_" in key for key in load(one[name]))

"""GraceTrainer with a real vLLM in its own process, as on a GPU: whose weights it samples from, and how."""

from functools import partial

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

from grace.encoder.reads import Read
from grace.training.run import load
from grace.training.trainer import GraceTrainer, grpo_config
from tests.pooled import by_hand
from tests.training.settings import grace_spec, rows


class Recorder(GraceTrainer):
    """Keeps, of each generation, the weights at that moment, what was asked of vLLM and what it gave."""

    def __init__(self, *args, **kwargs):
        self.kept = []
        super().__init__(*args, **kwargs)

    def _write_with_vllm(self, prompts, rollouts, temperatures, keys):
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        written, logprobs = super()._write_with_vllm(prompts, rollouts, temperatures, keys)
        self.kept.append((weights, prompts, temperatures, keys, written, logprobs))
        return written, logprobs

    def _generate_single_turn(self, *args, **kwargs):
        made = super()._generate_single_turn(*args, **kwargs)
        self.kept[-1] += (self.embeddings,)
        return made


@pytest.fixture(scope="module")
def trainer(folder, tmp_path_factory):
    """Trained for two steps at a large learning rate."""
    import vllm
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils

    def keep_weights(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    # On a CPU vLLM packs a linear layer's weights into a copy when it starts, and would sample from that for ever.
    held, utils.dispatch_cpu_unquantized_gemm = utils.dispatch_cpu_unquantized_gemm, keep_weights
    exact = {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False}
    vllm_generation.LLM = partial(vllm.LLM, **exact)
    try:
        spec = grace_spec(engine="vllm", learning_rate=0.03, max_steps=2, frozen=[])
        model, tokenizer = load(folder, spec)
        data = rows(16)
        args = grpo_config(spec, str(tmp_path_factory.mktemp("out")), len(data))
        made = Recorder(model, tokenizer, spec, data, args)
        made.train()
        yield made
    finally:
        vllm_generation.LLM = vllm.LLM
        utils.dispatch_cpu_unquantized_gemm = held


def log_probabilities(model, prompt, ids, temperature):
    """Of `ids` after `prompt`, by a plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)


def model_with(trainer, weights):
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    model.load_state_dict(weights, strict=False)
    return model


def difference(trainer, weights, generation):
    """Largest distance of vLLM's log-probabilities from those of a model with these weights."""
    _, prompts, temperatures, _, written, logprobs, _ = trainer.kept[generation]
    model = model_with(trainer, weights)
    return max(
        (log_probabilities(model, prompt, ids, t) - torch.tensor(found)).abs().max().item()
        for prompt, ids, t, found in zip(prompts, written, temperatures, logprobs, strict=False)
    )


def test_vllm_samples_from_the_updated_policy(trainer):
    before, after = trainer.kept[0][0], trainer.kept[1][0]
    assert difference(trainer, before, 0) < 1e-4
    assert difference(trainer, after, 1) < 1e-4
    assert difference(trainer, before, 1) > 0.1


def test_log_probabilities_of_the_rollouts_alone_are_handed_back(trainer):
    _, prompts, _, _, written, logprobs, _ = trainer.kept[0]
    assert len(prompts) == len(written) == 8 * (4 + 2) and len(logprobs) == 8 * 4
    assert [len(found) for found in logprobs] == [len(ids) for ids in written[:32]]


def test_rollouts_of_a_group_differ(trainer):
    for _, prompts, _, keys, written, _, _ in trainer.kept:
        assert len(set(keys)) == len(keys)
        for first in range(0, 32, 4):
            assert all(prompts[first] == prompt for prompt in prompts[first : first + 4])
            assert len({tuple(ids) for ids in written[first : first + 4]}) == 4


def test_anchors_have_their_own_temperature(trainer):
    _, prompts, temperatures, _, _, _, _ = trainer.kept[1]
    assert temperatures == [1.0] * 32 + [0.5] * 16
    asked = [0.0, 0.5, 1.0, 2.0] * 4
    keys = list(range(16))
    written, logprobs = GraceTrainer._write_with_vllm(trainer, prompts[:1] * 16, 16, asked, keys)
    current = trainer.accelerator.unwrap_model(trainer.model)
    for ids, found, temperature in zip(written, logprobs, asked, strict=True):
        if temperature:
            expected = log_probabilities(current, prompts[0], ids, temperature)
            torch.testing.assert_close(torch.tensor(found), expected, atol=1e-3, rtol=0)
    assert len({tuple(ids) for ids in written[::4]}) == 1  # greedy
    assert len({tuple(ids) for ids in written[3::4]}) == 4


def test_the_same_keys_sample_the_same(trainer):
    _, prompts, temperatures, keys, _, _, _ = trainer.kept[1]
    first, _ = GraceTrainer._write_with_vllm(trainer, prompts, 32, temperatures, keys)
    second, _ = GraceTrainer._write_with_vllm(trainer, prompts[:5], 5, temperatures[:5], keys[:5])
    assert first[:5] == second


def test_rationales_end_at_the_models_end_tokens(trainer):
    written = [ids for kept in trainer.kept for ids in kept[4]]
    ended = [ids[-1] in trainer.ends for ids in written]
    assert any(ended) and not all(ended)
    assert all(not set(ids[:-1]) & set(trainer.ends) for ids in written)
    assert all(end or len(ids) == 12 for ids, end in zip(written, ended, strict=True))


def test_embeddings_are_of_the_policy_that_sampled(trainer):
    weights, prompts, _, _, written, _, at = trainer.kept[1]
    model = model_with(trainer, weights)
    start = len(trainer.template.prefix)
    rows = [prompt + ids[:-1] for prompt, ids in zip(prompts, written, strict=True)]
    expected = by_hand(model, [Read(ids, start, len(ids)) for ids in rows], trainer.spec.pooling)
    torch.testing.assert_close(at.positives.flatten(0, 1), expected[:32], atol=1e-4, rtol=0)
    torch.testing.assert_close(at.query, expected[32::2], atol=1e-4, rtol=0)
    torch.testing.assert_close(at.negatives[:, 0], expected[33::2], atol=1e-4, rtol=0)

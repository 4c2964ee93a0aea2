"""Parameters against transformers' own count; seconds and bytes against numbers worked out by hand."""

import pytest

from grace.config import Backbone, Hardware
from grace.report.planning import costs
from grace.settings import Lora
from tests.report.hand import CONFIG, HARDWARE, SMALL


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-0.5b", 0.494),
        ("qwen2.5-1.5b", 1.544),
        ("llama3.2-3b", 3.213),
        ("qwen2.5-3b", 3.086),
        ("qwen3-4b", 4.022),
        ("smollm2-135m", 0.1345),
    ],
)
def test_parameters_are_those_of_the_model(name, billions):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    b = Backbone(**CONFIG["available_backbones"][name])
    shape = AutoConfig.for_model(
        b.architecture, vocab_size=b.vocab_size, hidden_size=b.width, intermediate_size=b.feed_forward,
        num_hidden_layers=b.layers, num_attention_heads=b.heads, num_key_value_heads=b.kv_heads,
        tie_word_embeddings=True, **({"head_dim": b.head_width} if b.head_width else {}),
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert costs.parameters(b) == sum(p.numel() for p in model.parameters())
    assert costs.parameters(b) / 1e9 == pytest.approx(billions, abs=0.001)  # as published


def test_adapters_by_hand():
    b = Backbone(**SMALL)
    # rank 2 x (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert costs.adapter_parameters(b, Lora(rank=2, alpha=4, dropout=0, targets="all-linear")) == 256
    assert costs.adapter_parameters(b, Lora(rank=2, alpha=4, dropout=0, targets=["q_proj", "v_proj"])) == 56


def test_costs_by_hand():
    b, h = Backbone(**SMALL), Hardware(gpu="x", decode_batch=4, **HARDWARE)
    assert (costs.parameters(b), costs.layer_parameters(b), costs.cache_bytes(b)) == (1416, 616, 16)
    # 3 texts x (2 x 616 x 10 + 2 x 8 x 10^2) + 2 x 800 x 6
    assert costs.forward_flops(b, 3, 10, 6) == 51_360
    assert costs.compute_seconds(h, 51_360) == pytest.approx(51_360 / 5e11)
    # Mean context 20: 30 steps x 2,832 bytes of weights + 80 tokens x 20 x 16 bytes of cache = 110,560 bytes
    assert costs.decode_seconds(b, h, 10, 20, 4, 30) == pytest.approx(110_560 / 5e8)
    # 80 tokens x (2,832 + 4 x 8 x 20) operations decide once bandwidth is plenty
    fast = h.model_copy(update={"bandwidth_tb": 1e6})
    assert costs.decode_seconds(b, fast, 10, 20, 4, 30) == pytest.approx(277_760 / 5e11)
    slow = h.model_copy(update={"step_overhead_ms": 15, "vllm_step_overhead_ms": 2})
    assert (costs.overhead_seconds(slow, False, 30), costs.overhead_seconds(slow, True, 30)) == (0.45, 0.06)
    # 2,832 bytes of weights and 5.5 texts of 30 tokens x 16 bytes
    assert costs.slots(b, h.model_copy(update={"decode_batch": 9}), 2832 + 2640, 30) == 5
    assert costs.slots(b, h, 2832 + 2640, 30) == 4 and costs.slots(b, h, 100, 30) == 1
    lora = Lora(rank=2, alpha=4, dropout=0, targets="all-linear")
    assert costs.state_bytes(b, None, 4) == 16 * 1416 / 4
    assert costs.state_bytes(b, lora, 2) == (4 * 1416 + 16 * 256) / 2
    # 10 tokens x 2 bytes x (8 x 8 + 4 x 16) = 2,560; checkpointed: inputs 160 and twice a layer
    assert costs.activation_bytes(b, 10, False) == 2560 and costs.activation_bytes(b, 10, True) == 5280

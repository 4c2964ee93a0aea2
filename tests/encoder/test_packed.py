"""Embeddings of given sequences: packed in one row, padded, and by the engine's own forward."""

import pytest
import torch

from grace.encoder.engines import packed
from grace.settings import Pooling

SEQUENCES = [
    [5, 9, 11, 40], [7, 8, 9], [8, 3, 2, 6, 7, 9, 30, 31, 32, 50, 60], [1, 2, 3, 4],
    *([4, 5, i, 7, i] for i in range(9)),
]  # fmt: skip


def pooling_of(method="mean", layer="last"):
    return Pooling(method=method, layer=layer, normalize=False)


@pytest.mark.parametrize("as_packed", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 16, 1000])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("method", ["mean", "max", "eos"])
def test_equals_a_plain_padded_forward(tiny, method, layer, max_tokens, as_packed):
    pooling = pooling_of(method, layer)
    with torch.no_grad():
        expected = packed.forward_pooled(tiny[0], *packed.left_pad(SEQUENCES), 2, pooling)
    made = packed.embed(
        tiny[0], SEQUENCES, pool_from=2, pooling=pooling, packed=as_packed, max_tokens=max_tokens
    )  # fmt: skip
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("as_packed", [True, False])
def test_nothing_to_pool_is_zero(tiny, as_packed):
    sequences = [[5, 6, 7, 8], [], [3], [3, 4, 5]]
    for method in ("mean", "max", "eos"):
        made = packed.embed(tiny[0], sequences, pool_from=2, pooling=pooling_of(method), packed=as_packed)
        assert made.any(1).tolist() == [True, False, False, True]
    assert packed.embed(tiny[0], [], pool_from=2, pooling=pooling_of()).shape == (0, 32)


def test_neighbours_in_the_row_are_not_attended_to(tiny):
    alone = packed.embed(tiny[0], SEQUENCES[:1], pool_from=0, pooling=pooling_of(), packed=True)
    for company in ([SEQUENCES[2]], [[9] * 30, *SEQUENCES]):
        together = packed.forward_packed(tiny[0], [*company, SEQUENCES[0]], 0, pooling_of())
        torch.testing.assert_close(together[-1:], alone, atol=1e-5, rtol=0)


def test_batches_bound_the_padded_tokens():
    lengths = [3, 50, 0, 7, 7, 8, 1, 120]
    made = list(packed.batches(lengths, 32))
    assert sorted(i for rows in made for i in rows) == [0, 1, 3, 4, 5, 6, 7]
    assert made[:2] == [[7], [1]]  # too long for company
    assert all(len(rows) * max(lengths[i] for i in rows) <= 32 for rows in made[2:])
    assert list(packed.batches([40, 30, 9, 8, 7, 1], 2000)) == [[0, 1, 2, 3, 4, 5]]  # too little to go apart
    assert list(packed.batches([400, 390, 300, 9, 8], 1000)) == [[0, 1], [2], [3, 4]]


def test_a_cpu_gets_padded_rows_and_flash_attention_packed_ones(tiny, monkeypatch):
    assert not packed.runs_flash_attention(tiny[0])
    seen = []
    original = packed.forward_packed
    monkeypatch.setattr(packed, "forward_packed", lambda *a: seen.append(len(a[1])) or original(*a))
    packed.embed(tiny[0], SEQUENCES, pool_from=0, pooling=pooling_of())
    assert not seen
    monkeypatch.setattr(packed, "runs_flash_attention", lambda model: True)
    packed.embed(tiny[0], SEQUENCES, pool_from=0, pooling=pooling_of())
    assert seen == [len(SEQUENCES)]


def test_a_plain_forward_is_safe_under_either_padding(tiny):
    alone = torch.cat([packed.forward_pooled(tiny[0], *packed.left_pad([ids]), 0, pooling_of()) for ids in SEQUENCES])
    left = packed.forward_pooled(tiny[0], *packed.left_pad(SEQUENCES), 0, pooling_of())
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-4)
    ids = torch.tensor([[5, 9, 11, 40, 0, 0], [7, 8, 9, 0, 0, 0]])
    right = packed.forward_pooled(tiny[0], ids, (ids > 0).long(), 0, pooling_of())
    torch.testing.assert_close(right, alone[:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_a_shared_prefix_is_read_once(tiny, layer):
    rows = [[5, 6, 7, *ids] for ids in SEQUENCES]
    read = []
    hook = (
        tiny[0]
        .get_decoder()
        .register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    )
    made = packed.embed(tiny[0], rows, pool_from=3, pooling=pooling_of(layer=layer))
    hook.remove()
    assert read[0].tolist() == [[5, 6, 7]] and not any((ids[:, 0] == 5).all() and ids.shape[1] > 12 for ids in read)
    with torch.no_grad():
        expected = packed.forward_pooled(tiny[0], *packed.left_pad(rows), 3, pooling_of(layer=layer))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)

"""Embeddings of given sequences, packed in one row and padded, against one sequence at a time through transformers."""

import pytest
import torch

from grace.encoder.engines import packed
from grace.encoder.reads import Read, whole
from grace.section import UserError
from grace.settings import Pooling
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


@pytest.mark.parametrize("as_packed", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 16, 1000])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["mean", "max", "eos"])
def test_equals_one_at_a_time(tiny, method, layer, max_tokens, as_packed):
    pooling, reads = pooling_of(method, layer), reads_of(SEQUENCES[::2]) + reads_of(SEQUENCES[1::2], 0, 1)
    expected = by_hand(tiny[0], reads, pooling)
    made = packed.embed(tiny[0], reads, pooling=pooling, packed=as_packed, max_tokens=max_tokens)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_of_an_early_layer_only_the_blocks_below_are_computed(tiny):
    model, calls = tiny[0], []
    blocks = list(model.get_decoder().layers)
    hooks = [block.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, block in enumerate(blocks)]
    packed.embed(model, reads_of(SEQUENCES), pooling=pooling_of(layer=1))
    assert {*calls} == {0}
    packed.embed(model, reads_of(SEQUENCES), pooling=pooling_of())
    assert {*calls} == {0, 1} and list(model.get_decoder().layers) == blocks
    for hook in hooks:
        hook.remove()


def test_a_layer_that_the_model_lacks(tiny):
    with pytest.raises(UserError, match=r"pooling\.layer: 3, but this model has 2 blocks; give at most 2"):
        packed.embed(tiny[0], reads_of(SEQUENCES), pooling=pooling_of(layer=3))


@pytest.mark.parametrize("as_packed", [True, False])
def test_no_sequences(tiny, as_packed):
    assert packed.embed(tiny[0], [], pooling=pooling_of(), packed=as_packed).shape == (0, 32)


def test_neighbours_in_the_row_are_not_attended_to(tiny):
    alone = packed.embed(tiny[0], [whole(SEQUENCES[0])], pooling=pooling_of(), packed=True)
    for company in ([SEQUENCES[2]], [[9] * 30, *SEQUENCES]):
        together = packed.forward_packed(tiny[0], [whole(ids) for ids in (*company, SEQUENCES[0])], pooling_of())
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
    packed.embed(tiny[0], reads_of(SEQUENCES), pooling=pooling_of())
    assert not seen
    monkeypatch.setattr(packed, "runs_flash_attention", lambda model: True)
    packed.embed(tiny[0], reads_of(SEQUENCES), pooling=pooling_of())
    assert seen == [len(SEQUENCES)]


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer])  # without a block there is nothing to share
def test_a_shared_prefix_is_read_once(tiny, layer):
    reads = reads_of([[5, 6, 7, *ids] for ids in SEQUENCES], 3)
    read = []
    hook = (
        tiny[0]
        .get_decoder()
        .register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    )
    made = packed.embed(tiny[0], reads, pooling=pooling_of(layer=layer))
    hook.remove()
    assert read[0].tolist() == [[5, 6, 7]] and not any((ids[:, 0] == 5).all() and ids.shape[1] > 12 for ids in read)
    torch.testing.assert_close(made, by_hand(tiny[0], reads, pooling_of(layer=layer)), atol=1e-5, rtol=0)

"""Batches of a generation: groups stay together, and rows lose padding but nothing else."""

import torch
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from grace.training.batches import Embeddings, exchanged, in_groups, in_rows


def batch():
    """6 rows of 2 groups: prompts of 2 and 4 tokens, padded to 5; rollouts of 1 to 3, padded to 7."""
    prompts, rollouts = torch.tensor([2, 2, 2, 4, 4, 4]), torch.tensor([1, 3, 2, 2, 1, 1])
    prompt_mask = (torch.arange(5) >= 5 - prompts.unsqueeze(1)).long()
    completion_mask = (torch.arange(7) < rollouts.unsqueeze(1)).long()
    row = torch.arange(1, 7).unsqueeze(1)
    return {
        "prompt_ids": row * 10 * prompt_mask, "prompt_mask": prompt_mask,
        "completion_ids": row * completion_mask, "completion_mask": completion_mask,
        "old_per_token_logps": -row * completion_mask.float(), "advantages": row.squeeze(1).float(),
        "num_items_in_batch": completion_mask.sum(), "nothing": None,
    }  # fmt: skip


def test_trl_shuffles_and_splits_whole_groups():
    torch.manual_seed(0)
    parts = split_tensor_dict(shuffle_sequence_dict(in_groups(batch(), 3)), 2)
    seen = [in_rows(part)["advantages"].tolist() for part in parts]
    assert sorted(seen) == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_rows_come_back_without_common_padding():
    whole = batch()
    for some, prompt, rollout in ((slice(0, 3), 2, 3), (slice(3, 6), 4, 2)):
        part = {k: v[some] if isinstance(v, torch.Tensor) and v.ndim else v for k, v in whole.items()}
        for given in (part, in_groups(part, 3)):
            made = in_rows(given)
            assert made["prompt_ids"].shape == made["prompt_mask"].shape == (3, prompt)
            for name in ("completion_ids", "completion_mask", "old_per_token_logps"):
                assert made[name].shape == (3, rollout)
                assert made[name].sum() == part[name].sum()  # what is cut off is zero
            assert made["prompt_ids"].sum() == part["prompt_ids"].sum()
            assert torch.equal(made["advantages"], part["advantages"])
            assert made["num_items_in_batch"] == 10 and made["nothing"] is None


def test_old_tensors_are_not_changed():
    part = batch()
    shapes = {name: value.shape for name, value in part.items() if value is not None}
    in_rows(part), in_groups(part, 3)
    assert shapes == {name: value.shape for name, value in part.items() if value is not None}


def test_embeddings_are_split_as_their_texts_were_written():
    """Two instances: rollouts a0 a1 a2 b0 b1 b2, then q and two d- of a, of b, then a greedy rollout of each."""
    pooled = torch.arange(6 + 6 + 2).float().unsqueeze(1)
    at = Embeddings.split(pooled, 2, 3, 3)
    assert at.positives.squeeze(2).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert at.query.squeeze(1).tolist() == [6, 9]
    assert at.negatives is not None and at.negatives.squeeze(2).tolist() == [[7, 8], [10, 11]]
    assert at.greedy is not None and at.greedy.squeeze(2).tolist() == [[12], [13]]
    bare = Embeddings.split(pooled[:8], 2, 3, 1)
    assert bare.negatives is None and bare.greedy is None and bare.query.squeeze(1).tolist() == [6, 7]


def test_exchanged_rows_have_the_query_where_the_document_was():
    row = {"id": "a", "prompt": "document", "query": "query", "negatives": ["other"]}
    (made,) = exchanged([row])
    assert (made["prompt"], made["query"], made["negatives"]) == ("query", "document", ["other"])
    assert made["id"] != "a"  # its noise is its own
    assert exchanged([made])[0]["prompt"] == "document"

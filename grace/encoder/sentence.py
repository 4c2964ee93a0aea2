"""The encoder as a model of Sentence Transformers, for all that takes one: mteb, LangChain, LlamaIndex.

    import grace  # lets Sentence Transformers load the class below; nothing from the folder is run
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("results/demo/models/tiny/grace/seed0")
    model.encode(["a text"])  # as RationaleEncoder.from_pretrained(...).encode(["a text"]).embeddings

How the model embeds is read from its grace.json; `model_kwargs` takes the settings of
`RationaleEncoder.from_pretrained` and `dtype`, and `encode` takes `rationales`:

    SentenceTransformer(path, model_kwargs={"max_new_tokens": 64, "sampling_temperature": 0.0, "seed": 1})
    model.encode(texts, rationales=False)

`encode(batch_size=...)` says how many texts are handed over at a time; up to `model_kwargs["batch_size"]` rationales
are written side by side. Embeddings depend on neither (up to floating-point error). A prompt of Sentence Transformers
is put before the text; none is saved.

mteb takes the model: `mteb.evaluate(model, tasks)`. LangChain and LlamaIndex take the folder's path, after
`import grace`: `HuggingFaceEmbeddings(model_name=path)` of langchain_huggingface, with the settings above as
`model_kwargs={"model_kwargs": {"max_new_tokens": 64}}`, and `HuggingFaceEmbedding(model_name=path)` of
llama_index.embeddings.huggingface. Where no settings can be handed on, set them in `encode` of the folder's grace.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers.base.modules import InputModule

from grace.config.section import UserError, build
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.reads import checked_texts
from grace.encoder.saved import Encode, filling


class RationaleModule(InputModule):
    """Generation, pooling and normalisation in one module.

    Args:
        choose_dtype: change to bfloat16 when moved from the CPU to another device, as `RationaleEncoder` does.
    """

    def __init__(self, encoder: RationaleEncoder, choose_dtype: bool = False) -> None:
        super().__init__()
        self.forward_kwargs = {"rationales"}  # what `encode` may hand on
        self.encoder, self.choose_dtype = encoder, choose_dtype
        self.model, self.tokenizer = encoder.model, encoder.tokenizer

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Texts stay text: a rationale's sampling depends on the text itself. Raises: TypeError as `encode`."""
        return {"texts": [(prompt or "") + text for text in checked_texts(list(inputs))]}

    def forward(self, features: dict[str, Any], rationales: bool | None = None, **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` [N, d] float32, on the model's device. Raises: UserError in training."""
        if self.training and torch.is_grad_enabled():
            raise UserError("a GRACE model is trained by this project's workflow, not by Sentence Transformers.")
        embeddings = self.encoder.encode(features["texts"], rationales).embeddings
        return {**features, "sentence_embedding": torch.from_numpy(embeddings).to(self.model.device)}

    def get_embedding_dimension(self) -> int:
        return self.encoder.width

    @property
    def max_seq_length(self) -> int:
        """Longest prompt in tokens, instruction and template included; set it to cut texts earlier or later."""
        return self.encoder.spec.prompt.max_prompt_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        spec = self.encoder.spec
        prompt = spec.prompt.model_copy(update={"max_prompt_tokens": value})
        spec = spec.model_copy(update={"prompt": prompt})
        self.encoder = RationaleEncoder(self.model, self.tokenizer, spec, writes=self.encoder.writes)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write weights, tokenizer and grace.json; `SentenceTransformer.save` calls this and writes its own files."""
        with filling(Path(output_path)) as folder:
            self.encoder.write_files(folder)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> Self:
        """Called by `SentenceTransformer`, which then moves the model to its device.

        Raises:
            UserError: when there is no usable model, or a setting is unknown, wrong or not for this model.
        """
        if backend != "torch" or processor_kwargs or config_kwargs:
            raise UserError(
                f"{model_name_or_path}: a GRACE model runs on torch and takes model_kwargs alone; leave out backend, "
                "processor_kwargs and config_kwargs."
            )
        folder = cls.load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only)
        given = dict(model_kwargs or {})
        dtypes = [_dtype(found) for name in ("dtype", "torch_dtype") if (found := given.pop(name, None)) is not None]
        build(Encode, given, "model_kwargs")
        encoder = RationaleEncoder.from_pretrained(folder or model_name_or_path, device="cpu", **given)
        if dtypes:
            encoder.model.to(dtypes[0])
        return cls(encoder, choose_dtype=not dtypes)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        if self.choose_dtype and fn(torch.empty(0)).device.type != "cpu":
            self.choose_dtype = False
            self.model.to(torch.bfloat16)
        return super()._apply(fn, recurse)


def _dtype(given: Any) -> torch.dtype:
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype):
        raise UserError(f"model_kwargs: dtype: {given!r} is none; give float32, bfloat16 or float16.")
    return found

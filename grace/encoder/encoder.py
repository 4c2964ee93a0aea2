"""Text -> rationale -> embedding: the encoder that evaluation, the command line and users share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.encoder import adapters, reads, saved
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.explain import Explanation, cosines, explain
from grace.encoder.loading import check_context, check_model, context_of, default_model, load_model, load_tokenizer
from grace.encoder.reads import checked_texts
from grace.encoder.sampling import text_key
from grace.method.prompt import PromptTemplate, is_well_formed

# Texts that are tokenised and sorted by length together: bounded, so that memory does not grow with the corpus.
BLOCK = 8192
Batches = Iterator[tuple[list[int], "Encoding"]]  # indices of n texts, and their encoding


class Rationale(NamedTuple):
    """What the model wrote about a text."""

    text: str  # with what its chat template begins of it, such as <think>
    token_ids: list[int]
    truncated: bool  # reached the token limit without an end token
    well_formed: bool  # a finished thought and a statement after it


class Encoding(NamedTuple):
    """Embeddings [N, d] float32 and, when asked for, N rationales; both in the order of the texts."""

    embeddings: np.ndarray
    rationales: list[Rationale] | None


class RationaleEncoder:
    """A decoder LLM as a text embedder that shows its reasoning.

    Args:
        model, tokenizer: a causal LM of transformers, or one of peft (`grace.encoder.adapters`), and its tokenizer,
            with a chat template.
        spec: prompt, pooling and generation settings (`grace.config.specs.EncodeSpec`).
        vllm: a `grace.encoder.engines.vllm.VllmEngine` that writes the rationales in the model's place.
        writes: False for a model that no longer can: an adapter for pooling was merged into its weights.

    Raises:
        UserError: when a model that does not write is asked for rationales, here or later; when prompt and rationale
            are longer than the model's context.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: EncodeSpec, vllm: Any = None, writes: bool = True) -> None:
        self.model, self.tokenizer, self.spec, self.writes = model.eval(), tokenizer, spec, writes
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.ends = engine.end_tokens(model, tokenizer)
        self._reasons(None)
        forward.layer_of(model, spec.pooling)
        self.vllm = vllm
        # Whether rationales are pooled while they are written.
        self.fused = not (vllm or adapters.separate(model) or spec.pooling.closing)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        rationales: bool | None = None,
        max_new_tokens: int | None = None,
        sampling_temperature: float | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        direct_prompt: str | None = None,
        device: str | None = None,
    ) -> RationaleEncoder:
        """Load a model folder of this workflow, also of an adapter, or any chat model of transformers.

        A setting that is not given is what the folder's grace.json says, else the default that is named here, or what
        the model's context leaves of it.

        Args:
            path: folder, or a repository of the hub; None is SmolLM2-135M-Instruct.
            rationales: default of `encode`; True, but False for a model that learnt direct embeddings.
            max_new_tokens: longest rationale; 256.
            sampling_temperature: 0 is greedy; 1.
            batch_size: texts per batch; 64.
            seed: with the text it decides the sampled rationale; 0.
            direct_prompt: of embeddings without rationale: `chat`, or `plain` for the text alone; chat.
            device: cuda where there is one, else cpu.

        Raises:
            UserError: when there is no usable model at `path`, or a setting is wrong.
        """
        given = {name: value for name, value in locals().items() if name in saved.Encode.model_fields}
        path = default_model() if path is None else path
        context = context_of(check_model(path))
        return cls.from_spec(path, saved.read_settings(path, given, context), device)

    @classmethod
    def from_spec(cls, path: str | Path, spec: EncodeSpec, device: str | None = None) -> RationaleEncoder:
        """The same with every setting given; `spec.engine` says what writes rationales.

        Raises:
            UserError: when there is no usable model at `path`, or vLLM is asked for and cannot be used.
        """
        writes = not saved.read_saved(path).get("merged")
        if writes and spec.engine == "vllm" and spec.rationales:
            from grace.encoder.engines.vllm import VllmEngine

            tokenizer = load_tokenizer(path)  # fails at once where vLLM takes a minute to
            vllm = VllmEngine(path, spec)
            return cls(vllm.model, tokenizer, spec, vllm)
        return cls(*load_model(path, device), spec, writes=writes)

    def save(self, path: str | Path) -> None:
        """Write model, tokenizer and settings as a folder that `from_pretrained` and `SentenceTransformer` load.

        Weights are written in the precision that the model computes in (`dtype`), of an adapter without its backbone.
        """
        with saved.filling(Path(path)) as folder:
            self.write_files(folder)
            saved.write_modules(folder)

    def write_files(self, folder: Path) -> None:
        """Write weights, tokenizer and grace.json to an empty folder."""
        encode = saved.Encode(**self.spec.model_dump(include={*saved.Encode.model_fields}))
        known: dict[str, Any] = {} if self.writes else {"merged": True}
        known |= adapters.write_model(folder, self.model, self.tokenizer)
        saved.write_settings(folder, prompt=self.spec.prompt, pooling=self.spec.pooling, encode=encode, **known)

    @property
    def width(self) -> int:
        """d, the length of an embedding."""
        return self.model.config.get_text_config().hidden_size

    @property
    def dtype(self) -> str:
        """The precision that the model computes in, such as float32."""
        return str(self.model.dtype).removeprefix("torch.")

    def encode(self, texts: list[str], rationales: bool | None = None, progress: bool = False) -> Encoding:
        """Embed texts.

        A text longer than the prompt's limit is cut on the right; an empty text is embedded as an
        empty user turn. A text's embedding depends on the text, the seed and the weights, not on
        the batch it is in (up to floating-point error).

        Args:
            texts: N strings.
            rationales: True reasons first (eqs. 9-11), False pools the prompt alone.
            progress: show a progress bar.

        Returns:
            Embeddings [N, d] (unit length if pooling.normalize) and the rationales, None without.

        Raises:
            TypeError: when a text is no string. Whatever the model raises is passed on.
            UserError: when `pooling.tokens` names what is not there with, or without, rationales.
        """
        embeddings = np.zeros((len(texts), self.width), dtype=np.float32)
        written: list[Any] | None = [None] * len(texts) if self._reasons(rationales) else None
        with tqdm(total=len(texts), disable=not progress, desc="encode", unit="text", mininterval=5) as bar:
            for rows, made in self.encode_batches(texts, rationales):
                embeddings[rows] = made.embeddings
                if written is not None:
                    for row, rationale in zip(rows, made.rationales or [], strict=True):
                        written[row] = rationale
                bar.update(len(rows))
        return Encoding(embeddings, written)

    # What search libraries call; the paper has one prompt for queries and documents.
    encode_query = encode_document = encode

    @staticmethod
    def similarity(a: np.ndarray | Encoding, b: np.ndarray | Encoding) -> np.ndarray:
        """Cosines of embeddings.

        Args:
            a, b: [N, d] and [M, d], or one embedding [d], or what `encode` gave.

        Returns:
            [N, M] float32; 0 for an embedding of length 0.

        Raises:
            ValueError: when the embeddings are not of one width.
        """
        left, right = (np.atleast_2d(x.embeddings if isinstance(x, Encoding) else x) for x in (a, b))
        if left.shape[1] != right.shape[1]:
            raise ValueError(f"embeddings of {left.shape[1]} and of {right.shape[1]} numbers cannot be compared")
        return cosines(left, right).astype(np.float32)

    def explain(self, a: str, b: str, rationales: bool | None = None) -> Explanation:
        """The cosine of two texts and which sentences carry it: see `grace.encoder.explain.explain`."""
        return explain(self, a, b, rationales)

    def encode_batches(self, texts: list[str], rationales: bool | None = None) -> Batches:
        """The same batch by batch: yields (indices of n texts, their `Encoding`) in the order batches finish."""
        reasons, texts = self._reasons(rationales), checked_texts(texts)
        for start in range(0, len(texts), BLOCK):
            some = texts[start : start + BLOCK]
            for rows, made in self._reason(some) if reasons else self._read(self.sequences(some)):
                yield [start + row for row in rows], made

    def encode_written(self, texts: list[str], token_ids: Sequence[list[int]]) -> Batches:
        """`encode_batches` of texts whose rationales are there already: one forward pass, nothing is generated.

        Sampling depends on the text and the position, so a rationale under a smaller limit is the beginning of one
        under a larger limit. Where it is cut, its embedding and its flags are those of one written under the limit.

        Args:
            token_ids: what this model wrote about the texts with the same seed and sampling temperature and a limit
                of at least `spec.max_new_tokens`, with the end token where it was reached.

        Raises:
            ValueError: when a rationale stops before the limit without an end token.
        """
        limit, texts = self.spec.max_new_tokens, checked_texts(texts)
        cut = [ids[:limit] for ids in token_ids]
        for i, ids in enumerate(cut):
            if len(ids) < limit and not {*ids[-1:]} & {*self.ends}:
                raise ValueError(f"rationale {i}: {len(ids)} tokens without an end token; {limit} may be written")
        return self._read(self.sequences(texts, cut), cut)

    def encode_layers(self, texts: list[str], layers: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Direct embeddings by the states after each of L numbers of blocks, in one pass: [n, L, d] of n texts."""
        given = self.sequences(checked_texts(texts))
        for rows in self._longest_first(given):
            with adapters.embedding(self.model) as model:
                pooled = forward.embed_layers(model, [given[i] for i in rows], pooling=self.spec.pooling, layers=layers)
            yield rows, self._normalized(pooled)

    def write(
        self, prompts: list[list[int]], texts: list[str], max_new_tokens: int | list[int] | None = None
    ) -> Iterator[engine.Written]:
        """Rationales of `prompts`, pooled where `fused`, with one limit or one per prompt; None is that of `spec`.

        Between two batches the model is as it was.
        """
        settings: dict[str, Any] = {
            "keys": [text_key(self.spec.seed, text) for text in texts],
            "temperatures": [self.spec.sampling_temperature] * len(texts),
            "max_new_tokens": max_new_tokens or self.spec.max_new_tokens,
            "ends": self.ends,
            "batch_size": self.spec.batch_size,
        }
        if self.vllm:
            yield from self.vllm.generate_batches(prompts, **settings)
            return
        settings["pool_from"] = reads.pooled_from(self.template, self.spec.pooling)
        settings["pooling"] = self.spec.pooling if self.fused else None
        with adapters.writing(self.model) as writer:
            batches = engine.generate_batches(writer, prompts, compile=self.spec.compile, **settings)
        while True:
            with adapters.writing(self.model):
                made = next(batches, None)
            if made is None:
                return
            yield made

    def sequences(self, texts: list[str], token_ids: Sequence[list[int]] | None = None) -> list[reads.Read]:
        """What the model reads of N texts with N rationales, or None for direct embeddings, and what is pooled."""
        if token_ids is None:
            return reads.direct(self.template, texts, self.spec.direct_prompt, self.spec.pooling, self.ends)
        return reads.written(self.template, self.template.ids(texts), token_ids, self.spec.pooling, self.ends)

    def rationales(self, token_ids: Sequence[list[int]]) -> list[Rationale]:
        """What the model wrote, from its token ids with the end token where it was reached; none is empty."""
        cuts = [ids[-1] not in self.ends for ids in token_ids]
        bare = [ids if cut else ids[:-1] for ids, cut in zip(token_ids, cuts, strict=True)]
        decoded = self.tokenizer.batch_decode(bare, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = [self.template.opening + text for text in decoded]
        return [
            Rationale(text.strip(), ids, cut, not cut and is_well_formed(text))
            for text, ids, cut in zip(whole, token_ids, cuts, strict=True)
        ]

    def pooled(self, given: list[reads.Read]) -> torch.Tensor:
        """[N, d] float32 of N sequences, neither standardised nor normalised, on the CPU."""
        with adapters.embedding(self.model) as model:
            return forward.embed(model, given, pooling=self.spec.pooling).cpu()

    def _reasons(self, rationales: bool | None) -> bool:
        reasons = self.spec.rationales if rationales is None else rationales
        if reasons and not self.writes:
            raise UserError(saved.MERGED)
        reads.check(self.spec.pooling, reasons)
        new = self.spec.max_new_tokens if reasons else 0
        new += len(reads.closing_ids(self.template, self.spec.pooling))
        check_context(self.model.config, self.spec.prompt.max_prompt_tokens, new)
        return reasons

    def _reason(self, texts: list[str]) -> Batches:
        prompts = self.template.ids(texts)
        for made in self.write(prompts, texts):
            pooled = made.pooled
            if not self.fused:
                some = [prompts[row] for row in made.rows]
                pooled = self.pooled(reads.written(self.template, some, made.token_ids, self.spec.pooling, self.ends))
            yield made.rows, Encoding(self._normalized(pooled), self.rationales(made.token_ids))

    def _read(self, given: list[reads.Read], token_ids: list[list[int]] | None = None) -> Batches:
        for rows in self._longest_first(given):
            pooled = self.pooled([given[i] for i in rows])
            written = None if token_ids is None else self.rationales([token_ids[i] for i in rows])
            yield rows, Encoding(self._normalized(pooled), written)

    def _longest_first(self, given: list[reads.Read]) -> Iterator[list[int]]:
        """Indices of the sequences, in parts that are finished, and can be stored, one after another."""
        order, size = sorted(range(len(given)), key=lambda i: -len(given[i].ids)), 8 * self.spec.batch_size
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _normalized(self, pooled: torch.Tensor) -> np.ndarray:
        if self.spec.pooling.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return pooled.cpu().numpy()


class EncoderOnly:
    """A model of Sentence Transformers with its own pooling, normalisation and longest text, and without a prompt.

    It writes nothing, and embeds queries and documents alike.

    Args:
        device: cuda where there is one, else cpu.

    Raises:
        UserError: when the folder holds no such model, or one that this workflow has trained.
    """

    TOGETHER = 1024  # texts that are sorted by length and stored together

    def __init__(self, folder: Path | str, device: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        check_encoder(Path(folder))
        with saved.loading_from(folder, "model of Sentence Transformers"):
            self.model = SentenceTransformer(str(folder), device=device)

    @property
    def width(self) -> int:
        """d, the length of an embedding."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def dtype(self) -> str:
        """The precision that the model computes in, such as float32."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings [N, d] float32 of `texts`; a text longer than the model's limit is cut on the right."""
        return self.model.encode(texts, convert_to_numpy=True, show_progress_bar=False).astype(np.float32)

    def encode_batches(self, texts: list[str]) -> Batches:
        """As `RationaleEncoder.encode_batches`."""
        for start in range(0, len(texts), self.TOGETHER):
            some = texts[start : start + self.TOGETHER]
            yield list(range(start, start + len(some))), Encoding(self.encode(some), None)


def check_encoder(folder: Path) -> None:
    """Raises: UserError when `folder` holds no model of Sentence Transformers, or one that writes."""
    if not (folder / "modules.json").exists():
        raise UserError(f"{folder}: has no modules.json; give the folder of a Sentence Transformers model.")
    if (folder / "grace.json").exists():
        raise UserError(f"{folder}: a decoder of this workflow, which may be a backbone; give an encoder-only model.")

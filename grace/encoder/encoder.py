"""Text -> rationale -> embedding: the one object that training's result, MTEB and users share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from grace.encoder import adapters, reads
from grace.encoder.default import default_model
from grace.encoder.engines import packed
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.reading import layer_of
from grace.encoder.explain import Explanation, cosines, explain
from grace.encoder.inputs import check_context, check_model, checked_texts, context_of
from grace.encoder.loading import load_model, load_tokenizer
from grace.encoder.sampling import text_key
from grace.encoder.saved import DEFAULT_POOLING as DEFAULT_POOLING
from grace.encoder.saved import DEFAULT_PROMPT as DEFAULT_PROMPT
from grace.encoder.saved import MERGED, Encode, filling, merged, read_settings, write_modules, write_settings
from grace.encoder.saved import SETTINGS_FILE as SETTINGS_FILE
from grace.method.prompt import PromptTemplate, is_well_formed
from grace.section import UserError
from grace.specs import EncodeSpec

# Texts that are tokenised and sorted by length together: bounded, so that memory does not grow with the corpus.
BLOCK = 8192


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
        spec: prompt, pooling and generation settings (`grace.specs.EncodeSpec`).
        vllm: a `grace.encoder.engines.vllm.VllmEngine` that writes the rationales in the model's place.
        writes: False of a model that has lost it: an adapter for pooling was merged into its weights.

    Raises:
        UserError: when a model that does not write is asked for rationales, here or later; when prompt and rationale
            are longer than the model's context.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: EncodeSpec, vllm: Any = None, writes: bool = True) -> None:
        self.model, self.tokenizer, self.spec, self.writes = model.eval(), tokenizer, spec, writes
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.ends = engine.end_tokens(model, tokenizer)
        self._reasons(None)
        layer_of(model, spec.pooling)
        self.vllm = vllm
        # Whether the pass that writes a rationale has all hidden states that are pooled.
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
            path: folder, or a repository of the hub; None is SmolLM2-135M-Instruct (`grace.encoder.default`).
            rationales: default of `encode`; True, but what trained direct embeddings says False.
            max_new_tokens: longest rationale; 256.
            sampling_temperature: 0 is greedy; 1.
            batch_size: texts per batch; 64.
            seed: with the text it decides the sampled rationale; 0.
            direct_prompt: of embeddings without rationale: `chat`, or `plain` for the text alone; chat.
            device: cuda where there is one, else cpu.

        Raises:
            UserError: when there is no usable model at `path`, or a setting is wrong.
        """
        given = {name: value for name, value in locals().items() if name in Encode.model_fields}
        path = default_model() if path is None else path
        context = context_of(check_model(path))
        return cls.from_spec(path, read_settings(path, given, context), device)

    @classmethod
    def from_spec(cls, path: str | Path, spec: EncodeSpec, device: str | None = None) -> RationaleEncoder:
        """The same with every setting given; `spec.engine` says what writes rationales.

        Raises:
            UserError: when there is no usable model at `path`, or vLLM is asked for and cannot be used.
        """
        writes = not merged(path)
        if writes and spec.engine == "vllm" and spec.rationales:
            from grace.encoder.engines.vllm import VllmEngine

            tokenizer = load_tokenizer(path)  # fails at once where vLLM takes a minute to
            vllm = VllmEngine(path, spec)
            return cls(vllm.model, tokenizer, spec, vllm)
        return cls(*load_model(path, device), spec, writes=writes)

    def save(self, path: str | Path) -> None:
        """Write model, tokenizer and settings as a folder that `from_pretrained` and `SentenceTransformer` load.

        Weights are written in the precision that the model computes in (`dtype`), of an adapter without its backbone.
        For a folder that only lacks what `SentenceTransformer` reads there is `python -m grace.encoder.saved FOLDER`.
        """
        with filling(Path(path)) as folder:
            self.write_files(folder)
            write_modules(folder)

    def write_files(self, folder: Path) -> None:
        """Write weights, tokenizer and grace.json to an empty folder."""
        settings = {name: getattr(self.spec, name) for name in Encode.model_fields}
        known: dict[str, Any] = {} if self.writes else {"merged": True}
        known |= adapters.write_model(folder, self.model, self.tokenizer)
        write_settings(folder, prompt=self.spec.prompt, pooling=self.spec.pooling, encode=Encode(**settings), **known)

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

    def encode_batches(self, texts: list[str], rationales: bool | None = None) -> Iterator[tuple[list[int], Encoding]]:
        """The same batch by batch: yields (indices of n texts, their `Encoding`) in the order batches finish."""
        embed: Any = self._reason if self._reasons(rationales) else self._direct
        texts = checked_texts(texts)
        for start in range(0, len(texts), BLOCK):
            for rows, made in self._finished(embed(texts[start : start + BLOCK])):
                yield [start + row for row in rows], made

    def encode_written(self, texts: list[str], token_ids: Sequence[list[int]]) -> Iterator[tuple[list[int], Encoding]]:
        """`encode_batches` of texts whose rationales are there already: one forward pass, nothing is generated.

        Sampling depends on the text and the position, so a rationale under a smaller limit is the beginning of one
        under a larger limit. Where it is cut, its embedding and its flags are those of one written under the limit.

        Args:
            texts: N strings.
            token_ids: N rationales that this model wrote about them with the same seed and sampling temperature and
                a limit of at least `spec.max_new_tokens`, with the end token where it was reached.

        Raises:
            ValueError: when a rationale stops before the limit without an end token.
        """
        limit, texts = self.spec.max_new_tokens, checked_texts(texts)
        cut = [ids[:limit] for ids in token_ids]
        for i, ids in enumerate(cut):
            if len(ids) < limit and not {*ids[-1:]} & {*self.ends}:
                raise ValueError(f"rationale {i}: {len(ids)} tokens without an end token; {limit} may be written")
        return self._finished(self._pool(texts, cut))

    def sequences(self, texts: list[str], token_ids: Sequence[list[int]] | None = None) -> list[reads.Read]:
        """What the model reads of each text, and which tokens of that are pooled.

        Args:
            texts: N strings.
            token_ids: N rationales, or None for direct embeddings.
        """
        pooling = self.spec.pooling
        if token_ids is None:
            return reads.direct(self.template, texts, self.spec.direct_prompt, pooling, self.ends)
        return reads.written(self.template, self.template.ids(texts), token_ids, pooling, self.ends)

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

    def _finished(self, made: Iterator[Any]) -> Iterator[tuple[list[int], Encoding]]:
        for rows, pooled, written in made:
            if self.spec.pooling.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
            yield rows, Encoding(pooled.numpy(), written)

    def _reasons(self, rationales: bool | None) -> bool:
        reasons = self.spec.rationales if rationales is None else rationales
        if reasons and not self.writes:
            raise UserError(MERGED)
        reads.check(self.spec.pooling, reasons)
        new = self.spec.max_new_tokens if reasons else 0
        new += len(reads.closing_ids(self.template, self.spec.pooling))
        check_context(self.model.config, self.spec.prompt.max_prompt_tokens, new)
        return reasons

    def _reason(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor, list[Rationale]]]:
        prompts = self.template.ids(texts)
        for made in self.write(prompts, texts):
            pooled = made.pooled
            if not self.fused:
                some = [prompts[row] for row in made.rows]
                pooled = self.pooled(reads.written(self.template, some, made.token_ids, self.spec.pooling, self.ends))
            yield made.rows, pooled, self.rationales(made.token_ids)

    def write(
        self, prompts: list[list[int]], texts: list[str], max_new_tokens: int | list[int] | None = None
    ) -> Iterator[engine.Written]:
        """Rationales of `prompts`, pooled where `fused`. Between two batches the model is as it was.

        Args:
            max_new_tokens: the limit of all, or one per prompt; None is that of `spec`.
        """
        settings: dict[str, Any] = dict(
            keys=[text_key(self.spec.seed, text) for text in texts],
            temperatures=[self.spec.sampling_temperature] * len(texts),
            max_new_tokens=max_new_tokens or self.spec.max_new_tokens,
            ends=self.ends,
            batch_size=self.spec.batch_size,
        )
        if self.vllm:
            yield from self.vllm.generate_batches(prompts, **settings)
            return
        pooling = self.spec.pooling if self.fused else None
        with adapters.writing(self.model) as writer:
            batches = engine.generate_batches(
                writer, prompts, pool_from=reads.pooled_from(self.template, self.spec.pooling), pooling=pooling,
                compile=self.spec.compile, **settings,
            )  # fmt: skip
        while True:
            with adapters.writing(self.model):
                made = next(batches, None)
            if made is None:
                return
            yield made

    def _pool(
        self, texts: list[str], token_ids: list[list[int]]
    ) -> Iterator[tuple[list[int], torch.Tensor, list[Rationale]]]:
        for rows, pooled in self._parts(self.sequences(texts, token_ids)):
            yield rows, pooled, self.rationales([token_ids[i] for i in rows])

    def _parts(self, given: list[reads.Read]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Given sequences, longest first, in parts after each of which they can be kept."""
        order = sorted(range(len(given)), key=lambda i: -len(given[i].ids))
        for start in range(0, len(order), 8 * self.spec.batch_size):
            rows = order[start : start + 8 * self.spec.batch_size]
            yield rows, self.pooled([given[i] for i in rows])

    def pooled(self, given: list[reads.Read]) -> torch.Tensor:
        """[N, d] float32 of N sequences, neither standardised nor normalised, on the CPU."""
        with adapters.embedding(self.model) as model:
            return packed.embed(model, given, pooling=self.spec.pooling).cpu()

    def encode_layers(self, texts: list[str], layers: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Direct embeddings by the states after each of L numbers of blocks, in one pass: [n, L, d] of n texts."""
        given = self.sequences(checked_texts(texts))
        order = sorted(range(len(given)), key=lambda i: -len(given[i].ids))
        for start in range(0, len(order), 8 * self.spec.batch_size):
            rows = order[start : start + 8 * self.spec.batch_size]
            with adapters.embedding(self.model) as model:
                pooled = packed.embed_layers(model, [given[i] for i in rows], pooling=self.spec.pooling, layers=layers)
            if self.spec.pooling.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
            yield rows, pooled.cpu().numpy()

    def _direct(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor, None]]:
        for rows, pooled in self._parts(self.sequences(texts)):
            yield rows, pooled, None

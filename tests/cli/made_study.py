"""A finished study in miniature: held-out texts, evaluations, and a store of vectors that nobody's model made."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from grace.config.specs import EncodeSpec
from grace.encoder import store
from grace.encoder.encoder import Rationale
from grace.encoder.saved import DEFAULT_POOLING, DEFAULT_PROMPT
from grace.encoder.store import digests_of
from grace.jobs.files import write_json

WILD = "</script><script>window.hit = 1</script> <img src=x onerror=window.hit=1> \"quotes\" 'too' & 😀 שלום עולם"
HUGE = "Very long indeed. " * 6000  # 108,000 characters


def spec(rationales: bool = True) -> EncodeSpec:
    return EncodeSpec(
        prompt=DEFAULT_PROMPT, pooling=DEFAULT_POOLING, rationales=rationales, direct_prompt="chat", max_new_tokens=8,
        sampling_temperature=0.0, batch_size=4, seed=0,
    )  # fmt: skip


def rows(count: int) -> list[dict]:
    """Pairs with three labels; the second one holds what breaks pages, the third is long."""
    made = [
        {"id": f"package.name{i}", "query": f"Question number {i}",
         "positive": f"Answer number {i}. It has two sentences.", "label": ("red", "green", "blue")[i % 3]}
        for i in range(count)
    ]  # fmt: skip
    made[1] |= {"query": WILD, "label": "<b>green</b>"}
    made[2] |= {"positive": HUGE}
    return made


class Study:
    """Written to `root`; `add` adds a model."""

    def __init__(self, root: Path, count: int, tokenizer: Path | None = None) -> None:
        self.root, self.rows, self.tokenizer = root, rows(count), tokenizer
        path = root / "data/split/made/test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.texts = [row["query"] for row in self.rows] + [row["positive"] for row in self.rows]

    def add(self, run: str, vectors: np.ndarray, said: list[list[int]] | None = None, folder: str = "") -> None:
        """A model's evaluation, and its embeddings [n, d] of the first n of `texts` with their rationales' tokens."""
        weights = hashlib.sha256(run.encode()).hexdigest()
        encode = spec(said is not None)
        model = f"results/{self.root.name}/models/tiny/{folder or run}/seed0"
        settings = {"encode": encode.model_dump(), "store": "float32"}
        record = {"manifest": {"settings": settings, "inputs": {model: weights, "data.json": "0"}}, "tasks": {}}
        write_json(self.root / f"mteb/tiny/{run}/seed0/group.json", record)
        place = self.root / f"models/tiny/{folder or run}/seed0"
        place.mkdir(parents=True, exist_ok=True)
        if self.tokenizer:
            shutil.copy(self.tokenizer, place / "tokenizer.json")
        found = store.settings(encode, weights, "float32", "float32")
        with store.Store(self.root / "store", found, vectors.shape[1]) as held:
            made = [Rationale("", ids, False, True) for ids in said] if said is not None else None
            held.add(digests_of(self.texts[: len(vectors)]), vectors.astype(np.float32), made)

    def add_cases(self) -> None:
        said = [("grace", 0, "first words"), ("grace", 20, "first new words"), ("grace", None, "last words"),
                ("other", None, "elsewhere")]  # fmt: skip
        steps = [
            {"run": run, "step": step, "text": f"<think> {text} </think> end", "tokens": 5, "truncated": False,
             "well_formed": True}
            for run, step, text in said
        ]  # fmt: skip
        case = {"id": "a.b", "kind": "document", "text": WILD, "rationales": steps}
        path = self.root / "cases/tiny.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"manifest": {}, "rule": "Chosen by rule.", "cases": [case]}))

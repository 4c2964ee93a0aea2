"""Shared fixtures: a tiny chat model with random weights, made in memory. How tests are dealt to processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

TEXTS = [
    "Compute the inverse of a square matrix.",
    "Return the sum of array elements over a given axis, with optional weights and a keepdims flag.",
    "Sort a list of strings.",
    "",
    "Draw samples from a normal distribution with given mean and standard deviation. " * 3,
    "Open a socket and listen on a port for incoming connections, one thread each.",
]


TOGETHER = ("tests/slurm", "tests/workflow")  # folders whose tests share what takes minutes


def group(nodeid: str) -> str:
    """Tests of one group run in one process: those of a file, or of a folder of TOGETHER."""
    file = nodeid.split("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: [*TOGETHER, group(item.nodeid)].index(group(item.nodeid)))


@pytest.hookimpl(optionalhook=True)  # vLLM's environment has no pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By hand: xdist's own groups (3.8) are not seen under pytest 9.2."""
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 2 layers with random weights, as a model folder; its rationales are noise that ends."""
    from grace.config.schema import Backbone
    from grace.training.backbone import build_model, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 20, 400)
    config = Backbone(kind="trained", vocab_size=400, layers=2, width=32, heads=4, kv_heads=2, feed_forward=64)
    model = build_model(config, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():  # larger weights: embeddings that depend on the text
            if parameter.ndim == 2:
                parameter.mul_(4)
    # One id in ten ends a rationale, so that some end and some are cut.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 340)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers with random weights in the form of Sentence Transformers: 16 tokens, their maximum, no unit
    length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    from grace.training.backbone import train_tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 20, 400)
    tokenizer.padding_side, tokenizer.chat_template = "right", None
    end = str(tokenizer.eos_token)  # so that an empty text has a token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=16)
    pooling = Pooling(32, pooling_mode="max")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def tiny(tiny_folder: Path):
    """(model, tokenizer), fresh for each test."""
    from grace.encoder.loading import load_model

    return load_model(tiny_folder, "cpu")


@pytest.fixture(scope="session")
def adapted_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter for pooling over `tiny_folder`, with random weights."""
    from tests.adapted import save_adapted

    return save_adapted(tiny_folder, tmp_path_factory.mktemp("adapted"), generator=False)


@pytest.fixture(scope="session")
def generator_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a second adapter that writes."""
    from tests.adapted import save_adapted

    return save_adapted(tiny_folder, tmp_path_factory.mktemp("generator"), generator=True)

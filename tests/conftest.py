"""Shared fixtures: a tiny chat model with random weights, made in memory. How tests are dealt to processes."""

from pathlib import Path

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


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `pytest -n`: the tests of a file run in one process, and what takes longest begins first."""

    def group(item: pytest.Item) -> str:
        file = item.nodeid.split("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)

    items.sort(key=lambda item: TOGETHER.index(name) if (name := group(item)) in TOGETHER else len(TOGETHER))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 2 layers with random weights, as a model folder; its rationales are noise that ends."""
    from grace.config import Backbone
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

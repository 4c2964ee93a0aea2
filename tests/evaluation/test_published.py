"""Our whole evaluation of a published model gives the numbers that others have published of it.

all-MiniLM-L6-v2 (revision 8b3219a of the hub, the weights of the package) on Banking77Classification, as mteb's
repository of results has it. STSBenchmark's test split, of which it has .82032, is not among the data here.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mteb
import pytest

from grace.config.schema import Encoder
from grace.config.section import UserError
from grace.encoder.encoder import EncoderOnly, Encoding
from grace.encoder.hub import packaged
from grace.encoder.store import Store, digests_of
from grace.evaluation import evaluate
from tests.config.test_schema import CONFIG

TASK, DATA = "Banking77Classification", Path(__file__).parents[2] / "../shared/data/banking77"
SCORE = 0.80042
EXPERIMENTS = [0.79805, 0.80162, 0.81299, 0.80552, 0.79188, 0.80487, 0.79091, 0.78896, 0.80909, 0.80032]
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not on this machine")


@pytest.fixture(scope="module")
def model() -> Path:
    entry = Encoder(**CONFIG["available_encoders"]["minilm"])
    try:
        return packaged(str(entry.package), str(entry.version), str(entry.folder))
    except UserError as error:
        pytest.skip(f"the package of the encoder cannot be had: {error}")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Runs the stage in one folder; gives the score, and the accuracy of each experiment."""
    folder = tmp_path_factory.mktemp("published")

    def start(precision: str) -> tuple[float, list[float]]:
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            once = mteb.evaluate
            patch.setattr(mteb, "evaluate", lambda *given, **named: seen.append(once(*given, **named)) or seen[-1])
            spec = {"run": "encoder", "group": "g", "tasks": [TASK], "local": {TASK: str(DATA)}, "store": precision}
            evaluate.main(
                ["--spec", json.dumps({"runs": [{**spec, "encode": None}]}), "--model", str(model), "--threads", "1",
                 "--store", str(folder / "store"), "--out", str(folder / "out.json")]
            )  # fmt: skip
        (scores,) = seen[0].task_results[0].scores["test"]
        found = json.loads((folder / "out.json").read_text())["tasks"][TASK]["main_score"]
        return found, [one["accuracy"] for one in scores["scores_per_experiment"]]

    return SimpleNamespace(start=start, folder=folder, first=start("float32"))


def test_the_encoder_row_has_the_published_score(run):
    score, experiments = run.first
    assert score == pytest.approx(SCORE, abs=5e-6) and experiments == pytest.approx(EXPERIMENTS, abs=5e-6)


def test_the_store_gives_the_same(run, monkeypatch):
    monkeypatch.setattr(EncoderOnly, "encode", lambda *_: 1 / 0)  # nothing is embedded
    assert run.start("float32") == run.first
    (path,) = run.folder.glob("store/*/settings.json")
    kept = Store(run.folder / "store", json.loads(path.read_text()), 384)

    def read(_, texts):
        yield list(range(len(texts))), Encoding(kept.read(digests_of(texts)), None)

    monkeypatch.setattr(EncoderOnly, "encode_batches", read)
    score, experiments = run.start("float16")
    assert score == pytest.approx(SCORE, abs=2e-4) and experiments == pytest.approx(EXPERIMENTS, abs=1e-3)

import json
import time

import numpy as np
import pytest

from bench import common, evaluate
from grace.encoder.encoder import Encoding, Rationale


class Slow:
    """An encoder that takes a fifth of a second a batch."""

    width, dtype = 4, "float32"

    def encode_batches(self, texts):
        for start in range(0, len(texts), 50):
            time.sleep(0.2)
            rows = list(range(start, min(start + 50, len(texts))))
            vectors = np.ones((len(rows), 4), dtype=np.float32) * [[len(texts[i])] for i in rows]
            yield rows, Encoding(vectors.astype(np.float32), [Rationale("", [7, 2], False, True) for _ in rows])


@pytest.fixture
def bench(tmp_path, tiny):
    evaluate.write_task(tmp_path / "data", tiny[1], 100)
    return evaluate.Jobs(tmp_path, Slow(), {"precision": "float32"})


def test_a_task_has_its_share_of_repeats(tmp_path, tiny):
    distinct = evaluate.write_task(tmp_path / "data", tiny[1], 200)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"data/{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries", "qrels")
    }
    texts = {row["_id"]: row["text"] for row in rows["corpus"]}
    assert (len(rows["corpus"]), len(texts), len(set(texts.values()))) == (200, 200, 140)
    asked = {row["_id"]: row["text"] for row in rows["queries"]}
    assert len(rows["qrels"]) == len(asked) == 5
    assert all(texts[row["corpus-id"]].startswith(asked[row["query-id"]]) for row in rows["qrels"])
    assert distinct == len({*texts.values(), *asked.values()})


def test_the_stores_time_holds_nothing_of_the_encoders(bench):
    runs = evaluate.measure(bench, repeats=1, mteb=True)
    cold, warm, none = (runs[name][0] for name in ("cold", "warm", "none"))
    assert cold.texts == none.texts < 100
    assert cold.tokens == 2 * cold.texts
    assert (warm.texts, warm.tokens, warm.score) == (0, 0, cold.score)
    assert cold.seconds > 0.4  # two batches or more
    assert 0 < cold.own < 0.2
    assert cold.bytes > 16 * cold.texts
    assert runs["mteb cold"][0].texts > cold.texts  # it embeds repeats again
    assert runs["mteb warm"][0].texts == 0


def test_a_store_that_is_slow_is_seen(bench, monkeypatch):
    read = evaluate.store.Store.read

    def slow(self, digests):
        time.sleep(0.2)
        return read(self, digests)

    monkeypatch.setattr(evaluate.store.Store, "read", slow)
    evaluate.common.interleaved({"cold": bench.cold}, 1, warm_up=False)
    assert bench.runs["cold"][0].own > 0.2


def test_a_warm_job_that_writes_is_an_error(bench, monkeypatch):
    monkeypatch.setattr(bench, "warm", lambda: bench.runs.setdefault("warm", []).extend(bench.runs["cold"]))
    with pytest.raises(RuntimeError, match="the warm job wrote"):
        evaluate.measure(bench, repeats=1, mteb=False)


def test_the_command_writes_both_entries(tiny_folder, tmp_path, capsys):
    small = ["--documents", "100", "--new", "8", "--repeats", "1", "--no-mteb"]
    evaluate.main([*small, "--backbone", str(tiny_folder), "--json", str(tmp_path / "b.json")])
    warm, overhead = json.loads((tmp_path / "b.json").read_text())
    assert (warm["name"], overhead["name"]) == ("warm_vs_cold", "store_overhead")
    assert warm["ratio"] == pytest.approx(warm["seconds"]["warm"] / warm["seconds"]["cold"])
    assert warm["ratio"] < 0.8
    assert 0 < overhead["ratio"] < 0.3
    assert warm["tokens_written"]["warm"] == 0 < warm["tokens_written"]["cold"] == warm["tokens_written"]["none"]
    assert "| warm |" in capsys.readouterr().out


def test_without_a_backbone_a_small_model_is_measured(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(common, "DEMO", tmp_path / "none")
    monkeypatch.setattr(common, "random_model", lambda **_: tiny)
    encoder, settings, name = evaluate.encoder_of(None, 8)
    assert (name, settings["max_new_tokens"], encoder.template.max_prompt_tokens) == ("random weights", 8, 72)

"""The benchmark of the index measures what `grace search` uses, at any size."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import index


def test_a_small_run_prints_every_kind_and_keeps_its_entries(tmp_path, capsys):
    words = [
        "--count",
        "2000",
        "--widths",
        "16",
        "--kinds",
        "exact",
        "ours",
        "graph",
        "--json",
        str(tmp_path / "b.json"),
    ]
    index.main(words)
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| clustered", "| even"))
    ]
    assert [row[2].split(",")[0] for row in rows] == 2 * ["exact", "ours", "graph (HNSW)", "graph (HNSW)"]
    assert [float(row[6]) for row in rows if row[2] == "exact"] == [1.0, 1.0]
    assert all(float(row[6]) > 0.9 for row in rows if row[2].startswith("ours"))
    entries = json.loads((tmp_path / "b.json").read_text())
    assert [entry["name"] for entry in entries] == ["search_clustered_16", "search_even_16"]


@pytest.mark.parametrize("kind", ["clustered", "even"])
def test_vectors_are_of_unit_length_and_queries_are_of_their_kind(kind):
    corpus, queries = index.vectors(kind, 2000, 16, 1), index.vectors(kind, 50, 16, 2)
    assert np.allclose(np.linalg.norm(corpus, axis=1), 1, atol=1e-5)
    nearest = (queries @ corpus.T).max(1).mean()
    assert nearest > 0.7 and (corpus[:50] == queries).mean() < 0.01

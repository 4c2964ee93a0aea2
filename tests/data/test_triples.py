import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.config import Mining
from grace.data.triples import TfidfEncoder, main, mine
from grace.section import UserError
from tests.data.commands import ROOT, call, one_sentence, read, run, write

NLI = ROOT / "../shared/data/nli_triplets/train.jsonl"
WORDS = ["matrix", "vector", "graph", "edge", "node", "sparse", "dense", "solve", "root", "mean", "test", "sample"]


def mining(**changes):
    return Mining(
        **{
            "encoder": "tfidf",
            "negatives": 2,
            "rank_min": 1,
            "rank_max": 6,
            "margin": None,
            "max_score": None,
            **changes,
        }
    )


def random_rows(count=60):
    draw = np.random.default_rng(3)

    def text(words):
        return " ".join([*draw.choice(WORDS, words), f"rare{draw.integers(30)}"])

    return [{"id": str(at), "query": text(4), "positive": text(12), "label": "x"} for at in range(count)]


def by_hand(rows, settings):
    """Negatives of each row (None: too few) by ranking all positives with dense float64 cosines."""
    texts = list(dict.fromkeys([row["query"] for row in rows] + [row["positive"] for row in rows]))
    vectors = TfidfVectorizer(dtype=np.float64).fit(texts)
    corpus = list(dict.fromkeys(row["positive"] for row in rows))
    documents = vectors.transform(corpus).toarray()
    most = max(Counter(row["query"] for row in rows).values())
    found = []
    for row in rows:
        scores = documents @ vectors.transform([row["query"]]).toarray()[0]
        own = {other["positive"] for other in rows if other["query"] == row["query"]}
        limit = min(scores[corpus.index(text)] for text in own)
        nearest = sorted(zip(-scores, corpus, strict=True))[: settings.rank_max + most]
        ranked = [
            text
            for score, text in nearest
            if text not in own
            and (settings.margin is None or -score + settings.margin <= limit)
            and (settings.max_score is None or -score <= settings.max_score)
        ]
        window = ranked[settings.rank_min : settings.rank_max]
        window = [text for text in window if text != row["query"]][: settings.negatives]
        found.append(window if len(window) == settings.negatives else None)
    return found, vectors


@pytest.mark.parametrize(
    "changes",
    [{}, {"margin": 0.02, "rank_max": 40}, {"max_score": 0.3, "rank_max": 20}, {"rank_min": 0, "negatives": 6}],
)
def test_negatives_agree_with_a_ranking_by_hand(changes):
    rows, settings = random_rows(), mining(**changes)
    expected, vectors = by_hand(rows, settings)
    found, report = mine(rows, settings)
    kept = {row["id"]: row for row in found}
    assert kept
    assert set(kept) == {row["id"] for row, texts in zip(rows, expected, strict=True) if texts}
    for row, texts in zip(rows, expected, strict=True):
        if texts:
            # Texts whose scores are equal may come in either order, so scores are compared.
            query = vectors.transform([row["query"]]).toarray()[0]
            negatives = kept[row["id"]]["negatives"]
            scores = [vectors.transform(some).toarray() @ query for some in (negatives, texts)]
            assert np.allclose(*scores, atol=1e-6)
            assert len(set(negatives)) == settings.negatives and row["positive"] not in negatives
            assert {**row, "negatives": negatives} == kept[row["id"]]
    assert sum(report["dropped"].values()) == len(rows) - len(found)
    assert report["similarity_of_positives"]["max"] <= 1


def test_copies_of_the_positive_and_of_the_query_are_never_taken():
    rows = [
        {"id": "0", "query": "sort a linked list", "positive": "merge sort of a linked list"},
        {"id": "1", "query": "another one", "positive": "Merge  sort of a linked LIST"},  # the same text
        {"id": "2", "query": "a third", "positive": "Sort a linked list"},  # row 0's query
        {"id": "3", "query": "Sort a  linked list", "positive": "list sort in place"},  # row 0's query, other answer
        {"id": "4", "query": "graph nodes", "positive": "a graph has a linked list of nodes"},
        {"id": "5", "query": "graph edges", "positive": "nothing about that sort"},
    ]
    found, _ = mine(rows, mining(rank_min=0, rank_max=5, negatives=2))
    assert found[0]["negatives"] == ["nothing about that sort", rows[4]["positive"]] or set(found[0]["negatives"]) == {
        rows[4]["positive"],
        rows[5]["positive"],
    }
    assert found[0]["positive"] == rows[0]["positive"]


def test_encoder_gives_tfidf_cosines():
    texts = ["a graph of nodes", "nodes and edges", "nothing else"]
    encoder = TfidfEncoder(texts)
    vectors = TfidfVectorizer(dtype=np.float64).fit_transform(texts).toarray()
    rows = encoder.encode_query(texts)
    assert np.allclose(encoder.similarity(rows, rows), vectors @ vectors.T, atol=1e-6)
    assert np.allclose(encoder.similarity_pairwise(rows[:2], rows[1:]), (vectors[:2] * vectors[1:]).sum(1), atol=1e-6)


def test_an_encoder_that_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match=r"data\.mining\.encoder: .*no-model.*'tfidf'"):
        mine(random_rows(), mining(encoder=str(tmp_path / "no-model")))


def test_a_sentence_transformer_folder(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    rows = random_rows(30)
    SentenceTransformer(modules=[BoW([*WORDS, *(f"rare{at}" for at in range(30))])]).save(str(tmp_path / "bow"))
    found, _ = mine(rows, mining(encoder=str(tmp_path / "bow")))
    assert len(found) == 30 and all(len(set(row["negatives"])) == 2 for row in found)


def stage(tmp_path, rows, settings, by=None):
    train = write(tmp_path / "train.jsonl", rows)
    out, report = tmp_path / "out" / "triples.jsonl", tmp_path / "out" / "report.json"
    given = json.dumps({"mining": settings.model_dump()})
    return (by or partial(call, main))("--spec", given, "--train", train, "--out", out, "--report", report), out, report


def test_own_negatives_pass_through_in_order(tmp_path):
    rows = random_rows(20)
    rows[3]["negatives"] = rows[17]["negatives"] = ["its own"]
    done, out, report = stage(tmp_path, rows, mining())
    assert done.returncode == 0, done.stderr
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[3] == rows[3] and len(found[4]["negatives"]) == 2 and "_at" not in found[4]
    counts = json.loads(report.read_text())
    assert (counts["read"], counts["with_own_negatives"], counts["kept"]) == (20, 2, 20)


def test_nothing_left_and_missing_field(tmp_path):
    done, out, _ = stage(tmp_path, random_rows(20), mining(margin=0.99), by=partial(run, "triples"))
    one_sentence(done, "data.mining.margin", "train.jsonl")
    assert list(out.parent.iterdir()) == []
    done, _, _ = stage(tmp_path, [{"id": "0", "query": "q"}], mining())
    one_sentence(done, "row 1", "'positive'")
    done, _, _ = stage(tmp_path, [], mining())
    one_sentence(done, "holds no row")


@pytest.mark.skipif(not NLI.exists(), reason="the shared data sets are not on this machine")
def test_real_pairs():
    rows = [
        {"id": str(at), "query": row["anchor"], "positive": row["positive"]} for at, row in enumerate(read(NLI)[:500])
    ]
    found, _ = mine(rows, mining(negatives=1))
    assert len(found) > 450
    positives = {row["positive"] for row in rows}
    assert all(row["negatives"][0] in positives and row["negatives"][0] != row["positive"] for row in found)

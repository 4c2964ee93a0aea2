import json
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.config.schema import Mining
from grace.config.section import UserError
from grace.data import triples as module
from grace.data.triples import Miner, main
from grace.jobs.files import JsonLines
from tests.data.commands import call, one_sentence, read, run, write

WORDS = ["matrix", "vector", "graph", "edge", "node", "sparse", "dense", "solve", "root", "mean", "test", "sample"]


def settings(**changes):
    window = {"negatives": 2, "rank_min": 1, "rank_max": 6}
    return Mining(**{"encoder": "tfidf", **window, "margin": None, "max_score": None, **changes})


def random_rows(count=60):
    draw = np.random.default_rng(3)

    def text(words):
        return " ".join([*draw.choice(WORDS, words), f"rare{draw.integers(30)}"])

    return [{"id": str(at), "query": text(4), "positive": text(12), "label": "x"} for at in range(count)]


def by_hand(rows, asked):
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
        ranked = [
            text
            for score, text in sorted(zip(-scores, corpus, strict=True))[: asked.rank_max + most]
            if text not in own
            and (asked.margin is None or -score + asked.margin <= limit)
            and (asked.max_score is None or -score <= asked.max_score)
        ]
        window = [text for text in ranked[asked.rank_min : asked.rank_max] if text != row["query"]][: asked.negatives]
        found.append(window if len(window) == asked.negatives else None)
    return found, vectors


def mine(rows, asked, folder):
    """(rows that got negatives, report)."""
    miner = Miner(rows, asked, folder)
    both = list(zip(rows, miner.negatives(), strict=True))
    return [{**row, "negatives": negatives} for row, negatives in both if negatives], miner.report


def by_library(rows, asked, model):
    """{(query, positive): (negatives, scores)} of sentence_transformers' own miner, which compares all with all."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    options = {"range_min": asked.rank_min, "range_max": asked.rank_max, "max_score": asked.max_score}
    options |= {"absolute_margin": asked.margin, "output_format": "labeled-list", "output_scores": True}
    count = min(asked.rank_max - asked.rank_min, asked.negatives + 1)
    texts = Dataset.from_list([{name: row[name] for name in ("query", "positive")} for row in rows])
    mined = mine_hard_negatives(texts, model, num_negatives=count, verbose=False, **options)
    found = {}
    for item in mined:
        (positive, *texts), (_, *scores) = item["positive"], item["scores"]
        both = [pair for pair in zip(texts, scores, strict=True) if pair[0] != item["query"]][: asked.negatives]
        if len(both) == asked.negatives:
            found[item["query"], positive] = tuple(zip(*both, strict=True))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SentenceTransformer folder: the mean of a random vector of each word."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*WORDS, *(f"rare{at}" for at in range(30)), "[UNK]"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(words), 24, generator=torch.Generator().manual_seed(0)).numpy()
    folder = tmp_path_factory.mktemp("static")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(str(folder))
    return folder


CHANGES = [
    {},
    {"margin": 0.02, "rank_max": 40},
    {"max_score": 0.3, "rank_max": 20},
    {"rank_min": 0, "negatives": 6},
    {"rank_max": 200, "rank_min": 30},  # more than there are
]


@pytest.fixture(params=["whole", "chunked"])
def chunks(request, monkeypatch):
    if request.param == "chunked":
        monkeypatch.setattr(module, "DOCUMENTS", 7)
        monkeypatch.setattr(module, "SCORES", 500)
        monkeypatch.setattr("grace.data.triples.BATCH", 11)


@pytest.mark.parametrize("changes", CHANGES)
def test_negatives_of_a_model_are_those_of_the_library(model, chunks, tmp_path, changes):
    from sentence_transformers import SentenceTransformer

    rows, asked = random_rows(), settings(encoder=str(model), **changes)
    for at in range(0, 20, 2):  # queries with several positives, a positive of two queries, a query that is a document
        rows[at + 1]["query"] = rows[at]["query"]
    rows[30]["positive"], rows[31]["positive"] = rows[32]["positive"], rows[33]["query"]
    expected = by_library(rows, asked, SentenceTransformer(str(model), device="cpu"))
    assert expected
    train = write(tmp_path / "train.jsonl", rows)
    found, report = mine(JsonLines(train), asked, tmp_path)
    got = {(row["query"], row["positive"]): row["negatives"] for row in found}
    assert set(got) == set(expected)
    weights = SentenceTransformer(str(model), device="cpu")
    for (query, positive), negatives in got.items():
        texts, scores = expected[query, positive]
        mine_scores = weights.similarity(weights.encode([query]), weights.encode(negatives))[0].numpy()
        assert np.allclose(mine_scores, scores, atol=1e-5)  # texts with equal scores may come in either order
        assert positive not in negatives and query not in negatives and len(set(negatives)) == len(texts)
    assert sum(report["dropped"].values()) == len(rows) - len(found)
    of_library = [score for texts, scores in expected.values() for score in scores]
    assert report["similarity_of_negatives"]["max"] == pytest.approx(max(of_library), abs=1e-4)
    assert list(tmp_path.iterdir()) == [train]  # the embeddings are gone


@pytest.mark.parametrize("changes", CHANGES[:4])
def test_tfidf_negatives_agree_with_a_ranking_by_hand(chunks, tmp_path, changes):
    rows, asked = random_rows(), settings(**changes)
    expected, vectors = by_hand(rows, asked)
    found, report = mine(rows, asked, tmp_path)
    kept = {row["id"]: row for row in found}
    assert kept
    assert set(kept) == {row["id"] for row, texts in zip(rows, expected, strict=True) if texts}
    for row, texts in zip(rows, expected, strict=True):
        if texts:
            query = vectors.transform([row["query"]]).toarray()[0]
            negatives = kept[row["id"]]["negatives"]
            scores = [vectors.transform(some).toarray() @ query for some in (negatives, texts)]
            assert np.allclose(*scores, atol=1e-6)
            assert len(set(negatives)) == asked.negatives and row["positive"] not in negatives
    assert sum(report["dropped"].values()) == len(rows) - len(found)
    assert report["similarity_of_positives"]["max"] <= 1


def test_copies_of_the_positive_and_of_the_query_are_never_taken(tmp_path):
    rows = [
        {"id": "0", "query": "sort a linked list", "positive": "merge sort of a linked list"},
        {"id": "1", "query": "another one", "positive": "Merge  sort of a linked LIST"},  # the same text
        {"id": "2", "query": "a third", "positive": "Sort a linked list"},  # row 0's query
        {"id": "3", "query": "Sort a  linked list", "positive": "list sort in place"},  # row 0's query, other answer
        {"id": "4", "query": "graph nodes", "positive": "a graph has a linked list of nodes"},
        {"id": "5", "query": "graph edges", "positive": "nothing about that sort"},
    ]
    found, _ = mine(rows, settings(rank_min=0, rank_max=5, negatives=2), tmp_path)
    assert found[0]["id"] == "0" and set(found[0]["negatives"]) == {rows[4]["positive"], rows[5]["positive"]}


def test_an_encoder_that_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match=r"data\.mining\.encoder: .*no-model.*'tfidf'"):
        Miner(random_rows(), settings(encoder=str(tmp_path / "no-model")), tmp_path)


def test_too_little_disk_for_the_embeddings(model, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"embeddings of 60 texts take .* GB are free"):
        Miner(random_rows(), settings(encoder=str(model)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def stage(tmp_path, rows, asked, by=None):
    train = write(tmp_path / "train.jsonl", rows)
    out, report = tmp_path / "out" / "triples.jsonl", tmp_path / "out" / "report.json"
    given = json.dumps({"mining": asked.model_dump()})
    return (by or partial(call, main))("--spec", given, "--train", train, "--out", out, "--report", report), out, report


def test_own_negatives_pass_through_in_order(tmp_path):
    rows = random_rows(20)
    rows[3]["negatives"] = rows[17]["negatives"] = ["its own", "another"]
    done, out, report = stage(tmp_path, rows, settings())
    assert done.returncode == 0, done.stderr
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[3] == rows[3] and len(found[4]["negatives"]) == 2 and "_at" not in found[4]
    counts = json.loads(report.read_text())
    assert (counts["read"], counts["with_own_negatives"], counts["kept"]) == (20, 2, 20)


def test_all_rows_have_as_many_negatives_as_most(tmp_path):
    """`pairs` and `split` take one out here and there; a batch needs the same number of every row."""
    rows = [{"id": str(i), "query": f"q{i}", "positive": f"p{i}", "negatives": ["a", "b"]} for i in range(5)]
    rows[1]["negatives"], rows[4]["negatives"] = ["a"], ["a", "b", "c"]
    done, out, report = stage(tmp_path, rows, settings())
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["negatives"]) for row in read(out)] == [(i, ["a", "b"]) for i in "0234"]
    assert json.loads(report.read_text())["dropped"] == {"fewer than 2 negatives": 1}


def test_nothing_left_and_missing_field(tmp_path):
    done, out, _ = stage(tmp_path, random_rows(20), settings(margin=0.99), by=partial(run, "triples"))
    one_sentence(done, "data.mining.margin", "train.jsonl")
    assert list(out.parent.iterdir()) == []
    done, _, _ = stage(tmp_path, [{"id": "0", "query": "q"}], settings())
    one_sentence(done, "row 1", "'positive'")
    done, _, _ = stage(tmp_path, [], settings())
    one_sentence(done, "holds no row")

"""`grace search`: hits as by hand, an index that is kept, explanations, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from grace.cli import index
from grace.encoder.encoder import RationaleEncoder
from tests.cli.conftest import SHORT

QUERY = "Sum of the elements of a matrix."


@pytest.fixture
def corpus(tmp_path, texts):
    return write(tmp_path / "corpus.jsonl", texts)


def write(path, texts):
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=6)


@pytest.fixture
def embedded(monkeypatch):
    """The texts that are embedded, as they are."""
    batches, found = RationaleEncoder.encode_batches, []
    monkeypatch.setattr(
        RationaleEncoder, "encode_batches", lambda self, some, *more: found.extend(some) or batches(self, some, *more)
    )
    return found


def answers(done):
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_hits_are_those_of_the_cosine(grace, corpus, texts, encoder):
    (found,) = answers(grace("search", corpus, QUERY, "-k", 3, "--json", *SHORT))
    cosines = encoder.similarity(encoder.encode(texts), encoder.encode([QUERY]))[:, 0]
    order = np.argsort(-cosines)[:3]
    assert found["query"] == QUERY and [hit["row"] for hit in found["hits"]] == order.tolist()
    assert np.allclose([hit["score"] for hit in found["hits"]], cosines[order], atol=1e-5)
    for rank, hit in enumerate(found["hits"], 1):
        assert hit["rank"] == rank and hit["text"] == texts[hit["row"]] and hit["id"] == f"d{hit['row']}"
        assert "rationale" not in hit


def test_the_corpus_is_embedded_once_and_a_changed_one_embeds_what_is_new(grace, corpus, texts, embedded):
    grace("search", corpus, QUERY, "--json", *SHORT)
    assert sorted(embedded) == sorted([*texts, QUERY])
    embedded.clear()
    before = answers(grace("search", corpus, QUERY, "--json", *SHORT))
    assert embedded == [QUERY]
    embedded.clear()
    write(corpus, [QUERY, *texts])
    (after,) = answers(grace("search", corpus, QUERY, "--json", *SHORT))
    assert embedded == [QUERY, QUERY]  # as a text of the corpus, and as the query
    assert after["hits"][0]["row"] == 0 and after["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert [hit["text"] for hit in after["hits"]][1:] == [hit["text"] for hit in before[0]["hits"]]


def test_many_texts_go_through_the_lists(grace, tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(index, "EXACT", 50)
    texts = [f"Text {i} on {'matrices' if i % 3 else 'sockets'}." for i in range(60)]
    done = grace("search", write(tmp_path / "c.jsonl", texts), texts[7], "-k", 1, "--json", *SHORT)
    assert "embedded now: 60; search is approximate, recall@10 1.000" in done.err
    assert (tmp_path / "c.jsonl.index/vectors.faiss").exists()
    assert answers(done)[0]["hits"][0]["row"] == 7


def test_why_is_what_the_encoder_explains_and_writes_no_rationale_again(grace, corpus, encoder, embedded):
    grace("search", corpus, QUERY, *SHORT)
    embedded.clear()
    (found,) = answers(grace("search", corpus, QUERY, "-k", 2, "--why", "--json", *SHORT))
    assert embedded == [QUERY]
    for hit in found["hits"]:
        made = encoder.explain(QUERY, hit["text"])
        assert hit["score"] == pytest.approx(made.similarity, abs=1e-5)
        assert hit["rationale"] == made.b.rationale.text and found["rationale"] == made.a.rationale.text
        for parts, side in ((hit["parts"], made.b), (hit["query_parts"], made.a)):
            assert [(part["kind"], part["text"]) for part in parts] == [part[:2] for part in side.parts]
            assert np.allclose([part["effect"] for part in parts], [part.effect for part in side.parts], atol=1e-5)


def test_why_without_rationales_has_the_texts_sentences(grace, corpus):
    (found,) = answers(grace("search", corpus, QUERY, "--no-rationales", "--why", "--json"))
    assert "rationale" not in found and {part["kind"] for hit in found["hits"] for part in hit["parts"]} == {"text"}


def test_people_see_scores_texts_and_the_carrying_sentences(grace, corpus, encoder, texts):
    done = grace("search", corpus, QUERY, "-k", 2, "--why", *SHORT)
    (found,) = answers(grace("search", corpus, QUERY, "-k", 2, "--why", "--json", *SHORT))
    for hit in found["hits"]:
        assert f"{hit['score']:.3f}" in done.out and hit["id"] in done.out
        for part in sorted(hit["parts"], key=lambda part: -part["effect"])[:3]:
            if part["effect"] > 0:
                assert f"{part['effect']:+.3f} {part['kind']}: " in done.out
    assert "\x1b[" not in done.out  # no colours where there is no terminal


def test_several_queries_and_those_of_standard_input(grace, corpus):
    queries = [QUERY, "A string.", "One more."]
    several = answers(grace("search", corpus, *queries, "-k", 2, "--json", *SHORT))
    piped = grace(
        "search", corpus, "-", "-k", 2, "--json", "--batch-size", 2, *SHORT, given="\n\n".join(queries).encode()
    )
    assert [one["query"] for one in several] == queries
    for one, other in zip(several, answers(piped), strict=True):
        assert [hit["row"] for hit in one["hits"]] == [hit["row"] for hit in other["hits"]]


def test_an_index_of_another_model_is_refused_until_it_is_made_again(grace, mistake, corpus, tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    grace("search", corpus, QUERY, "--json", *SHORT)
    said = mistake("search", corpus, QUERY, "--max-new-tokens", 5)
    assert said.startswith(f"{corpus}.index: was made by another model or other settings (max_new_tokens); ")
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    asked = ["search", corpus, QUERY, "--json", "--model", other, *SHORT]
    assert "other settings (weights); give those, --rebuild" in mistake(*asked)
    rebuilt = answers(grace(*asked, "--rebuild"))
    assert answers(grace(*asked)) == rebuilt
    assert len([*Path(f"{corpus}.index/store").iterdir()]) == 1  # the old model's embeddings are gone
    elsewhere = answers(grace("search", corpus, QUERY, "--json", "--index", tmp_path / "index", *SHORT))
    assert elsewhere != rebuilt


@pytest.mark.parametrize("file", ["audit.json", "index.json"])
def test_a_folder_of_something_else_is_no_index_and_stays_as_it_is(mistake, corpus, tmp_path, file):
    (tmp_path / "other/store/weights").mkdir(parents=True)
    (tmp_path / "other" / file).write_text("[]")
    said = mistake("search", corpus, QUERY, "--index", tmp_path / "other", *SHORT)
    assert said.startswith(f"{tmp_path / 'other'}: is no index") and "give another folder with --index" in said
    assert sorted(path.name for path in (tmp_path / "other").rglob("*")) == sorted([file, "store", "weights"])


def test_only_the_store_of_the_index_before_is_removed(grace, corpus, tmp_path):
    (tmp_path / "index/store/other").mkdir(parents=True)
    for tokens in (5, 6):
        grace("search", corpus, QUERY, "--index", tmp_path / "index", "--rebuild", "--max-new-tokens", tokens)
        assert len([*(tmp_path / "index/store").iterdir()]) == 2  # the one that was there, and the present model's


def test_an_index_with_a_part_missing_says_what_to_do(grace, mistake, corpus):
    grace("search", corpus, QUERY, *SHORT)
    os.truncate(f"{corpus}.index/vectors.npy", 100)
    assert "is not whole" in mistake("search", corpus, QUERY, *SHORT)
    assert answers(grace("search", corpus, QUERY, "--rebuild", "--json", *SHORT))


@pytest.mark.parametrize(
    ("part", "content"), [("texts.jsonl", b""), ("texts.jsonl", b"[1]\n"), ("starts.npy", b""), ("vectors.npy", b"")]
)
def test_an_index_with_a_part_broken_says_what_to_do(grace, mistake, corpus, part, content):
    grace("search", corpus, QUERY, *SHORT)
    (corpus.with_name(f"{corpus.name}.index") / part).write_bytes(content)
    assert "is not whole" in mistake("search", corpus, QUERY, *SHORT)


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["nothing.jsonl", QUERY], b"", "nothing.jsonl: no such file."),
        (["-", QUERY], b"", "-: a corpus must be a file, since its index is kept for the next search."),
        (["corpus.pdf", QUERY], b"", "corpus.pdf: cannot tell what kind of file it is"),
        (["empty.txt", QUERY], b"", "empty.txt: holds no text."),
        (["corpus.jsonl", " "], b"", "the query is empty."),
        (["corpus.jsonl", "-"], b"", "standard input: holds no text."),
        (["corpus.jsonl", "-"], b"\xff\n", "standard input, row 1: not UTF-8 text (byte 0xff)"),
        (["corpus.jsonl", QUERY, "--index", "none/index"], b"", "none: no such folder; make it first."),
        (["corpus.jsonl", QUERY, "--index", "corpus.jsonl"], b"", "corpus.jsonl: no such folder"),
    ],
)
def test_mistakes(mistake, corpus, tmp_path, monkeypatch, words, given, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    assert mistake("search", *words, *SHORT, given=given).startswith(expected)

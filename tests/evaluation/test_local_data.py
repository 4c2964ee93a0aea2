"""Task data from a folder: subsets, members and copies of a repository; what is missing or broken is named."""

from __future__ import annotations

import numpy as np
import pytest

from grace.config.section import UserError
from grace.evaluation import local_data, mteb_tasks
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import evaluated
from tests.rows import save


def test_named_subsets_members_and_a_copy_of_the_repository(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 1.0}, {"sentence1": "c", "sentence2": "d", "score": 2.0}]
    write_jsonl(tmp_path / "sts17/en-en/test.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STS17"], local={"STS17": str(tmp_path / "sts17")})
    task.load_data()
    assert task.dataset["en-en"]["test"][:] == {key: [row[key] for row in rows] for key in rows[0]}

    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: test, path: x.jsonl}]\n---\n"
    )
    write_jsonl(tmp_path / "copy/x.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STSBenchmark"], local={"STSBenchmark": str(tmp_path / "copy")})
    task.load_data()
    assert task.dataset["test"]["sentence2"][:] == ["b", "d"]

    (task,) = mteb_tasks.get_tasks(["CQADupstackRetrieval"])
    for leaf in local_data.leaves(task):
        for name in ("corpus", "queries"):
            row = {"_id": "1", "title": None, "text": leaf.metadata.name}
            write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/{name}.jsonl", [row])
        write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/qrels.jsonl", [{"query-id": "1", "corpus-id": "1"}])
    local_data.use(task, tmp_path / "cqa")
    for leaf in local_data.leaves(task):
        leaf.load_data()
        data = leaf.dataset["default"]["test"]
        assert data["corpus"][0] == {"id": "1", "title": "", "text": leaf.metadata.name}
        assert data["relevant_docs"] == {"1": {"1": 1}}


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("STSBenchmark", None, r"evaluation\.local\.STSBenchmark: .*: no such folder"),
        ("STSBenchmark", {}, r"has no test\.jsonl"),
        ("Banking77Classification", {"test": "{}"}, r"has no train\.jsonl; this task needs train\.jsonl and test"),
        ("STS17", {"test": "{}"}, r"has no en-en/test\.jsonl"),
        ("SciFact", {"corpus": "{}", "queries": "{}"}, r"has no qrels\.jsonl"),
    ],
)  # fmt: skip
def test_a_folder_without_the_tasks_files_is_named_at_once(tmp_path, name, files, says):
    folder = tmp_path / "data"
    if files is not None:
        folder.mkdir()
        for stem, content in files.items():
            (folder / f"{stem}.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        mteb_tasks.get_tasks([name], local={name: str(folder)})


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("corpus", '{"_id": "1", "body": "x"}', r"corpus\.jsonl, row 1: the field 'text' is missing"),
        ("corpus", '{"_id": "1", "text": 5}', r"corpus\.jsonl, row 1: the field 'text' is 5 and no text"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"text": "y"}', r"corpus\.jsonl, row 2: the field '_id' is missing"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"_id": ', r"corpus\.jsonl, row 2: not JSON"),
        ("corpus", '{"_id": 1, "text": "x"}\n{"_id": "1", "text": "y"}', r"corpus\.jsonl: two rows have the id '1'"),
        ("corpus", "", r"corpus\.jsonl: holds no row"),
        ("queries", '{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}', r"two rows have the id '1'"),
        ("qrels", '{"query-id": "1"}', r"qrels\.jsonl, row 1: the field 'corpus-id' is missing"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": "high"}', r"row 1: the field 'score' is 'high' and no"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": null}', r"row 1: the field 'score' is empty"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": 0.5}', r"row 1: the field 'score' is 0\.5 and"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": 1e12}', r"row 1: the field 'score' is 1.* no whole"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": true}', r"row 1: the field 'score' is True and no"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": 1001}', r"row 1: the field 'score' is 1001, and"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "relevance": 0}', r"row 1: the field 'score' is missing"),
        ("qrels", '{"query-id": "9", "corpus-id": "1"}', r"row 1: the query-id '9' is not in queries\.jsonl"),
        ("qrels", '{"query-id": "1", "corpus-id": "x"}', r"row 1: the corpus-id 'x' is not in corpus\.jsonl"),
        (
            "qrels",
            '{"query-id": 1, "corpus-id": 1}\n{"query-id": "1", "corpus-id": "1", "score": 2}',
            r"row 2: judges '1' and '1' a second time and otherwise",
        ),
        ("top_ranked", '{"query-id": "1", "corpus-ids": "1 2"}', r"row 1: the field 'corpus-ids' is '1 2' and no list"),
        ("top_ranked", '{"query-id": "1", "corpus-ids": ["1", "2"]}', r"row 1: the corpus-id '2' is not in corpus"),
        ("top_ranked", '{"query-id": "2", "corpus-ids": ["1"]}', r"row 1: the query-id '2' is not in queries"),
        ("top_ranked", '{"query-id": "1", "corpus-ids": []}', r"row 1: the field 'corpus-ids' is \[\] and no list"),
    ],
)  # fmt: skip
def test_a_broken_data_file_is_named_with_its_row(tmp_path, file, content, says):
    whole = {
        "corpus": '{"_id": "1", "text": "x"}',
        "queries": '{"_id": "1", "text": "x"}',
        "qrels": '{"query-id": "1", "corpus-id": "1", "score": 1}',
        "top_ranked": '{"query-id": "1", "corpus-ids": ["1"]}',
    }
    for stem, text in (whole | {file: content}).items():
        (tmp_path / f"{stem}.jsonl").write_text(text + "\n")
    name = "AskUbuntuDupQuestions" if file == "top_ranked" else "SciFact"
    (task,) = mteb_tasks.get_tasks([name], local={name: str(tmp_path)})
    with pytest.raises(UserError, match=rf"evaluation\.local\.{name}: .*{says}"):
        mteb_tasks.load_data(task)


def test_a_judged_query_without_candidates_is_named(tmp_path):
    both = [{"_id": 1, "text": "x"}, {"_id": 2, "text": "y"}]
    write_jsonl(tmp_path / "corpus.jsonl", both)
    write_jsonl(tmp_path / "queries.jsonl", both)
    write_jsonl(tmp_path / "qrels.jsonl", [{"query-id": i, "corpus-id": i} for i in (1, 2)])
    write_jsonl(tmp_path / "top_ranked.jsonl", [{"query-id": 1, "corpus-ids": [1, 2]}])
    (task,) = mteb_tasks.get_tasks(["SciDocsRR"], local={"SciDocsRR": str(tmp_path)})
    with pytest.raises(UserError, match=r"top_ranked\.jsonl: has no row of the query '2', which is judged"):
        mteb_tasks.load_data(task)


def retrieval(folder, name, qrels, more=None):
    """The loaded data of a task of three queries and documents."""
    rows = [{"_id": i, "text": f"text {i}"} for i in range(3)]
    for stem, content in {"corpus": rows, "queries": rows, "qrels": qrels, **(more or {})}.items():
        save(folder / f"{stem}.jsonl", content)
    (task,) = mteb_tasks.get_tasks([name], local={name: str(folder)})
    mteb_tasks.load_data(task)
    return task.dataset["default"]["test"]


def test_no_relevance_is_below_0(tmp_path):
    qrels = [{"query-id": 0, "corpus-id": 1, "score": -1}, {"query-id": 0, "corpus-id": 0, "score": 2}]
    assert retrieval(tmp_path, "SciFact", qrels)["relevant_docs"] == {"0": {"1": 0, "0": 2}}


def test_a_task_that_never_finds_the_document_of_the_querys_id(tmp_path):
    with pytest.raises(UserError, match=r"row 1: judges '1' for the query of the same id, which this task never finds"):
        retrieval(tmp_path, "ArguAna", [{"query-id": 1, "corpus-id": 1}])


def test_candidates_of_which_none_is_relevant(tmp_path, caplog):
    qrels = [{"query-id": i, "corpus-id": i} for i in (0, 1)]
    ranked = [{"query-id": i, "corpus-ids": ids} for i, ids in ((0, [0, 1]), (1, [0, 2]))]
    assert retrieval(tmp_path, "SciDocsRR", qrels, {"top_ranked": ranked})["top_ranked"] == {
        "0": ["0", "1"],
        "1": ["0", "2"],
    }
    assert "1 of 2 queries have no relevant candidate, and score 0" in caplog.text
    with pytest.raises(UserError, match="no query has a relevant document among its candidates"):
        retrieval(tmp_path, "SciDocsRR", qrels, {"top_ranked": [{"query-id": i, "corpus-ids": [2]} for i in (0, 1)]})


def test_judgements_in_a_folder_as_beir_has_them(tmp_path):
    qrels = [{"query-id": 0, "corpus-id": 0}]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n2\t1\t1\n")
    retrieval(tmp_path, "SciFact", qrels)
    (tmp_path / "qrels.jsonl").unlink()
    (task,) = mteb_tasks.get_tasks(["SciFact"], local={"SciFact": str(tmp_path)})
    task.load_data()
    assert task.dataset["default"]["test"]["relevant_docs"] == {"2": {"1": 1}}


CLS, STS, CLUSTERS = "Banking77Classification", "STSBenchmark", "TwentyNewsgroupsClustering"
PAIRS, SUMMARIES = "SprintDuplicateQuestions", "SummEval"
PAIR = {"sentence1": "a", "sentence2": "b"}
SUMMARY = {"text": "t", "human_summaries": ["h"], "machine_summaries": ["m", "n"], "relevance": [1, 2]}


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        (CLS, [{"text": "a"}], r"train\.jsonl, row 1: the field 'label' is missing \(the row has: text\)"),
        (CLS, [{"text": "a", "label": 1}, {"text": "b"}], r"train\.jsonl, row 2: the field 'label' is missing"),
        (CLS, [{"text": 5, "label": 1}], r"row 1: the field 'text' is 5 and no text"),
        (CLS, [{"text": "a", "label": 1.5}], r"row 1: the field 'label' is 1\.5 and no whole number"),
        (CLS, [{"text": "a", "label": 1}, {"text": "b", "label": "1"}], r"the label '1' is not of the type of 1"),
        (CLS, [{"text": "a", "label": 1}] * 3, r"train\.jsonl: has the one label 1, and a classifier needs two"),
        (STS, [PAIR], r"test\.jsonl, row 1: the field 'score' is missing"),
        (STS, [{"sentence1": "a", "score": 1.0}], r"row 1: the field 'sentence2' is missing"),
        (STS, [{**PAIR, "score": 1}, {**PAIR, "score": float("nan")}], r"row 2: the field 'score' is nan and no"),
        (STS, [{**PAIR, "score": "1e999"}], r"row 1: the field 'score' is '1e999' and no finite"),
        (STS, [{**PAIR, "score": 1}] * 3, r"test\.jsonl: all its rows have the same 'score'"),
        (PAIRS, [{"sentence1": ["a"], "labels": [1]}], r"row 1: the field 'sentence2' is missing"),
        (PAIRS, [{"sent1": ["a", "b"], "sent2": ["a"], "labels": [1, 0]}], r"its fields are not lists of one length"),
        (PAIRS, [{**PAIR, "label": 2}], r"row 1: the field 'label' is 2, and a pair's label is 0 or 1"),
        (PAIRS, [{**PAIR, "labels": 1}] * 2, r"all its rows have the same 'labels'"),
        (CLUSTERS, [{"sentences": ["a"]}], r"row 1: the field 'labels' is missing"),
        (CLUSTERS, [{"sentences": ["a", "b"], "labels": [1]}], r"row 1: holds 2 sentences and 1 labels"),
        (CLUSTERS, [{"sentences": ["a", None], "labels": [1, 2]}], r"row 1: the field 'sentences' is empty \(null\)"),
        (CLUSTERS, [{"sentences": ["a", "b"], "labels": [1, 1]}], r"row 1: its labels are all the same"),
        (CLUSTERS, [{"sentences": ["a", "b"], "labels": [1, 2]}], r"its labels are all the same or all different"),
        (SUMMARIES, [{**SUMMARY, "relevance": [1]}], r"row 1: holds 2 machine_summaries and 1 relevance"),
        (SUMMARIES, [{**SUMMARY, "relevance": [1, 1]}] * 2, r"all its rows have the same 'relevance'"),
        (SUMMARIES, [{**SUMMARY, "relevance": [1, "x"]}], r"row 1: the field 'relevance' is 'x' and no finite number"),
    ],
)  # fmt: skip
def test_a_row_without_what_the_task_reads_is_named(tmp_path, name, rows, says):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    (task,) = mteb_tasks.get_tasks([name], local={name: str(tmp_path)})
    with pytest.raises(UserError, match=rf"evaluation\.local\.{name}: .*{says}"):
        mteb_tasks.load_data(task)


@pytest.mark.parametrize(("train", "test"), [([0, 1], [0, 2]), (["0", "1"], [0, 1]), ([0, 1], ["joy", "rage"])])
def test_a_label_of_the_test_that_training_does_not_have(tmp_path, train, test):
    for split, labels in (("train", train), ("test", test)):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"text": f"{split} {label}", "label": label} for label in labels])
    (task,) = mteb_tasks.get_tasks([CLS], local={CLS: str(tmp_path)})
    with pytest.raises(UserError, match=r"test\.jsonl: the label .* is none of those of train\.jsonl"):
        mteb_tasks.load_data(task)


class Words:
    """An embedder of bags of words."""

    def check_room(self, *_):
        pass

    def encode(self, texts):
        known = ["good", "fine", "bad", "awful", "day", "night"]
        return np.array([[0.1, *(text.split().count(word) for word in known)] for text in texts], dtype=np.float32)


@pytest.mark.parametrize("labels", [("joy", "rage"), ("0", "1"), (0, 1), (3, 6), (False, True)])
def test_labels_may_be_any_numbers_or_texts(tmp_path, labels):
    """mteb's own average precision takes 0 and 1 alone."""
    texts = [["good day", "fine day", "good night"], ["bad day", "awful night", "awful day"]]
    rows = [{"text": text, "label": label} for label, some in zip(labels, texts, strict=True) for text in some]
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    found = evaluated(Words(), [CLS], None, {CLS: str(tmp_path)})
    assert found[CLS]["main_score"] == 1.0


def test_every_kind_of_file_gives_the_same_scores(tmp_path):
    """Ids that are numbers in one file and text in another are the same; text is never made anything else."""
    documents = [("1", "2024-01-01"), ("null", "3.0"), ("7", "good day"), ("NA", "awful night")]
    queries = [("1", "bad day"), ("2", "fine night")]
    qrels = [("1", "NA"), ("2", "7")]
    every = {"corpus": (("_id", "text"), documents), "queries": (("_id", "text"), queries),
             "qrels": (("query-id", "corpus-id"), qrels)}  # fmt: skip
    found = []
    for kind in (".jsonl", ".csv", ".tsv", ".json", ".parquet", ".jsonl.gz"):
        folder = tmp_path / kind
        folder.mkdir()
        for stem, (names, rows) in every.items():
            table = [dict(zip(names, row, strict=True)) for row in rows]
            if kind in (".jsonl", ".json"):
                table = [
                    {k: int(v) if k.endswith("id") and v.isdigit() else v for k, v in row.items()} for row in table
                ]
            save(folder / f"{stem}{kind}", table)
        (task,) = mteb_tasks.get_tasks(["SciFact"], local={"SciFact": str(folder)})
        task.load_data()
        data = task.dataset["default"]["test"]
        found.append((data["corpus"][:], data["queries"][:], data["relevant_docs"]))
    assert found[0][0]["text"] == [text for _, text in documents] and found[0][2] == {"1": {"NA": 1}, "2": {"7": 1}}
    assert all(one == found[0] for one in found)


def test_two_files_of_one_name(tmp_path):
    for name in ("test.jsonl", "test.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"holds test\.csv and test\.jsonl; remove or rename one"):
        mteb_tasks.get_tasks([STS], local={STS: str(tmp_path)})

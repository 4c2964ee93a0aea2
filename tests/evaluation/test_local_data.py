"""Task data from a folder: subsets, members and copies of a repository; what is missing or broken is named."""

from __future__ import annotations

import pytest

from grace.evaluation import evaluate, items, local_data, mteb_tasks
from grace.files import write_jsonl
from grace.section import UserError


def test_named_subsets_members_and_a_copy_of_the_repository(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 1.0}]
    write_jsonl(tmp_path / "sts17/en-en/test.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STS17"], local={"STS17": str(tmp_path / "sts17")})
    task.load_data()
    assert task.dataset["en-en"]["test"][:] == {key: [rows[0][key]] for key in rows[0]}

    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: test, path: x.jsonl}]\n---\n"
    )
    write_jsonl(tmp_path / "copy/x.jsonl", rows)
    (task,) = mteb_tasks.get_tasks(["STSBenchmark"], local={"STSBenchmark": str(tmp_path / "copy")})
    task.load_data()
    assert task.dataset["test"]["sentence2"][:] == ["b"]

    (task,) = mteb_tasks.get_tasks(["CQADupstackRetrieval"])
    for leaf in items.leaves(task):
        for name in ("corpus", "queries"):
            row = {"_id": "1", "title": None, "text": leaf.metadata.name}
            write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/{name}.jsonl", [row])
        write_jsonl(tmp_path / f"cqa/{leaf.metadata.name}/qrels.jsonl", [{"query-id": "1", "corpus-id": "1"}])
    local_data.use(task, tmp_path / "cqa")
    for leaf in items.leaves(task):
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
        ("corpus", '{"_id": "1", "body": "x"}', r"corpus\.jsonl: its rows have no field 'text'"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"text": "y"}', r"corpus\.jsonl, row 2: the field '_id' is missing"),
        ("corpus", '{"_id": "1", "text": "x"}\n{"_id": ', r"corpus\.jsonl, row 2: not JSON"),
        ("qrels", '{"query-id": "1"}', r"qrels\.jsonl, row 1: the field 'corpus-id'"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": "high"}', r"row 1: the field 'score' is 'high' and no"),
        ("qrels", '{"query-id": "1", "corpus-id": "1", "score": null}', r"row 1: the field 'score' is None and no"),
        ("qrels", '{"query-id": "9", "corpus-id": "1"}', r"qrels\.jsonl: judges none of the queries"),
    ],
)
def test_a_broken_data_file_is_named_with_its_row(tmp_path, file, content, says):
    whole = {
        "corpus": '{"_id": "1", "text": "x"}',
        "queries": '{"_id": "1", "text": "x"}',
        "qrels": '{"query-id": "1", "corpus-id": "1", "score": 1}',
    }
    for stem, text in (whole | {file: content}).items():
        (tmp_path / f"{stem}.jsonl").write_text(text + "\n")
    (task,) = mteb_tasks.get_tasks(["SciFact"], local={"SciFact": str(tmp_path)})
    with pytest.raises(UserError, match=says):
        evaluate._load(task)


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("Banking77Classification", [{"text": "a"}], r"rows of train have no field 'label' \(they have: text\)"),
        ("Banking77Classification", [{"text": "a", "label": 1}, {"text": "b"}], r"row 2 of train has no 'label'"),
        ("STSBenchmark", [{"sentence1": "a", "sentence2": "b"}], r"rows of test have no field 'score'"),
        ("STSBenchmark", [{"sentence1": "a", "score": 1.0}], r"rows of test have no field 'sentence2'"),
        (
            "SprintDuplicateQuestions",
            [{"sentence1": ["a"], "labels": [1]}],
            r"not as the task reads them \(Original column",
        ),
        ("TwentyNewsgroupsClustering", [{"sentences": ["a"]}], r"have no field 'labels'"),
    ],
)
def test_a_row_without_what_the_task_reads_is_named(tmp_path, name, rows, says):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    (task,) = mteb_tasks.get_tasks([name], local={name: str(tmp_path)})
    with pytest.raises(UserError, match=rf"evaluation\.local\.{name}: .*: .*{says}"):
        evaluate._load(task)

"""README's block of results, from a study's files."""

import csv
import json

import pytest

from grace.report.readme import BEGIN, END, FIGURE, main


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "results/demo"
    (folder / "tables").mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "figures/figure1.svg").write_text("<svg/>")
    rows = [
        {"run": "base", "column": "Retrieval", "ours": "16.149", "low": "14.0", "high": "18.0", "paper": ""},
        {"run": "base", "column": "Avg (tasks)", "ours": "35.06", "low": "33.84", "high": "36.26", "paper": ""},
        {"run": "grace", "column": "Retrieval", "ours": "", "low": "", "high": "", "paper": ""},
        {"run": "grace", "column": "Avg (tasks)", "ours": "39.1", "low": "", "high": "", "paper": ""},
        {"run": "cl", "column": "Retrieval", "ours": "", "low": "", "high": "", "paper": "38.95"},
    ]
    with open(folder / "tables/table1.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "tables/table1.json").write_text(json.dumps({"line": "Two runs, one seed."}))
    return folder


def test_the_block_is_replaced_and_nothing_else(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main([str(study), str(readme)])
    assert (
        readme.read_text()
        == f"""before
{BEGIN}
Two runs, one seed.

| run | Retrieval | Avg (tasks) |
|---|---:|---:|
| base | 16.1 | 35.1 [33.8, 36.3] |
| grace | — | 39.1 |

![Figure 1: generation against embedding](docs/figure1.svg)
{END}
after
"""
    )
    assert (tmp_path / FIGURE).read_text() == "<svg/>"


@pytest.mark.parametrize(
    ("gone", "said"), [("tables/table1.csv", "snakemake table1"), ("figures/figure1.svg", "snakemake figure1")]
)
def test_what_is_missing_is_a_sentence_and_nothing_is_changed(study, tmp_path, capsys, gone, said):
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\nold\n{END}\n")
    (study / gone).unlink()
    with pytest.raises(SystemExit, match=said):
        main([str(study), str(readme)])
    assert readme.read_text() == f"{BEGIN}\nold\n{END}\n"


def test_a_readme_without_a_place(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("text\n")
    with pytest.raises(SystemExit, match="has no lines"):
        main([str(study), str(readme)])

"""The blocks of results in README and other pages, from a study's files."""

import csv
import json

import pytest

from grace.report.readme import BEGIN, END, FIGURE, PARETO, TRADE_BEGIN, TRADE_END, main

PLACE = f"{BEGIN}\nold\n{END}\n"


def write_csv(path, rows):
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


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
    write_csv(folder / "tables/table1.csv", rows)
    (folder / "tables/table1.json").write_text(json.dumps({"line": "Two runs, one seed."}))
    return folder


def test_the_block_is_replaced_and_nothing_else(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{PLACE}after\n")
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


def test_several_backbones_are_named(study, tmp_path):
    table, readme = study / "tables/table1.csv", tmp_path / "README.md"
    rows = read_csv(table)
    write_csv(table, [{"backbone": name, **row} for name in ("tiny", "big") for row in rows])
    readme.write_text(PLACE)
    main([str(study), str(readme)])
    assert (
        "| backbone | run | Retrieval | Avg (tasks) |\n|---|---|---:|---:|\n| tiny | base | 16.1 |"
        in readme.read_text()
    )
    assert "| big | grace | — | 39.1 |" in readme.read_text()


@pytest.mark.parametrize(
    ("gone", "page", "said"),
    [
        ("tables/table1.csv", None, "snakemake table1"),
        ("figures/figure1.svg", None, "snakemake figure1"),
        (None, "text\n", "page.md: has no lines"),
        (None, f"{BEGIN}\n", f"page.md: has no line {END}"),
    ],
)
def test_what_is_missing_is_a_sentence_and_nothing_is_changed(study, tmp_path, gone, page, said):
    readme, other = tmp_path / "README.md", tmp_path / "page.md"
    readme.write_text(PLACE)
    other.write_text(page or PLACE)
    if gone:
        (study / gone).unlink()
    with pytest.raises(SystemExit, match=said):
        main([str(study), str(readme), str(other)])
    assert readme.read_text() == PLACE and not (tmp_path / FIGURE).exists()


@pytest.fixture
def traded(study):
    """The same study with its trade-off: one run of two seeds in two modes, one without result."""
    fields = ("ndcg", "embedding_mean", "well_formed", "perplexity_change", "compute_seconds")
    values = [
        ("adapter", "direct", "0", ("0.39", "0.5", "0.99", "0.0", "100")),
        ("adapter", "direct", "1", ("0.41", "", "1.0", "0.01", "121")),
        ("adapter", "reasoning", "0", ("0.31", "0.4", "0.99", "0.0", "100")),
        ("adapter", "reasoning", "1", ("0.30", "0.4", "1.0", "0.01", "121")),
        ("cl", "direct", "0", ("",) * 5),
    ]
    rows = [
        {"run": run, "seed": seed, "mode": mode, **dict(zip(fields, some, strict=True)), "backbone": "tiny"}
        for run, mode, seed, some in values
    ]
    write_csv(study / "tables/tradeoff.csv", rows)
    effect = {"backbone": "tiny", "gradient": "hidden states", "run": "adapter", "mode": "direct", "other": "base"}
    effect |= {"other_mode": "direct", "measure": "ndcg", "effect": "0.2", "low": "0.19", "high": "0.21"}
    lost = {**effect, "run": "cl", "effect": "", "low": "", "high": ""}
    write_csv(study / "tables/effects.csv", [effect, {**effect, "measure": "well_formed"}, lost])
    (study / "tables/tradeoff.json").write_text(json.dumps({"line": "Both at once, two seeds."}))
    (study / "figures/pareto.svg").write_text("<svg>pareto</svg>")
    return study


def test_the_trade_off_has_a_page_of_its_own(traded, tmp_path):
    readme, page = tmp_path / "README.md", tmp_path / "docs/tradeoff.md"
    readme.write_text(PLACE)
    page.parent.mkdir()
    page.write_text(f"before\n{TRADE_BEGIN}\nold\n{TRADE_END}\nafter\n")
    main([str(traded), str(readme), str(page)])
    assert "Two runs, one seed." in readme.read_text()
    assert (
        page.read_text()
        == f"""before
{TRADE_BEGIN}
Both at once, two seeds.

| run | nDCG@10, direct | nDCG@10, reasoning | embedding mean, direct | embedding mean, reasoning | well-formed | \
perplexity, % | compute, s |
|---|---:|---:|---:|---:|---:|---:|---:|
| adapter | 0.400 | 0.305 | 0.500 | 0.400 | 0.995 | +0.5 | 110 |
| cl | — | — | — | — | — | — | — |

| gradient | run | minus | nDCG@10 |
|---|---|---|---:|
| hidden states | adapter, direct | base, direct | +0.200 [+0.190, +0.210] |
| hidden states | cl, direct | base, direct | — |

![Embeddings against generation](pareto.svg)
{TRADE_END}
after
"""
    )
    assert (page.parent / PARETO).read_text() == "<svg>pareto</svg>"


def test_without_a_trade_off_its_block_stays(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{PLACE}{TRADE_BEGIN}\nas it was\n{TRADE_END}\n")
    main([str(study), str(readme)])
    assert f"{TRADE_BEGIN}\nas it was\n{TRADE_END}\n" in readme.read_text() and not (tmp_path / PARETO).exists()


def test_equal_seeds_have_their_own_value_as_mean(traded, tmp_path):
    table, readme = traded / "tables/tradeoff.csv", tmp_path / "README.md"
    row = read_csv(table)[0] | {"well_formed": "0.9575"}  # six of them add up to less than six times it
    write_csv(table, [row | {"seed": seed, "mode": mode} for mode in ("direct", "reasoning") for seed in (0, 1, 2)])
    readme.write_text(f"{PLACE}{TRADE_BEGIN}\n{TRADE_END}\n")
    main([str(traded), str(readme)])
    assert "| 0.958 |" in readme.read_text()

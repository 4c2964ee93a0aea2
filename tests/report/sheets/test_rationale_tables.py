"""Tables 6 and 7 through the real stage."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from grace.config import specs
from grace.report.sheets import rationale_tables
from tests.report import made
from tests.report.nasty import TEXT

RULE = "By a rule."


def said(run: str, step: int | None, text: str, tokens: object = 12, **more) -> dict:
    return {"run": run, "step": step, "text": text, "tokens": tokens, "truncated": False, "well_formed": True, **more}


def cases() -> list[dict]:
    """Two documents and a query; the progress of `grace`, out of order, and the end of the control."""
    each = [said("grace", 200, "middle"), said("grace", 0, "start", truncated=True), said("grace", None, "end")]
    each.append(said("grace-random", None, "control"))
    texts = (("d1", "document", "The first."), ("d2", "document", "The second."), ("q1", "query", "A query?"))
    return [{"id": name, "kind": kind, "text": text, "rationales": each} for name, kind, text in texts]


def spec_of(name: str, **paths) -> specs.TablesSpec:
    table = made.entry(name)
    files = {backbone: str(path) for backbone, path in paths.items()}
    return specs.TablesSpec(study="demo", bootstrap=200, name=name, table=table, tasks=[], cells=[], cases=files)


@pytest.fixture
def path(tmp_path):
    return made.write(
        tmp_path / "tiny.json", {"rule": RULE, "cases": cases()}, "cases", settings={"encode": {"seed": 3}}
    )


def rows(md: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in md.splitlines() if line.startswith("|")]


def test_progress_follows_one_document_from_the_backbone_to_the_ends(path, tmp_path):
    out = made.run(spec_of("table6", tiny=path), tmp_path / "t")
    assert rows(out.md)[0] == ["run", "step", "tokens", "rationale"]
    assert rows(out.md)[2:] == [
        ["grace", "0 (backbone)", "12, cut", "start"],
        ["grace", "200", "12", "middle"],
        ["grace", "end", "12", "end"],
        ["grace-random", "end", "12", "control"],
    ]
    assert "**Document**: The first." in out.md and "The second." not in out.md and RULE in out.md
    assert out.record["line"] == "Study demo; backbone tiny; runs grace, grace-random; one seed (3)."
    assert (out.record["runs"], out.record["seeds"]) == (["grace", "grace-random"], [3])
    assert out.record["backbones"] == ["tiny"] and out.record["line"] in out.tex
    frame = pd.read_csv(out.csv)
    assert list(frame.columns) == rationale_tables.FIELDS and frame["step"].tolist()[:2] == [0, 200]
    assert frame["source"].eq(str(path)).all() and frame["note"].isna().all()


def test_samples_are_of_all_texts_by_the_backbone_and_the_trained_ends(path, tmp_path):
    out = made.run(spec_of("table7", tiny=path), tmp_path / "t")
    found = rows(out.md)
    assert found.count(["run", "tokens", "rationale"]) == 3
    assert found[2:5] == [
        ["backbone", "12, cut", "start"], ["grace", "12", "end"], ["grace-random", "12", "control"]
    ]  # fmt: skip
    assert "middle" not in out.md and "**Query**: A query?" in out.md
    assert len(pd.read_csv(out.csv)) == 9


def test_any_text_is_whole_in_csv_and_page_and_cut_elsewhere(tmp_path):
    long = TEXT + "z" * 700 + "last\ud800"
    made_of = [{"id": "d", "kind": "document", "text": TEXT, "rationales": [said("grace", 0, long)]}]
    path = tmp_path / "tiny.json"
    content = {"rule": RULE, "cases": made_of}
    path.write_text(json.dumps({"manifest": {"stage": "cases"}, **content}))
    out = made.run(spec_of("table6", tiny=path), tmp_path / "t")
    assert pd.read_csv(out.csv)["rationale"].tolist() == [TEXT.replace("\0", "\\x00") + "z" * 700 + "last\\ud800"]
    assert "last\\ud800" in out.html and "last" not in out.md and "last" not in out.tex and "z…" in out.md
    assert len(rows(out.md.replace("\\|", ""))) == 3 and "<|im_start|>" not in out.html
    assert [one["kind"] for one in out.record["problems"]] == ["unhashed"] and "z… ᵃ" in out.md


def test_a_missing_file_is_a_missing_row(path, tmp_path):
    out = made.run(spec_of("table6", tiny=path, other=tmp_path / "none.json"), tmp_path / "t")
    assert rows(out.md)[-1] == ["—", "—", "—", "—"] and "none.json" in out.md
    assert out.record["missing"] == [str(tmp_path / "none.json")] and "no result of other" in out.record["line"]
    assert pd.read_csv(out.csv)["note"].iloc[-1] == f"No result: {tmp_path / 'none.json'}."


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (lambda text: text[:50], "broken", "broken JSON"),
        (lambda text: text.replace('"cases":', '"case":'), "broken", "holds no cases"),
        (lambda text: text.replace('"text":', '"words":'), "broken", "holds no rationale"),
        (lambda text: text.replace('"tokens": 12', '"tokens": NaN'), "score", "are no number"),
        (lambda text: text.replace("middle", "muddle"), "edited", "was edited"),
    ],
)
def test_a_broken_file_is_said_at_its_rows(path, tmp_path, damage, kind, says):
    path.write_text(damage(path.read_text()))
    out = made.run(spec_of("table6", tiny=path), tmp_path / "t")
    assert kind in {one["kind"] for one in out.record["problems"]} and says in out.md
    assert all("ᵃ" in row[3] for row in rows(out.md)[2:]) and "- ᵃ" in out.md
    assert pd.read_csv(out.csv)["note"].str.contains(says).all()

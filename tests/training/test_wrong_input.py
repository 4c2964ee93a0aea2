"""Rows and specs of the wrong kind are one sentence, whatever reads them."""

import json

import pytest

from grace.beyond import signal
from grace.config.section import UserError
from grace.jobs.reader import TRAINING, read_training
from grace.training import backbone, rationales, train
from tests.training.settings import contrastive_spec, grace_spec, rationales_spec, rows
from tests.training.test_backbone import SPEC

WRONG = {  # of a row: what it has -> what is said
    "no id": ({"id": None}, r"row 3: the field 'id' is empty \(null\)"),
    "a number": ({"query": 12}, "row 3: the field 'query' is 12 and no text"),
    "a list": ({"positive": ["sum"]}, r"row 3: the field 'positive' is \['sum'\] and no text"),
    "one negative": ({"negatives": "mean"}, "row 3: the field 'negatives' is 'mean' and no list of values"),
    "numbers as negatives": ({"negatives": [4]}, "row 3: the field 'negatives' is 4 and no text"),
    "an object for negatives": ({"negatives": {"a": "b"}}, "row 3: the field 'negatives' is .* and no list of values"),
}


def write(path, change):
    data = rows(16)
    data[2] = {**data[2], **change}
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named(tmp_path, case):
    change, said = WRONG[case]
    with pytest.raises(UserError, match=rf"rows\.jsonl, {said}"):
        read_training(write(tmp_path / "rows.jsonl", change), TRAINING["supervised"])


def test_right_rows_come_as_they_are(tmp_path):
    for data in (rows(4), rows(4, negatives=0), rows(4, "unsupervised")):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, data)))
        assert (
            read_training(tmp_path / "rows.jsonl", TRAINING["unsupervised" if "text" in data[0] else "supervised"])
            == data
        )


@pytest.mark.parametrize("command", ["grace", "cl", "rationales", "signal", "backbone"])
@pytest.mark.parametrize(
    ("change", "said"),
    [({"query": 12}, ", row 3: the field 'query' is 12 and no text"), (None, ": no rows to train on")],
)
def test_every_command_says_so(tiny_folder, tmp_path, command, change, said):
    path = tmp_path / "rows.jsonl"
    write(path, change) if change else path.write_text("")
    data, out, model = ["--rows", str(path)], ["--out", str(tmp_path / "out/x.json")], ["--backbone", str(tiny_folder)]
    spec = {"grace": grace_spec(), "cl": contrastive_spec("cl"), "rationales": rationales_spec(), "backbone": SPEC}
    given = ["--threads", "1", "--spec", spec[command].model_dump_json()] if command in spec else []
    run = {
        "rationales": (rationales.main, [*data, *model, *out, *given, "--store", str(tmp_path / "store")]),
        "signal": (signal.main, [*data, "--out", str(tmp_path / "x.json"), "--model", str(tiny_folder)]),
        "backbone": (backbone.main, [*out, *given, "--train", str(path), "--validation", str(path)]),
    }
    main, arguments = run.get(command, (train.main, [*data, *model, *out, *given]))
    with pytest.raises(SystemExit, match=f"^error: {path}{said}"):
        main(arguments)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [("[]", "config: spec: Input should be a valid dictionary"), ("zlib:AAAA", "--spec is not JSON"),
     ("[" * 20_000, "--spec is not JSON"), ('{"seed": NaN}', "config: spec")],
)  # fmt: skip
def test_a_wrong_spec(tiny_folder, tmp_path, spec, said):
    path = write(tmp_path / "rows.jsonl", {})
    given = ["--spec", spec, "--backbone", str(tiny_folder), "--rows", str(path), "--out", str(tmp_path / "out/x.json")]
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        train.main(given)


@pytest.mark.parametrize(
    ("spec", "changes", "said"),
    [
        (grace_spec(), {"grace": None}, "grace: method 'grace' needs"),
        (grace_spec(), {"reward": None}, "reward: method 'grace' needs"),
        (grace_spec(), {"method": "cl"}, "contrastive: method 'cl' needs"),
        (grace_spec(), {"seed": -1}, "seed"),
        (contrastive_spec("cl"), {"direct_prompt": None}, "direct_prompt: method 'cl' needs"),
        (contrastive_spec("cl"), {"method": "kl_fence"}, r"contrastive\.fence: kl_fence needs it"),
        (contrastive_spec("cl"), {"method": "simcse"}, "data: method 'simcse' does not train on 'supervised' rows"),
        (contrastive_spec("adapter", loss="half"), {"rationales": None}, "rationales: method 'adapter' needs"),
    ],
)
def test_a_method_has_what_it_needs(spec, changes, said):
    with pytest.raises(ValueError, match=said):
        type(spec).model_validate({**spec.model_dump(), **changes})

"""The comparison with llama.cpp; a stand-in answers for it with this project's own ids and scores, some altered."""

import json

import pytest
import torch

from bench import gguf
from tests.gguf_files import make_model, make_tokenizer, write_gguf


@pytest.fixture
def given(tmp_path):
    file = write_gguf(tmp_path / "model.gguf", make_model("llama"), make_tokenizer())
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "Sort a list.\u2028", "label": 1}) + "\n")
    return [str(file), "--llama", "python", "--texts", str(tmp_path), "--scored", "5"]


def answers(altered, shift):
    model, tokenizer = make_model("llama"), make_tokenizer()

    def asked(python, file, texts, vocabulary):
        if vocabulary:
            ids = gguf.tokens(file, file.stem, texts)
            return {"ids": [[*some, 0] if text in altered else some for some, text in zip(ids, texts, strict=True)]}
        ids = [tokenizer(text)["input_ids"] for text in texts]
        with torch.inference_mode():
            scores = [model(torch.tensor([some])).logits[0, :-1].double().log_softmax(-1) for some in ids]
        chosen = [
            (of.gather(1, torch.tensor(some[1:])[:, None])[:, 0] - shift).tolist()
            for of, some in zip(scores, ids, strict=True)
        ]
        return {"ids": ids, "chosen": chosen, "best": [of.argmax(1).tolist() for of in scores]}

    return asked


@pytest.mark.parametrize(("altered", "shift", "off"), [((), 0.0, "0.0e+00"), (("Sort a list.\u2028",), 0.5, "5.0e-01")])
def test_what_differs_is_counted(given, monkeypatch, capsys, altered, shift, off):
    monkeypatch.setattr(gguf, "asked", answers(altered, shift))
    assert gguf.main(given) == int(bool(altered))
    out = capsys.readouterr().out
    assert out.count("other token ids of 'Sort a list.") == 4 * len(altered)
    for split in ("gpt-2", "llama-bpe", "qwen2", "smollm"):
        (row,) = [line for line in out.splitlines() if line.startswith(f"| {split} |")]
        assert row.endswith(f" | {len(altered)} |")
    assert f" {off} nats apart on average" in out and "the same for 100.0 %" in out


def test_an_interpreter_without_llama_is_one_sentence(given):
    given[2] = "/bin/false"
    with pytest.raises(SystemExit, match=r"^error: /bin/false: llama\.cpp gave no answer"):
        gguf.main(given)

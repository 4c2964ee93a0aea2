"""Effects against pooling again in float64 with a sentence's tokens taken out by hand; sentences by hand."""

import time

import numpy as np
import pytest
import torch

from grace import RationaleEncoder
from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.encoder import explain as module
from grace.encoder.explain import compare, rationale_sentences, read, sentences

# Pieces that the tokenizer cuts into the same tokens alone and together, so that a sentence's tokens can be counted
# without looking for them. A space that is a token is at the end of the sentence before; " Draw" is one token.
A = ["Compute the inverse. ", "Sort a list of strings!\n\n", "Is it a matrix?"]
B = ["Return the sum.", " Draw samples 🙂 from é."]
SAID = {
    "a": ["<think>", " an array. ", "Sorted keys ", "</think>", " It sorts. ", "Twice"],
    "b": ["<think>", " random", "</think>", " It draws."],
}


def encoder(folder, **more):
    return RationaleEncoder.from_pretrained(folder, **{"max_new_tokens": 24, **more})


def pooled_as(tiny, method="mean", layer="last", **more):
    model, tokenizer = tiny
    spec = RationaleEncoder.from_pretrained(model.name_or_path, max_new_tokens=40, **more).spec
    pooling = Pooling(method=method, layer=layer, normalize=True)
    return RationaleEncoder(model, tokenizer, spec.model_copy(update={"pooling": pooling}))


def ids_of(one, pieces):
    """Token ids of pieces of text, and for each the range of its tokens."""
    ids, ranges = [], []
    for piece in pieces:
        more = one.tokenizer(piece, add_special_tokens=False)["input_ids"]
        ranges.append(range(len(ids), len(ids) + len(more)))
        ids += more
    assert ids == one.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    return ids, ranges


class ByHand:
    """One text's hidden states of a float64 model, and its embedding with some tokens taken out."""

    def __init__(self, one, pieces, said):
        template = one.template
        text, ranges = ids_of(one, pieces)
        self.parts = dict(zip([piece.strip() for piece in pieces], ranges, strict=True))
        tokens = [*template.prefix, *text, *template.suffix]
        self.glue = range(len(text), len(text) + len(template.suffix))
        if said:
            rationale, ranges = ids_of(one, said)
            first = len(text) + len(template.suffix)
            for piece, at in zip(said, ranges, strict=True):
                if "think>" not in piece:
                    self.parts[piece.strip()] = range(first + at.start, first + at.stop)
            tokens += rationale
        with torch.no_grad():
            out = one.model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
        states = out.hidden_states[-1 if one.spec.pooling.layer == "last" else -2][0]
        self.states = states[len(template.prefix) :].numpy()
        self.method = one.spec.pooling.method

    def embed(self, without=()):
        kept = [state for i, state in enumerate(self.states) if i not in without]
        return sum(kept) / len(kept) if self.method == "mean" else np.max(kept, axis=0)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("rationales", [True, False])
@pytest.mark.parametrize(("method", "layer"), [("mean", "last"), ("mean", "penultimate"), ("max", "last"),
                                               ("max", "penultimate")])  # fmt: skip
def test_effects_are_those_of_pooling_again_without_the_tokens(tiny, method, layer, rationales):
    one = pooled_as(tiny, method, layer)
    one.model.double()  # so that nothing but a wrong token can make a difference
    end = [tiny[1].eos_token_id]
    written = [ids_of(one, SAID[side])[0] + end for side in "ab"] if rationales else None
    readings = read(one, ["".join(A), "".join(B)], rationales, written)
    found = compare(*readings)
    a, b = (ByHand(one, pieces, SAID[side] if rationales else None) for pieces, side in ((A, "a"), (B, "b")))
    assert found.similarity == pytest.approx(cosine(a.embed(), b.embed()), abs=1e-9)
    for reading, explained, this, other in zip(readings, found[1:], (a, b), (b, a), strict=True):
        np.testing.assert_allclose(reading.embedding, this.embed(), atol=1e-9)
        np.testing.assert_allclose(reading.without, [this.embed(at) for at in this.parts.values()], atol=1e-9)
        assert [part.text for part in explained.parts] == list(this.parts)
        for part in explained.parts:
            left = cosine(this.embed(this.parts[part.text]), other.embed())
            assert part.effect == pytest.approx(cosine(this.embed(), other.embed()) - left, abs=1e-9)
        assert {part.kind for part in explained.parts} == ({"text", "rationale"} if rationales else {"text"})
    assert max(abs(part.effect) for part in found.a.parts) > 1e-3  # not all of them nothing
    pooled = {i for at in a.parts.values() for i in at}
    assert pooled.isdisjoint(a.glue) and len(a.states) > len(pooled)  # the glue stays


def test_one_generation_and_one_forward_pass_whatever_the_texts(tiny_folder, texts, monkeypatch):
    one, calls = encoder(tiny_folder), []
    write, forward = one.write, module.hidden_states
    monkeypatch.setattr(one, "write", lambda *a, **k: calls.append("write") or write(*a, **k))
    monkeypatch.setattr(module, "hidden_states", lambda *a, **k: calls.append("forward") or forward(*a, **k))
    found = one.explain(texts[4], texts[0])
    assert calls == ["write", "forward"] and len(found.a.parts) > 3
    calls.clear()
    one.explain(texts[4], texts[0], rationales=False)
    assert calls == ["forward"]


@pytest.mark.parametrize("rationales", [True, False])
def test_the_cosine_and_the_rationales_are_those_of_encode(tiny_folder, texts, rationales):
    one = encoder(tiny_folder, rationales=rationales)
    made = one.encode(texts[:2])
    found = one.explain(*texts[:2])
    expected = one.similarity(made.embeddings[0], made.embeddings[1])[0, 0]
    assert found.similarity == pytest.approx(expected, abs=1e-5)
    assert [found.a.rationale, found.b.rationale] == (made.rationales or [None, None])
    many = [text for text in texts if text] * 3
    readings = read(one, many)  # together
    pair, alone = compare(readings[0], readings[7]), one.explain(many[0], many[7])
    assert pair.similarity == pytest.approx(alone.similarity, abs=1e-5)
    np.testing.assert_allclose([p.effect for p in pair.b.parts], [p.effect for p in alone.b.parts], atol=1e-5)
    back = one.explain(texts[1], texts[0])
    assert back.similarity == pytest.approx(found.similarity, abs=1e-6)
    for part, same in zip(found.a.parts, back.b.parts, strict=True):
        assert part[:2] == same[:2] and part.effect == pytest.approx(same.effect, abs=1e-5)


def test_one_sentence_leaves_the_glue_or_nothing(tiny_folder):
    plain = encoder(tiny_folder, rationales=False, direct_prompt="plain").explain("one sentence", "another one. And.")
    (part,) = plain.a.parts
    assert part.effect == plain.similarity != 0  # nothing is left, which has the cosine 0 with everything
    assert len(plain.b.parts) == 2 and all(abs(p.effect) < abs(plain.similarity) for p in plain.b.parts)
    (part,) = encoder(tiny_folder, rationales=False).explain("one sentence", "another").a.parts
    assert part.effect != 0


def test_of_a_cut_text_only_what_was_read_counts(tiny):
    model, tokenizer = tiny
    spec = encoder(model.name_or_path, rationales=False).spec
    prompt = spec.prompt.model_copy(update={"instruction": "Short.", "max_prompt_tokens": 60})
    one = RationaleEncoder(model, tokenizer, spec.model_copy(update={"prompt": prompt}))
    text = "Sort a list. Draw samples! " * 100
    found = one.explain(text, "a list")
    read_ids = tokenizer(text, add_special_tokens=False)["input_ids"][: one.template.text_room]
    said = "".join(part.text for part in found.a.parts).replace(" ", "")
    assert said == tokenizer.decode(read_ids).replace(" ", "") and found.a.text == text
    assert one.explain(text + "Another end.", "a list") == found._replace(
        a=found.a._replace(text=text + "Another end.")
    )


def test_a_rationale_of_one_token_has_no_effect(tiny_folder):
    found = encoder(tiny_folder, max_new_tokens=1).explain("Sort a list.", "Draw samples.")
    assert all(abs(part.effect) < 1e-6 for part in found.a.parts if part.kind == "rationale")
    assert found.a.parts[0].kind == "text" and found.a.parts[0].effect != 0


def test_hard_texts(tiny_folder):
    one, start = encoder(tiny_folder), time.perf_counter()
    huge = "word. " * (10_000_000 // 6)
    found = one.explain("", huge)
    assert time.perf_counter() - start < 10
    assert [part for part in found.a.parts if part.kind == "text"] == [] and np.isfinite(found.similarity)
    assert sum(len(part.text) for part in found.b.parts) < 64 * 1024
    assert np.isfinite(one.explain("\ud800 lone. Two", "<|im_end|> <think> x </think>").similarity)
    with pytest.raises(TypeError, match="text 1 is a int"):
        one.explain("a", 1)


def test_a_tokenizer_without_offsets_is_refused(tiny):
    one = pooled_as(tiny)
    with pytest.raises(UserError, match="tokenizer"):
        module._text_ends(object(), "a", 10)
    assert module._text_ends(one.tokenizer, "a b", 10)[-1] == 3


TEXTS = {
    "One. Two! Three? Four": ["One.", "Two!", "Three?", "Four"],
    "no stop at all": ["no stop at all"],
    'He said "Stop." Then he left.': ['He said "Stop."', "Then he left."],
    "See Fig. 3 and Dr. Smith, e.g. here. J. Doe et al. wrote np.sum(x) in 3.5 s. Done.": [
        "See Fig. 3 and Dr. Smith, e.g. here.",
        "J. Doe et al. wrote np.sum(x) in 3.5 s.",
        "Done.",
    ],
    "Wait... what? yes.": ["Wait... what? yes."],
    "A title\n\nA line\nthat goes on.\n  Next.": ["A title", "A line\nthat goes on.", "Next."],
    "Steps:\n- one\n- two\n1. three\n* four": ["Steps:", "- one", "- two", "1. three", "* four"],
    "猫です。犬です！鳥": ["猫です。", "犬です！", "鳥"],
    "  Spaces.   Around.  ": ["Spaces.", "Around."],
    "...": ["..."],
    "": [],
    " \n\n ": [],
}


@pytest.mark.parametrize("text", TEXTS)
def test_sentences(text):
    found = sentences(text)
    assert [text[start:end].strip() for start, end in found] == TEXTS[text]
    assert "".join(text[start:end] for start, end in found) == (text if text.strip() else "")


def test_thought_and_statement_are_apart_and_marks_in_neither():
    text = "<think> a b. C d </think> And so. On"
    assert [text[start:end].strip() for start, end in rationale_sentences(text)] == ["a b.", "C d", "And so.", "On"]
    for broken in ("no mark. At all", "<think> never closed. Cut", "a </think> b <think> c", "<think></think>"):
        parts = [broken[start:end].strip() for start, end in rationale_sentences(broken)]
        assert all(parts) and not any("think>" in part for part in parts)
        assert "".join("".join(parts).split()) == broken.replace("<think>", "").replace("</think>", "").replace(" ", "")


@pytest.mark.parametrize("unit", [".", " ", "\n", "\n ", ". ", '."', "a", "\n-", "!?", "A. ", ".\n\n", "。"])
def test_a_long_run_takes_no_longer_than_words(unit):
    text, start = unit * (200_000 // len(unit)), time.perf_counter()
    sentences(text)
    assert time.perf_counter() - start < 2

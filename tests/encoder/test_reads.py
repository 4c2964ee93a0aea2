"""What the model reads and what is pooled of it, put together by hand from the template's parts."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from grace import RationaleEncoder
from grace.config.schema import Pooling
from grace.config.section import UserError, build
from grace.config.specs import EncodeSpec
from grace.encoder import reads
from grace.method.prompt import PromptTemplate
from tests.pooled import by_hand

TEXTS = ["Sort a list of strings.", "", "Invert a matrix. Raise if singular."]
ONE_WORD = 'This text: "{text}" means in one word: "'
CLOSING = '\nIn one word, it means: "'


@pytest.fixture
def template(tiny):
    return PromptTemplate.from_tokenizer(tiny[1], "Name the key words.", 120)


def pooling(**more):
    return Pooling(**{"method": "mean", "layer": "last", **more})


def ids_of(tiny, text):
    return tiny[1](text, add_special_tokens=False)["input_ids"]


def encoder(tiny_folder, **more):
    made = RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=24)
    changed = {name: more.pop(name) for name in [*more] if name in EncodeSpec.model_fields}
    spec = made.spec.model_copy(update={"pooling": pooling(**more), **changed})
    return RationaleEncoder(made.model, made.tokenizer, spec)


@pytest.mark.parametrize(
    ("prompt", "more", "parts", "pooled"),
    [
        # parts: what is read, T the text; pooled: the first part that is, and the first after it that is not
        ("chat", {}, ["prefix", "T", "suffix"], (1, 3)),
        ("chat", {"tokens": "text"}, ["prefix", "T", "suffix"], (1, 2)),
        ("chat", {"method": "eos", "closing": CLOSING}, ["prefix", "T", "suffix", CLOSING], (3, 4)),
        ("plain", {}, ["T"], (0, 1)),
        ("plain", {"tokens": "text"}, ["T"], (0, 1)),
        (ONE_WORD, {}, ['This text: "', "T", '" means in one word: "'], (0, 3)),
        ("{text}\nAgain: {text}.", {"tokens": "text"}, ["T", "\nAgain: ", "T", "."], (2, 3)),
    ],
)
def test_direct(tiny, template, prompt, more, parts, pooled):
    made = reads.direct(template, TEXTS, prompt, pooling(**more), [7])
    for text, one in zip(TEXTS, made, strict=True):
        known = {"prefix": template.prefix, "suffix": template.suffix, "T": ids_of(tiny, text)}
        tokens = [known[part] if part in known else ids_of(tiny, part) for part in parts]
        assert one.ids == ([token for part in tokens for token in part] or [7])
        first, stop = (sum(map(len, tokens[:at])) for at in pooled)
        if more.get("method") != "eos":
            assert (one.start, one.stop) == ((first, stop) if stop > first else (max(0, first - 1), max(1, stop)))
        assert one.stop == max(1, stop)
        assert one.ids[one.text : one.text + one.size] == known["T"]


def test_texts():
    assert reads.checked_texts(("a", "b")) == ["a", "b"] and reads.checked_texts([]) == []
    with pytest.raises(TypeError, match="list of texts"):
        reads.checked_texts("one text")
    with pytest.raises(TypeError, match="text 1 is a bytes"):
        reads.checked_texts(["a", b"b"])


def test_skipped_tokens_are_read_and_not_pooled(template):
    whole, less = (reads.direct(template, TEXTS, "plain", pooling(skip=skip), [7]) for skip in (0, 1))
    assert [one.ids for one in less] == [one.ids for one in whole]
    assert [one.start for one in less] == [1, 0, 1]  # something is pooled of an empty text


def test_a_plain_text_begins_as_its_tokenizer_begins_one(tmp_path, tiny):
    """Llama's puts a first token before every text, which is no part of the text."""
    from tokenizers.processors import TemplateProcessing

    begin = "<|im_start|>"
    tiny[1].save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, bos_token=begin)
    number = tokenizer.convert_tokens_to_ids(begin)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, number)]
    )
    assert tokenizer("")["input_ids"] == [number]
    template = PromptTemplate.from_tokenizer(tokenizer, "Name the key words.", 120)
    (one,) = reads.direct(template, TEXTS[:1], "plain", pooling(), [7])
    assert one.ids == [number, *ids_of(tiny, TEXTS[0])] and (one.start, one.stop) == (1, len(one.ids))


def test_a_long_text_is_cut_so_that_all_of_the_prompt_fits(template):
    made = reads.direct(template, ["word " * 500], "{text} and again {text}!", pooling(tokens="text"), [7])
    assert len(made[0].ids) in (119, 120) and made[0].size >= 50
    with pytest.raises(UserError, match=r"direct_prompt: leaves no room for a text in 120 tokens"):
        reads.direct(template, ["a"], "word " * 200 + "{text}", pooling(), [7])


@pytest.mark.parametrize(
    ("more", "first", "kept"),
    [({}, 5, [1, 2]), ({"tokens": "rationale"}, -1, [1, 2]), ({"method": "eos", "closing": CLOSING}, None, [1, 2])],
)
def test_written(tiny, template, more, first, kept):
    """The end token is never read; the last of a cut rationale only before a closing."""
    prompts, end = template.ids(TEXTS), tiny[1].eos_token_id
    closing = ids_of(tiny, CLOSING) if "closing" in more else []
    for token_ids in ([1, 2, end], [1, 2, 3]):
        made = reads.written(template, prompts, [token_ids] * 3, pooling(**more), [end])
        for prompt, one in zip(prompts, made, strict=True):
            said = token_ids if closing and token_ids[-1] != end else kept
            assert one.ids == prompt + said + closing and one.stop == len(one.ids)
            if not closing:
                assert one.start == (len(template.prefix) if first == 5 else len(prompt) - 1)


WAYS = [
    {}, {"tokens": "rationale"}, {"tokens": "rationale", "method": "max"}, {"layer": 1}, {"layer": 0, "method": "max"},
    {"skip": 2}, {"method": "eos"}, {"method": "eos", "closing": CLOSING}, {"normalize": True},
]  # fmt: skip


@pytest.mark.parametrize("more", WAYS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rationales_are_pooled_as_by_hand_however_they_are_had(tiny_folder, texts, more, temperature):
    """Pooled while they are written, or read again, by each way of pooling."""
    one = encoder(tiny_folder, sampling_temperature=temperature, **more)
    made = one.encode(texts)
    token_ids = [rationale.token_ids for rationale in made.rationales]
    expected = by_hand(one.model, one.sequences(texts, token_ids), one.spec.pooling)
    if more.get("normalize"):
        expected = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(made.embeddings, expected, atol=3e-5)
    again = np.zeros_like(made.embeddings)
    for rows, part in one.encode_written(texts, token_ids):
        again[rows] = part.embeddings
    np.testing.assert_allclose(again, expected, atol=3e-5)
    found = one.explain(*texts[:2])
    assert found.similarity == pytest.approx(one.similarity(made.embeddings[0], made.embeddings[1]).item(), abs=1e-5)


@pytest.mark.parametrize("more", [{"tokens": "text"}, *(way for way in WAYS if way.get("tokens") != "rationale")])
@pytest.mark.parametrize("prompt", ["chat", "plain", ONE_WORD, "{text}\n{text}"])
def test_direct_embeddings_are_pooled_as_by_hand(tiny_folder, texts, prompt, more):
    one = encoder(tiny_folder, direct_prompt=prompt, rationales=False, **more)
    made = one.encode(texts).embeddings
    expected = by_hand(one.model, one.sequences(texts), one.spec.pooling)
    if more.get("normalize"):
        expected = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(made, expected, atol=3e-5)
    found = one.explain(*texts[:2])
    assert found.similarity == pytest.approx(one.similarity(made[0], made[1]).item(), abs=1e-5)


def test_of_a_last_token_a_sentence_is_left_out_by_not_reading_it(tiny_folder):
    one = encoder(tiny_folder, direct_prompt=ONE_WORD, rationales=False, method="eos")
    found = one.explain("Sort a list. Draw it.", "A matrix.")
    assert [part.text for part in found.a.parts] == ["Sort a list.", "Draw it."]
    prompt = [read.ids for read in one.sequences(["Sort a list. Draw it.", "Sort a list.", "A matrix."])]
    a, left, b = by_hand(one.model, [reads.whole(ids) for ids in prompt], pooling(method="eos"))
    cosine = torch.nn.functional.cosine_similarity
    assert found.a.parts[1].effect == pytest.approx(float(cosine(a, b, 0) - cosine(left, b, 0)), abs=1e-5)


@pytest.mark.parametrize(
    ("rationales", "more", "said"),
    [
        (False, {"tokens": "rationale"}, "pooling.tokens: rationale, but texts are embedded without one"),
        (True, {"tokens": "text"}, "pooling.tokens: text, so the rationale has no part in the embedding"),
        (True, {"layer": 3}, "pooling.layer: 3, but this model has 2 blocks"),
        (True, {"method": "eos", "closing": "It means<|im_end|>"}, "has markers of the chat template"),
    ],
)
def test_a_pooling_that_cannot_be(tiny_folder, rationales, more, said):
    with pytest.raises(UserError, match=said):
        encoder(tiny_folder, rationales=rationales, **more)
    asked = encoder(tiny_folder, rationales=not rationales) if "tokens" in more else None
    if asked:
        asked.spec = asked.spec.model_copy(update={"pooling": pooling(**more)})
        with pytest.raises(UserError, match=said):
            asked.encode(["a"], rationales=rationales)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"closing": "It", "method": "eos", "tokens": "text"}, "pooling.closing: its last token"),
        ({"skip": 1, "method": "eos"}, "pooling.skip: leaves out tokens of the text, and none is pooled"),
        ({"layer": -1}, "pooling.layer"),
        ({"layer": "first"}, "pooling.layer"),
        ({"tokens": "answer"}, "pooling.tokens"),
    ],
)
def test_settings_that_exclude_each_other(more, said):
    with pytest.raises(UserError, match=said):
        build(Pooling, {"method": "mean", "layer": "last", **more}, "pooling")


@pytest.mark.parametrize("more", [{}, {"method": "max"}, {"method": "eos"}, {"tokens": "text", "normalize": True}])
def test_all_layers_of_one_pass_are_those_of_each(tiny_folder, texts, more):
    texts = [f"{text} {i}" for i in range(4) for text in texts]
    one = encoder(tiny_folder, rationales=False, batch_size=2, **more)
    found = np.zeros((len(texts), 3, 32), dtype=np.float32)
    for rows, made in one.encode_layers(texts, [2, 0, 1]):
        found[rows] = made
    for place, layer in enumerate((2, 0, 1)):
        alone = encoder(tiny_folder, rationales=False, layer=layer, **more).encode(texts).embeddings
        np.testing.assert_allclose(found[:, place], alone, atol=2e-5)

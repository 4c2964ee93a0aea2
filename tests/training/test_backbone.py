"""The demo's backbone: an ordinary checkpoint, the same for the same seed."""

import numpy as np
import pytest
import torch

from grace.config import Backbone
from grace.method.prompt import PromptTemplate, is_well_formed
from grace.section import UserError
from grace.specs import BackboneSpec
from grace.training import backbone, corpus
from tests.training.settings import PROMPT

SPEC = BackboneSpec(
    backbone=Backbone(
        kind="trained", vocab_size=400, layers=1, width=32, heads=2, kv_heads=1, feed_forward=48,
        pretrain_steps=6, instruct_steps=4,
    ),
    prompt=PROMPT,
)  # fmt: skip
ROWS = [
    {
        "query": f"Return the {what} of a {thing}",
        "positive": f"The {what} is computed over all {thing} entries in order.",
    }
    for what in ("sum", "mean", "product", "median", "rank")
    for thing in ("matrix", "graph", "list", "tensor", "series", "frame", "index", "tree", "path", "file")
] * 4


@pytest.fixture(scope="module")
def made():
    return backbone.train(SPEC, ROWS, ROWS[:60])


def test_deterministic(made):
    again = backbone.train(SPEC, ROWS, ROWS[:60])
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), again[0].parameters(), strict=True))
    assert made[2] == again[2]


def test_saved_folder_gives_the_same_logits(made, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer, _ = made
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    again, tokens = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([tokens("Return the sum of a matrix")["input_ids"]])
    assert type(again).__name__ == "Qwen2ForCausalLM" and torch.equal(model(ids).logits, again.eval()(ids).logits)
    assert again.generation_config.eos_token_id == tokens.convert_tokens_to_ids("<|im_end|>")
    turns = [{"role": role, "content": role[::-1]} for role in ("system", "user", "assistant")]
    text = tokens.apply_chat_template(turns, tokenize=False)
    assert all(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" in text for turn in turns)


def test_perplexity_against_the_models_own_loss(made):
    model, tokenizer, _ = made
    texts = tokenizer([row["positive"] for row in ROWS[:80]])["input_ids"]
    stream = np.array([token for ids in texts for token in (*ids, tokenizer.pad_token_id)], dtype=np.int32)
    rows = [stream[i * 128 : (i + 1) * 128 + 1] for i in range((len(stream) - 1) // 128)]
    with torch.no_grad():
        losses = [
            model(torch.tensor(row[None], dtype=torch.long), labels=torch.tensor(row[None], dtype=torch.long)).loss
            for row in rows
        ]
    assert backbone.perplexity(model, stream) == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-4)


def test_answers_are_well_formed_and_seen(made):
    template = PromptTemplate.from_tokenizer(made[1], PROMPT.instruction, PROMPT.max_prompt_tokens)
    examples = backbone.answers(ROWS, corpus.token_pairs(ROWS, template), template, 0)
    for ids, reply in (next(examples) for _ in range(50)):
        assert is_well_formed(reply)
        text = made[1].decode(ids)
        words = reply.split("</think>")[0].removeprefix("<think>").split()
        assert 1 <= len(words) <= 4 and all(word in text.lower() for word in words)


def test_only_the_answer_is_learnt(made):
    template = PromptTemplate.from_tokenizer(made[1], PROMPT.instruction, PROMPT.max_prompt_tokens)
    shown = template.text_ids(["Sort a list"])[0]
    ids, labels = backbone.instruct_rows(iter([(shown, "<think> sort </think> Sort")]), template, 1)
    assert ids[0][labels[0] == -100].tolist() == template.ids(["Sort a list"])[0]
    kept = labels[0] != -100
    assert made[1].decode(ids[0][kept]) == "<think> sort </think> Sort<|im_end|>"
    assert torch.equal(ids[0][kept], labels[0][kept])


def test_a_shared_prefix_changes_no_gradient(made):
    model, ids = made[0], torch.randint(3, 400, (4, 30))
    ids[:, :7] = ids[0, :7]
    labels = ids.masked_fill(torch.arange(30) < 12, -100)
    weights = list(model.parameters())
    apart, shared = (
        torch.autograd.grad(backbone.next_token_loss(model, ids, labels, length), weights) for length in (0, 7)
    )
    for one, other in zip(apart, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_too_little_text():
    with pytest.raises(UserError, match="more text"):
        backbone.train(SPEC, ROWS[:5], ROWS[:2])


def test_the_cpu_computes_as_it_did_without_gpus(made):
    assert made[2] == pytest.approx({"perplexity_pretrained": 125.478, "perplexity": 123.801}, rel=1e-3)
    assert {weight.dtype for weight in made[0].parameters()} == {torch.float32}


def test_a_gpu_computes_in_bfloat16_and_the_cpu_as_it_is():
    with backbone.arithmetic(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    gpu = backbone.arithmetic(torch.device("cuda"))
    assert isinstance(gpu, torch.autocast) and (gpu.device, gpu.fast_dtype) == ("cuda", torch.bfloat16)


def test_a_backbone_of_its_own_batch_block_and_rate(monkeypatch):
    rows, rates = [], []
    read, built = backbone.plain_rows, backbone.Optimizer
    monkeypatch.setattr(backbone, "plain_rows", lambda *given: rows.append(read(*given).shape) or read(*given))
    monkeypatch.setattr(backbone, "Optimizer", lambda *given: rates.append(given[2]) or built(*given))
    other = SPEC.backbone.model_copy(
        update={"batch_size": 10, "block": 40, "learning_rate": 0.5, "pretrain_steps": 1, "instruct_steps": 1}
    )
    backbone.train(SPEC.model_copy(update={"backbone": other}), ROWS, ROWS[:60])
    assert rows == [(10, 41), (3, 41)] and rates == [0.5, 0.25]  # of ten rows three are plain text

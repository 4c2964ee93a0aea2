"""The demo's backbone: its tokenizer, first embeddings and optimizer, and an ordinary checkpoint."""

import numpy as np
import pytest
import torch

from grace.config.schema import Backbone
from grace.config.section import UserError
from grace.config.specs import BackboneSpec
from grace.encoder.loading import load_tokenizer
from grace.method.prompt import PromptTemplate, is_well_formed
from grace.training import backbone
from grace.training.backbone import Muon, build_model, orthogonalized
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
    examples = backbone.answers(ROWS, backbone.token_pairs(ROWS, template), template, 0)
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


@pytest.fixture(scope="module")
def tokenizer():
    return backbone.train_tokenizer([f"{row['query']}\n{row['positive']}" for row in ROWS], 400)


def test_tokenizer_round_trip(tokenizer):
    text = "Naïve <think> x </think> tensor[0] → ∂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 400


def test_it_cuts_a_text_as_it_does_when_it_is_loaded_with_its_model(tokenizer, tmp_path):
    """transformers gives a Qwen model's tokenizer the pre-tokenizer of Qwen's, whatever the folder has."""
    shape = dict(layers=1, width=32, heads=4, kv_heads=2, feed_forward=64)
    build_model(Backbone(kind="trained", vocab_size=400, **shape), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in ("of 12345 items.\n\n1. First\n2. it's", "a   b\t\tc\r\n\r\nd 3.14159", "Naïve e\u0301", "x_1[0, :]"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], text


def test_a_stream_is_the_tokens_of_the_whole_texts(tokenizer):
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    texts = [f"{row['query']}\n{row['positive']}<|endoftext|>" for row in ROWS[:20]]
    whole = [token for ids in tokenizer(texts)["input_ids"] for token in ids]
    assert backbone.text_stream(backbone.token_pairs(ROWS[:20], template), tokenizer).tolist() == whole


def test_ppmi_puts_like_tokens_near():
    """Tokens 0 and 1 occur in the same contexts, 2 and 3 in others."""
    dice = np.random.default_rng(0)
    stream = np.concatenate([[dice.choice([0, 1]), 4, 5, dice.choice([2, 3]), 6, 7] for _ in range(2000)])
    vectors = torch.nn.functional.normalize(backbone.ppmi_embeddings(stream, 8, 4, window=1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.9 > 0.5 > (vectors[0] @ vectors[2]).abs()


SHAPES = [(48, 48), (16, 48), (16, 48), (96, 48), (48, 96)]


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    for matrix, made in zip(given.double(), orthogonalized(given).double(), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        core = u.mT @ made @ v.mT
        assert ((core.diagonal() > 0.65) & (core.diagonal() < 1.25))[s > 0.02 * s.norm()].all()
        assert (core - core.diagonal().diag()).abs().max() < 1e-4


def test_the_iteration_in_float64():
    """A matrix of one row has one singular value, which goes through the polynomial by itself."""
    x = 1.0
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(orthogonalized(torch.tensor([[[2.5, 0.0, 0.0]]])), torch.tensor([[[x, 0.0, 0.0]]]))


def test_steps_equal_torchs_up_to_its_rounding():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    begun = [p.detach().clone() for p in ours]
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(ours, theirs, begun, strict=True):
        assert (one - other).norm() < 0.02 * (one - before).norm()


def test_a_matrix_without_a_gradient_stays():
    matrix = torch.nn.Parameter(torch.ones(2, 3))
    Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.1).step()
    assert (matrix == 1).all()

"""The KL that keeps a model's writing: against torch's own in float64, on all logits."""

import pytest
import torch
import torch.nn.functional as F

from grace.beyond.kl_regulariser import KL, KLRegulariser, KLTrainer
from grace.config.schema import Fence as Settings
from grace.method.prompt import PromptTemplate
from grace.training.run import load
from tests.training.settings import LORA, PROMPT, Written, contrastive_spec, model_of, rows, trainer_of

WRITTEN = Written(24)
BATCH = [{"anchor": r["query"], "positive": r["positive"], "negative_0": r["negatives"][0]} for r in rows(6)]
ADAPTED = pytest.mark.parametrize("lora", [LORA, None], ids=["adapters", "all weights"])


def fenced(folder, lora, weights=(1.0, 6.0), count=5):
    """A fence and its model, whose trained weights are moved after it was made."""
    torch.manual_seed(0)
    model, tokenizer = load(folder, contrastive_spec("kl_fence", lora=lora))
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    return KLRegulariser(model, Settings(rationale=weights[0], text=weights[1], rows=count), template, WRITTEN), model


def move(model):
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def by_hand(model, backbone, sequences, starts):
    """Mean over the tokens predicted from `starts` on, by torch's kl_div in float64 on the logits of whole rows."""
    values = []
    for ids, start in zip(sequences, starts, strict=True):
        ours, theirs = (m.double()(input_ids=torch.tensor([ids])).logits[0, start:] for m in (model, backbone))
        values.append(F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="none").sum(-1))
    return torch.cat(values).mean().item()


@ADAPTED
def test_against_torch_in_float64_on_all_logits(tiny_folder, lora):
    fence, model = fenced(tiny_folder, lora)
    move(model)
    with torch.no_grad():
        found = {name: value.item() for name, value in fence(fence.batch(BATCH)).items()}
        total = fence.loss(fence(fence.batch(BATCH))).item()
    backbone = load(tiny_folder, contrastive_spec("cl"))[0]
    merged = model.merge_and_unload() if lora else model
    texts = [row[name] for row, name in zip(BATCH, ["anchor", "positive", "negative_0"] * 2, strict=True)][:5]
    template = fence.template
    prompts = template.ids(texts)
    written = [p + r[:-1] for p, r in zip(prompts, WRITTEN(texts), strict=True)]
    plain = [[template.tokenizer.bos_token_id, *ids] for ids in template.text_ids(texts)]
    expected = {
        "rationale": by_hand(merged, backbone, written, [len(p) - 1 for p in prompts]),
        "text": by_hand(merged, backbone, plain, [0] * 5),
    }
    assert found == pytest.approx(expected, rel=1e-4) and min(expected.values()) > 1e-3
    assert total == pytest.approx(expected["rationale"] + 6 * expected["text"], rel=1e-4)


@ADAPTED
def test_it_is_zero_at_the_start_and_then_reaches_what_is_trained_alone(tiny_folder, lora):
    fence, model = fenced(tiny_folder, lora)
    assert {name: value.item() for name, value in fence(fence.batch(BATCH)).items()} == {"rationale": 0.0, "text": 0.0}
    move(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    fence.loss(fence(fence.batch(BATCH))).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    assert all(p.grad is None and not p.requires_grad for p in fence.backbone.parameters()) or lora
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


def test_with_adapters_there_is_no_second_copy(tiny_folder):
    fence, model = fenced(tiny_folder, LORA)
    assert fence.backbone is model
    other, model = fenced(tiny_folder, None)
    assert not {id(p) for p in other.backbone.parameters()} & {id(p) for p in model.parameters()}


def test_a_part_without_weight_is_not_computed(tiny_folder):
    fence, _ = fenced(tiny_folder, LORA, weights=(0.0, 1.0), count=2)
    batch = fence.batch(BATCH)
    assert list(batch) == ["text"] and len(batch["text"]["input_ids"]) == 2
    fence.rationales = None
    fence(batch)


def test_logits_are_computed_for_what_the_kl_is_taken_on_alone(tiny_folder, monkeypatch):
    fence, model = fenced(tiny_folder, LORA)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, made: seen.append(len(given[0])))
    fence(fence.batch(BATCH))
    texts = [row[name] for row, name in zip(BATCH, ["anchor", "positive", "negative_0"] * 2, strict=True)][:5]
    assert seen[:2] == [sum(map(len, WRITTEN(texts)))] * 2
    assert seen[2:] == [sum(1 + len(ids) for ids in fence.template.text_ids(texts))] * 2


def test_the_backbone_has_no_dropout(tiny_folder):
    torch.manual_seed(0)
    model, tokenizer = load(tiny_folder, contrastive_spec("kl_fence", lora={**LORA, "dropout": 0.5}, dropout=0.5))
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    fence = KLRegulariser(model.train(), Settings(rationale=0, text=1, rows=5), template, WRITTEN)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, made: seen.append(made.detach()))
    batch = fence.batch(BATCH)
    for _ in range(2):
        fence(batch)
    backbone, ours = seen[::2], seen[1::2]
    assert torch.equal(*backbone) and not torch.equal(*ours) and model.training


def test_precision_holds_for_the_kl_too(tiny_folder, tmp_path):
    spec = contrastive_spec("kl_fence", lora=LORA, precision="bf16")
    trainer = trainer_of(tiny_folder, tmp_path, spec, rows(8), WRITTEN)
    model = model_of(trainer)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, made: seen.append(made.dtype))
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(8)]))
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("cached", [False, True])
@ADAPTED
def test_a_step_follows_the_gradient_of_the_whole_loss(tiny_folder, tmp_path, lora, cached):
    """What the trainer's step leaves in the gradients is that of InfoNCE plus the weighted KLs."""
    spec = contrastive_spec("kl_fence", lora=lora, loss="half", mini_batch_size=3 if cached else 8)
    trainer = trainer_of(tiny_folder, tmp_path, spec, rows(8), WRITTEN)
    model = model_of(trainer)
    move(model)
    data = [trainer.train_dataset[i] for i in range(8)]
    trainer.accelerator.backward(trainer.compute_loss(trainer.model, trainer.data_collator(data)))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    batch = trainer.data_collator(data)
    kls = trainer.regulariser(batch.pop(KL))
    (super(KLTrainer, trainer).compute_loss(trainer.model, batch) + kls["rationale"] + 6 * kls["text"]).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, atol=1e-5, rtol=1e-3)
    assert found

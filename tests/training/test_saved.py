"""What is saved is what was trained: logits of the model in memory and of its folder, for every way of training."""

import shutil
from contextlib import ExitStack

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grace.beyond import rounds
from grace.config.section import UserError
from grace.encoder.adapters import embedding, writing
from grace.encoder.loading import load_model
from grace.training import run
from grace.training.run import load
from tests.training.settings import LORA, contrastive_spec, grace_spec, rounds_spec
from tests.training.settings import trained as trained_run

SHAPE = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES = {"qwen2": True, "qwen3": False, "llama": False}  # and whether the head is the table of embeddings
TABLE = {**LORA, "embeddings": True}
FAST = {"learning_rate": 1e-2, "max_steps": 1}


@pytest.fixture(scope="module")
def backbone(tiny_folder, tmp_path_factory):
    """Makes the folder of a family's model with random weights."""

    def make(family, tied):
        torch.manual_seed(0)
        folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp(family) / "model")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, tie_word_embeddings=tied))
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 2:
                    p.mul_(4)
        model.generation_config.eos_token_id = [2, *range(300, 340)]
        model.save_pretrained(folder)
        return folder

    return make


def contrastive(method, **changes):
    return contrastive_spec(method, **{**FAST, "warmup_ratio": 0.0, **changes})


def policy(**changes):
    return grace_spec(**{**FAST, **changes})


def in_rounds(pools, writes, *, loss="half"):
    spec = rounds_spec()
    changes = {
        "contrastive": {"lora": pools, "loss": loss, **FAST, "warmup_ratio": 0.0},
        "grace": {"lora": writes, **FAST},
    }
    parts = {
        name: type(getattr(spec, name))(**{**getattr(spec, name).model_dump(), **new}) for name, new in changes.items()
    }
    short = spec.rounds.model_copy(update={"rounds": 1, "adapter_steps": 1, "policy_steps": 1})
    return spec.model_copy(update={**parts, "rounds": short})


WAYS = {
    "grace": (policy(), None),
    "grace, nothing frozen": (policy(frozen=[]), None),
    "grace, all but the head frozen": (policy(frozen=["layers", "norm", "embed"]), False),
    "grace, linear layers": (policy(frozen=[], lora=LORA), None),
    "grace, table": (policy(frozen=[], lora=TABLE), False),
    "cl": (contrastive("cl"), None),
    "cl, names": (contrastive("cl", lora={**LORA, "targets": ["q_proj", "embed_tokens"]}), False),
    "cl, table": (contrastive("cl", lora={**TABLE, "targets": "ALL-LINEAR"}), False),
    "simcse": (contrastive("simcse"), None),
    "simcse, expression": (contrastive("simcse", lora={**LORA, "targets": ".*(q_proj|embed_tokens)"}), False),
    "kl_fence": (contrastive("kl_fence", lora=None, fence={"rationale": 0, "text": 1, "rows": 2}), None),
    "kl_fence, linear layers": (contrastive("kl_fence", fence={"rationale": 0, "text": 1, "rows": 2}), None),
    "adapter": (contrastive("adapter", loss="direct"), None),
    "adapter, table by an expression": (
        contrastive("adapter", loss="direct", lora={**LORA, "targets": ".*(down_proj|embed_tokens)"}), None,
    ),
    "adapter+grace": (in_rounds(TABLE, LORA), None),
    "adapter+grace, two tables": (in_rounds(TABLE, TABLE, loss="direct"), False),
}  # fmt: skip
CASES = [(way, family) for way, (_, tied) in WAYS.items() for family in FAMILIES if tied in (None, FAMILIES[family])]
FEW = [(way, family) for i, (way, family) in enumerate(CASES) if i % 2 == 0 or family == "qwen2"]


def logits(model, *contexts):
    ids = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ExitStack() as stack:
        for context in contexts:
            model = stack.enter_context(context(model))
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize(("way", "family"), FEW)
def test_the_saved_model_is_the_trained_one(backbone, tmp_path, monkeypatch, way, family):
    spec, folder, last = WAYS[way][0], backbone(family, FAMILIES[family]), {}
    for module in (run, rounds):
        made = module.build_trainer

        def kept(make, model, *given, made=made, **more):
            last["model"] = model
            return made(make, model, *given, **more)

        monkeypatch.setattr(module, "build_trainer", kept)
    out = trained_run(folder, tmp_path, "out", spec)
    (saved, _), (bare, _) = load_model(out, "cpu"), load_model(folder, "cpu")
    moved = 0.0
    for context in (writing, embedding):
        trained = logits(last["model"], context)
        moved = max(moved, (trained - logits(bare, context)).abs().max().item())
        torch.testing.assert_close(logits(saved, context), trained, atol=1e-4, rtol=1e-4)
    assert moved > 1e-2


@pytest.mark.parametrize("spec", [policy(frozen=[], lora=LORA), contrastive("cl", lora=LORA), in_rounds(LORA, LORA)],
                         ids=lambda spec: spec.method)  # fmt: skip
@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("qwen2", {"embeddings": True}, "embeddings: the backbone's table of embeddings is also its head"),
        ("qwen2", {"targets": ["embed_tokens"]}, "targets: the backbone's table of embeddings is also its head"),
        ("qwen2", {"targets": ".*(embed_tokens|q_proj)"}, "targets: the backbone's table of embeddings is also"),
        ("qwen3", {"targets": ".*head"}, "targets: '.*head' names the head too"),
        ("qwen3", {"targets": ["q_proj", "model.lm_head"]}, "targets: .* no modules named .model.lm_head."),
        ("llama", {"targets": r"(?:lm_head|.*\.q_proj)"}, "names the head too"),
        ("llama", {"targets": ["q_proj", "k_porj"]}, "targets: the backbone has no modules named 'k_porj'"),
        ("llama", {"targets": []}, r"targets: the backbone has no modules named \[\]"),
        ("llama", {"targets": "(embed_tokens"}, r"targets: '\(embed_tokens' is no regular expression"),
        ("llama", {"targets": ".*"}, "targets: '.*' cannot be adapted"),
        ("llama", {"targets": ["norm"]}, "cannot be adapted .Target module LlamaRMSNorm"),
    ],
)  # fmt: skip
def test_what_would_not_be_reproduced_is_refused(backbone, spec, family, changes, said):
    at = "grace" if spec.grace else "contrastive"
    part = getattr(spec, at)
    spec = spec.model_copy(update={at: part.model_copy(update={"lora": part.lora.model_copy(update=changes)})})
    with pytest.raises(UserError, match=rf"^config: (grace|cl)\.lora\..*{said}") as refused:
        load(backbone(family, FAMILIES[family]), spec)
    assert "\n" not in str(refused.value)

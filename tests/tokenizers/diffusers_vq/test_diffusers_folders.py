"""VQModels of diffusers are found in folders, pipelines and the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from helpers.diffusers_models import WEIGHTS, as_pipeline, build, noise
from helpers.model_folders import spoil_config

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.diffusers_vq import DiffusersVQTokenizer, load


@pytest.mark.parametrize(
    "parts",
    [
        {"vqvae": "VQModel", "unet": "UNet2DModel"},
        {"movq": "VQModel"},
        {"vae": "VQModel"},
        {"vae": "VQModel", "vqvae": "AutoencoderKL"},
    ],
)
def test_a_pipeline_is_searched_for_its_vq_model(
    saved: Path, tmp_path: Path, tokenizer: DiffusersVQTokenizer, parts: dict[str, str]
) -> None:
    pipeline = as_pipeline(tmp_path / "pipeline", parts, saved)
    assert load_tokenizer(f"diffusers:{pipeline}").fingerprint == tokenizer.fingerprint


def test_a_sub_folder_may_be_named(saved: Path, tmp_path: Path, tokenizer: DiffusersVQTokenizer) -> None:
    pipeline = as_pipeline(tmp_path / "a#b", {"image/vq": "VQModel"}, saved)
    assert load(f"{pipeline}#image/vq").fingerprint == tokenizer.fingerprint
    assert load(f"{pipeline}/image/vq").fingerprint == tokenizer.fingerprint
    with pytest.raises(TokenizerError, match=r"expected other/config\.json, found image, model_index\.json"):
        load(f"{pipeline}#other")
    with pytest.raises(TokenizerError, match="expected a sub-folder behind the #"):
        load(f"{pipeline}#../model")


def test_weights_in_half_precision_and_in_shards_are_read(tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = load(str(tmp_path / "whole")), load(str(tmp_path / "shards"))
    assert whole.dtype == shards.dtype == torch.float32
    assert whole.fingerprint == shards.fingerprint
    assert whole.encode(noise(1, 16, 16)).unique().numel() > 5


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache of the hub, and no network."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def into_cache(cache: Path, repository: str, model: Path) -> None:
    """Put a model into the cache as the hub's client keeps a fetched one."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copytree(model, root / "snapshots" / COMMIT)


@contextmanager
def answering_hub(repository: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve a hub on this machine that has one repository; give the files it was asked to send."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.wfile.write(self.answer())

        def answer(self) -> bytes:
            base = f"/{repository}/resolve/main/"
            if self.path.startswith(base) and (root / self.path.removeprefix(base)).is_file():
                name = self.path.removeprefix(base)
                body, status, error = (root / name).read_bytes(), 200, None
                sent.extend([name] if self.command == "GET" else [])
            elif self.path.startswith(base):
                body, status, error = b"", 404, "EntryNotFound"
            elif self.path == f"/api/models/{repository}":
                body, status, error = json.dumps({"id": repository, "sha": COMMIT}).encode(), 200, None
            else:
                body, status, error = b"", 404, "RepoNotFound"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", hashlib.sha256(body).hexdigest())
            self.send_header("X-Repo-Commit", COMMIT)
            if error is not None:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            return body

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        with monkeypatch.context() as patch:
            patch.setattr(hub, "ENDPOINT", endpoint)
            patch.setattr(
                hub, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            )
            patch.setattr(hub, "HF_HUB_OFFLINE", False)
            yield sent
        server.shutdown()
        thread.join()


def test_a_model_of_the_hub_is_read_from_the_cache_without_a_network(
    saved: Path, hub_cache: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    into_cache(hub_cache, "org/vq", saved)
    assert load_tokenizer("diffusers:org/vq").fingerprint == tokenizer.fingerprint


def test_a_pipeline_of_the_hub_is_searched_like_a_folder(
    saved: Path, tmp_path: Path, hub_cache: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    pipeline = as_pipeline(tmp_path / "pipeline", {"vqvae": "VQModel", "movq": "VQModel"}, saved)
    spoil_config(pipeline / "movq", {"act_fn": "relu"})
    into_cache(hub_cache, "org/pipe.line", pipeline)
    assert load("org/pipe.line").fingerprint == tokenizer.fingerprint
    assert load("org/pipe.line#vqvae").fingerprint == tokenizer.fingerprint
    assert load("org/pipe.line#movq").fingerprint != tokenizer.fingerprint


def test_of_the_hub_nothing_is_fetched_but_the_model_and_never_again(
    saved: Path,
    tmp_path: Path,
    hub_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: DiffusersVQTokenizer,
) -> None:
    pipeline = as_pipeline(tmp_path / "pipeline", {"vqvae": "VQModel", "unet": "UNet2DModel"}, saved)
    (pipeline / "vqvae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04\x95")
    with answering_hub("org/pipeline", pipeline, monkeypatch) as sent:
        assert load("org/pipeline").fingerprint == tokenizer.fingerprint
        assert sent == ["vqvae/config.json", f"vqvae/{WEIGHTS}"]
        assert load("org/pipeline#vqvae").fingerprint == tokenizer.fingerprint
        assert len(sent) == 2
        (pipeline / "unet" / WEIGHTS).unlink()
        with pytest.raises(TokenizerError, match=r"found 'UNet2DModel' in unet/config\.json"):
            load("org/pipeline#unet")
        with pytest.raises(TokenizerError, match=r"expected text/config\.json, found no such file on the"):
            load("org/pipeline#text")
        with pytest.raises(TokenizerError, match=r"org/other: expected a local folder or a model on .* log"):
            load("org/other")
    assert load("org/pipeline").fingerprint == tokenizer.fingerprint
    with pytest.raises(TokenizerError, match=r"org/pipeline \(as cached: .*expected text/config\.json"):
        load("org/pipeline#text")


def test_a_hub_that_cannot_be_reached_is_said_at_once(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "org/none: expected a local folder or a model .* no answer of the hub "
    with pytest.raises(TokenizerError, match=expected + r"\(OfflineModeIsEnabled.*name the folder"):
        load("org/none")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits {seconds} s to try again"))
    with pytest.raises(TokenizerError, match=expected + r"\(Connect.*name the folder"):
        load("org/none")


def test_loading_leaves_the_random_numbers_of_others_alone(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(str(saved))
    assert torch.equal(torch.rand(4), expected)

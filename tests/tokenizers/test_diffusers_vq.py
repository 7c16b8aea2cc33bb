"""VQModels of diffusers: the codes and images of the library, from folders, pipelines and the hub."""

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
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

diffusers = pytest.importorskip("diffusers")

import huggingface_hub.constants as hub  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import tokenstore  # noqa: E402
from tokenstore.audit.verify import verify  # noqa: E402
from tokenstore.conversion.convert import convert_source  # noqa: E402
from tokenstore.conversion.options import ConvertOptions  # noqa: E402
from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.sources import open_source  # noqa: E402
from tokenstore.tokenizers import load_tokenizer  # noqa: E402
from tokenstore.tokenizers.kinds.diffusers_vq import DiffusersVQTokenizer, image_size_of, load  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"
CODES, DIM, STRIDE, SIDE = 128, 6, 4, 48


def build(**changes: Any) -> Any:
    """Build a small VQModel of random weights whose codebook holds latents of noise, so that codes vary."""
    torch.manual_seed(0)
    model = diffusers.VQModel(
        **{
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
            "vq_embed_dim": DIM,
            "num_vq_embeddings": CODES,
            "norm_num_groups": 4,
            "sample_size": SIDE,
            **changes,
        }
    ).eval()
    with torch.no_grad():
        latents = model.encode(as_pixels(noise(1, 64, 64))).latents  # 1, D, 16, 16
        model.quantize.embedding.weight.copy_(latents[0].flatten(1).T[:CODES])
    return model


def noise(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def as_pixels(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def library_codes(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return codes (B, h, w) of the model itself, image by image."""
    grids = []
    with torch.no_grad():
        for image in images.split(1):
            latents = model.encode(as_pixels(image)).latents
            grids.append(model.quantize(latents)[2][2].view(1, *latents.shape[2:]))
    return torch.cat(grids)


def library_images(model: Any, codes: torch.Tensor) -> torch.Tensor:
    """Images of the model's own decode, given codes or vectors as its config asks for."""
    table = model.quantize.embedding.weight
    rebuilt = []
    with torch.no_grad():
        for grid in codes.split(1):
            if model.config.lookup_from_codebook:
                shape = (*grid.shape, table.shape[1])
                sample = model.decode(grid.flatten(), force_not_quantize=True, shape=shape).sample
            else:
                sample = model.decode(table[grid].permute(0, 3, 1, 2), force_not_quantize=True).sample
            rebuilt.append(((sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(rebuilt)


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vq")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Copy the saved model, to be spoiled by a test."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="module")
def tokenizer(saved: Path) -> DiffusersVQTokenizer:
    return load(str(saved))


# ---- codes and images


def test_the_tokenizer_says_what_its_config_says(tokenizer: DiffusersVQTokenizer, model: Any) -> None:
    assert tokenizer.name == "diffusers-vq"
    assert tokenizer.codebook_sizes == (CODES,)
    assert tokenizer.image_size == SIDE
    assert tokenizer.grid((3, SIDE, 2 * SIDE)) == (12, 24)
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.dtype == np.float32
    assert np.array_equal(tokenizer.codebook, model.quantize.embedding.weight.detach().numpy())
    assert not tokenizer.network.training
    assert tokenizer.dtype == torch.float32


@pytest.mark.parametrize(("height", "width"), [(48, 48), (4, 4), (32, 56), (64, 16)])
def test_codes_are_those_of_the_library(
    tokenizer: DiffusersVQTokenizer, model: Any, height: int, width: int
) -> None:
    images = noise(3, height, width, seed=1)
    codes = tokenizer.encode(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, *tokenizer.grid((3, height, width)))
    assert torch.equal(codes, library_codes(model, images))
    if height * width > 1000:
        assert codes.unique().numel() > 50


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lookup_from_codebook": True, "force_upcast": True, "scaling_factor": 0.5},
        {"norm_type": "spatial", "block_out_channels": (32, 32, 32), "vq_embed_dim": None},
        {"mid_block_add_attention": False, "vq_embed_dim": None, "act_fn": "relu"},
    ],
)
def test_every_kind_of_model_encodes_and_decodes_as_the_library(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = build(**changes)
    model.save_pretrained(tmp_path)
    tokenizer = load(str(tmp_path))
    images = noise(2, 16, 24, seed=2)
    codes = tokenizer.encode(images)
    assert torch.equal(codes, library_codes(model, images))
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.dtype == torch.uint8
    assert rebuilt.shape == images.shape
    assert rebuilt.unique().numel() > 20
    # subtle: the last bit of a float may tip a level between two whole numbers
    difference = rebuilt.int() - library_images(model, codes).int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999


def test_codes_do_not_depend_on_the_batch_or_its_order(tokenizer: DiffusersVQTokenizer) -> None:
    images = noise(7, 24, 16, seed=3)
    alone = torch.cat([tokenizer.encode(image) for image in images.split(1)])
    assert torch.equal(tokenizer.encode(images), alone)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    assert torch.equal(tokenizer.encode(images[order]), alone[order])
    assert torch.equal(tokenizer.decode(alone[order]), tokenizer.decode(alone)[order])


def test_codes_do_not_depend_on_the_number_of_threads(saved: Path, tokenizer: DiffusersVQTokenizer) -> None:
    images, before = noise(6, 16, 16, seed=4), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        threaded = load(str(saved))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded.encode(images), tokenizer.encode(images))


def test_a_config_of_pixels_gives_the_image_size_and_the_unset_one_does_not() -> None:
    assert image_size_of(256, 4) == image_size_of(32, 4) == image_size_of(None, 8) == 256
    assert image_size_of(50, 8) == 56


def test_images_of_other_sides_and_codes_outside_the_codebook_are_refused(
    tokenizer: DiffusersVQTokenizer,
) -> None:
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(50, 48\); resize to 48x48"):
        tokenizer.encode(noise(1, 50, 48))
    with pytest.raises(TokenizerError, match=r"0\.\.127, found 128\.\.128"):
        tokenizer.decode(torch.full((1, 2, 2), CODES))


def test_images_become_a_store_that_holds_their_codes(saved: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(f"diffusers:{saved}")
    images = noise(4, SIDE, SIDE, seed=5)
    for number, image in enumerate(images):
        path = tmp_path / "images" / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    options = ConvertOptions(workers=0, chunk_samples=2, shard_samples=4, batch_size=3)
    convert_source(open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=options)
    store = tokenstore.open(tmp_path / "out")
    reader = store["train"]
    names = reader.samples_table()["source"].to_pylist()
    assert sorted(names) == ["class-0/0.png", "class-0/2.png", "class-1/1.png", "class-1/3.png"]
    expected = tokenizer.encode(images)[[int(Path(name).stem) for name in names]]
    assert np.array_equal(reader[:], expected.numpy())
    assert np.array_equal(store.codebook, tokenizer.codebook)
    assert store.manifest.tokenizer.fingerprint == tokenizer.fingerprint
    assert verify(str(tmp_path / "out")).problems == []


# ---- the fingerprint


def test_the_fingerprint_holds_the_weights_and_all_of_the_config_that_decides_codes(
    folder: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    assert load(str(folder)).fingerprint == tokenizer.fingerprint
    weights = load_file(folder / WEIGHTS)
    seen = {tokenizer.fingerprint}
    for name in ("quantize.embedding.weight", "encoder.conv_in.bias", "decoder.conv_out.bias"):
        save_file(weights | {name: weights[name] + 0.125}, folder / WEIGHTS, metadata={"format": "pt"})
        seen.add(load(str(folder)).fingerprint)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for change in ({"act_fn": "relu"}, {"norm_num_groups": 2}):
        spoil_config(folder, change)
        seen.add(load(str(folder)).fingerprint)
    assert len(seen) == 6


def test_the_fingerprint_does_not_hold_what_codes_do_not_depend_on(
    folder: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    change = {"scaling_factor": 1.0, "force_upcast": True, "sample_size": 64, "_diffusers_version": "0.1.0"}
    spoil_config(folder, change)
    assert load(str(folder)).fingerprint == tokenizer.fingerprint


# ---- where models are


def as_pipeline(folder: Path, parts: dict[str, str], model: Path) -> Path:
    """Write a folder with a config of that class in every sub-folder, and the model's weights beside each."""
    for part, class_name in parts.items():
        shutil.copytree(model, folder / part)
        spoil_config(folder / part, {"_class_name": class_name})
    (folder / "model_index.json").write_text("{}")
    return folder


def spoil_config(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


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


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere: expected the folder of a model or the id ORG/NAME .* found no such folder"),
        ("/nowhere/at/all", r"found no such folder"),
        ("./no/where", r"found no such folder"),
    ],
)
def test_what_is_no_folder_and_no_hub_id_is_refused(name: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(name)


def test_folders_without_a_vq_model_are_refused(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"config\.json: expected the folder of a model, found a file"):
        load(str(folder / "config.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"expected config\.json, there or in vqvae/, .* found nothing"):
        load(str(tmp_path / "empty"))
    (folder / "config.json").unlink()
    with pytest.raises(TokenizerError, match=f"expected config.json, there or in .* found {WEIGHTS}; name"):
        load(str(folder))
    pipeline = as_pipeline(tmp_path / "pipeline", {"vae": "AutoencoderKL"}, saved)
    expected = r"expected a config with _class_name VQModel, found 'AutoencoderKL' in vae/config\.json"
    with pytest.raises(TokenizerError, match=expected):
        load(str(pipeline))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "expected JSON"), ("[]", "expected a JSON object, found list"), ("\xff\xfe", "expected JSON")],
)
def test_configs_that_are_no_objects_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenizerError, match=rf"config\.json: {message}"):
        load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_vq_embeddings": 64}, r"cannot be loaded .*quantize\.embedding\.weight"),
        ({"norm_num_groups": 3}, "cannot be loaded"),
        ({"act_fn": "no such function"}, "cannot be loaded"),
        ({"block_out_channels": []}, "cannot be loaded"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "found quantised ones"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    spoil_config(folder, change)
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


def test_models_that_are_not_of_rgb_images_are_refused(tmp_path: Path) -> None:
    model = diffusers.VQModel(in_channels=4, block_out_channels=(8,), norm_num_groups=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"expected a model of RGB images .* cannot take them"):
        load(str(tmp_path))
    model = diffusers.VQModel(out_channels=1, block_out_channels=(8,), norm_num_groups=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"found \[\(1, 2, 1\), \(1, 1, 2, 1\)\]"):
        load(str(tmp_path))


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(TokenizerError, match=f"expected weights {WEIGHTS}, found none; pickles"):
        load(str(folder))
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04\x95")
    with pytest.raises(TokenizerError, match=r"found diffusion_pytorch_model\.bin; pickles .* never read"):
        load(str(folder))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_cut_off_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=f"{WEIGHTS}: expected a safetensors file, found a damaged one"):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("quant_conv.bias", None, r"found 1 missing \(quant_conv\.bias\) and 0 unexpected"),
        ("extra.weight", torch.zeros(2), r"found 0 missing \(\) and 1 unexpected \(extra\.weight\)"),
        ("quant_conv.bias", torch.full((DIM,), torch.nan), r"'quant_conv\.bias': expected finite numbers"),
        ("decoder.conv_in.bias", torch.full((16,), torch.inf), r"'decoder\.conv_in\.bias': expected finite"),
        ("quant_conv.bias", torch.zeros(DIM + 1), "cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(name, None)
    save_file(tensors | ({} if tensor is None else {name: tensor}), folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "expected a weight_map"),
        ({"weight_map": {"a": "missing.safetensors"}}, r"expected the shard 'missing\.safetensors'"),
        ({"weight_map": {"a": "../model/x.safetensors"}}, r"expected the shard '\.\./model/x\.safetensors'"),
    ],
)
def test_an_index_that_names_no_shards_is_refused(folder: Path, index: object, message: str) -> None:
    (folder / WEIGHTS).rename(folder / "x.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))

"""Every kind of tokenizer by the command line: eight real images in, their codes out, a sheet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import magvit_models, maskgit_models, titok_models, vqgan_models
from helpers.symmetric_models import random_model
from helpers.vit_vqgan_models import random_tensors, saved
from PIL import Image
from safetensors.torch import load_file
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.format import FLIP
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import TOKENIZERS, load_tokenizer
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.tokenizers.kinds.conv_vq import PACKAGED_WEIGHTS
from tokenstore.tokenizers.kinds.symmetric_vq import save_weights

COUNT = 8


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write eight parts of two photographs, as JPEG and PNG files of several sizes."""
    datasets = pytest.importorskip("sklearn.datasets")
    folder = tmp_path_factory.mktemp("photographs")
    for number, photo in enumerate(datasets.load_sample_images().images):
        for part in range(COUNT // 2):
            top, left = 40 * part, 90 * part
            crop = Image.fromarray(photo[top : top + 200 + 16 * part, left : left + 224])
            crop.save(folder / f"{number}{part}.{'png' if part == 3 else 'jpg'}")
    return folder


def default(folder: Path, photographs: Path) -> str:
    return "default"


def packaged(folder: Path, photographs: Path) -> str:
    return "conv-vq-8x-2k"


def packaged_symmetric(folder: Path, photographs: Path) -> str:
    return "conv-vq-symmetric-8x-2k"


def conv_vq(folder: Path, photographs: Path) -> str:
    (folder / "mine.safetensors").write_bytes(PACKAGED_WEIGHTS.read_bytes())
    return f"conv-vq:{folder / 'mine.safetensors'}"


def conv_vq_symmetric(folder: Path, photographs: Path) -> str:
    save_weights(random_model(), folder / "mine.safetensors")
    return f"conv-vq-symmetric:{folder / 'mine.safetensors'}"


def vit_vqgan(folder: Path, photographs: Path) -> str:
    return f"vit-vqgan:{saved(folder / 'model.ckpt', {'state_dict': random_tensors()})}"


def vqgan(folder: Path, photographs: Path) -> str:
    return f"vqgan:{vqgan_models.write_checkpoint(folder / 'model.ckpt')}"


def maskgit_vqgan(folder: Path, photographs: Path) -> str:
    return f"maskgit-vqgan:{maskgit_models.write_checkpoint(folder / 'model.bin')}"


def titok(folder: Path, photographs: Path) -> str:
    return f"titok:{titok_models.write_folder(folder / 'model')}"


def open_magvit2(folder: Path, photographs: Path) -> str:
    return f"open-magvit2:{magvit_models.write_checkpoint(folder / 'model.ckpt')}"


def diffusers(folder: Path, photographs: Path) -> str:
    models = pytest.importorskip("helpers.diffusers_models")
    models.build().save_pretrained(folder / "model")
    return f"diffusers:{folder / 'model'}"


def transformers(folder: Path, photographs: Path) -> str:
    models = pytest.importorskip("helpers.transformers_models")
    models.build("emu3").save_pretrained(folder / "model")
    return f"transformers:{folder / 'model'}"


def autoencoder(folder: Path, photographs: Path, *options: str) -> str:
    models = pytest.importorskip("helpers.autoencoder_models")
    models.make_kl().save_pretrained(folder / "model")
    out = folder / "codebook.safetensors"
    arguments = ["fit-codebook", str(photographs), "--autoencoder", str(folder / "model"), "--out", str(out)]
    run("--image-size", "64", *options or ("--codebook-size", "32", "--iterations", "10"), before=arguments)
    return f"autoencoder:{out}"


def residual(folder: Path, photographs: Path) -> str:
    return autoencoder(folder, photographs, "--codebook-size", "16", "--codebooks", "3", "--iterations", "5")


def finite_scalar(folder: Path, photographs: Path) -> str:
    return autoencoder(folder, photographs, "--levels", "5,4,3,3")


def dct(folder: Path, photographs: Path) -> str:
    pytest.importorskip("jpeglib")
    return "dct:y=6,cb=3,cr=1"


MAKERS: dict[str, Callable[[Path, Path], str]] = {
    "default": default,
    "conv-vq-8x-2k": packaged,
    "conv-vq-symmetric-8x-2k": packaged_symmetric,
    "conv-vq": conv_vq,
    "conv-vq-symmetric": conv_vq_symmetric,
    "vit-vqgan": vit_vqgan,
    "vqgan": vqgan,
    "maskgit-vqgan": maskgit_vqgan,
    "titok": titok,
    "open-magvit2": open_magvit2,
    "diffusers": diffusers,
    "transformers": transformers,
    "autoencoder": autoencoder,
    "autoencoder, residual": residual,
    "autoencoder, finite scalar": finite_scalar,
    "dct": dct,
}


THOROUGH = ("maskgit-vqgan",)
"""The kinds that differ from others by their networks alone."""


def run(*arguments: str, before: list[str]) -> str:
    result = CliRunner().invoke(cli, [*before, *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_every_kind_of_tokenizer_is_tried_here() -> None:
    with_a_flag = {name for name, kind in TOKENIZERS.items() if kind.runs_code}  # tests/tokenizers/cosmos
    assert {name.split(",")[0] for name in MAKERS} == set(TOKENIZERS) - with_a_flag


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.thorough] * (kind in THOROUGH)) for kind in MAKERS]
)
def test_real_images_go_in_and_can_be_looked_at_again(
    kind: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 32 if kind.startswith(("vit-vqgan", "titok")) else 64
    spec = MAKERS[kind](tmp_path, photographs)
    out = str(tmp_path / "out.zarr")
    options = ["--tokenizer", spec, "--image-size", str(size), "--workers", "0", "--batch-size", "3"]
    run(*options, before=["convert", str(photographs), out])

    store = tokenstore.open(out)
    split = store["train"]
    assert len(split) == COUNT
    tokenizer = load_tokenizer(spec)
    assert store.manifest.tokenizer.fingerprint == tokenizer.fingerprint
    encoder = Encoder(tokenizer, ImageOptions(size))
    inputs = np.empty((COUNT, *encoder.decoder.shape), encoder.decoder.dtype)
    for row, name in enumerate(split.samples_table()["source"].to_pylist()):
        encoder.decoder.decode((photographs / name).read_bytes(), inputs[row])
    np.testing.assert_array_equal(split[:], encoder(inputs))
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(split.read("tokens", order), encoder(inputs[order]))
    assert len(np.unique(split[:])) > 8

    sheet = tmp_path / "sheet.png"
    told = run("-o", str(sheet), before=["preview", out])
    assert "8" in told
    with Image.open(io.BytesIO(sheet.read_bytes())) as picture:
        assert np.asarray(picture).std() > 20
    run("0", "-1", "--out", str(tmp_path / "pictures"), before=["reconstruct", out])
    rebuilt = sorted((tmp_path / "pictures").iterdir())
    assert len(rebuilt) == 2
    with Image.open(rebuilt[0]) as picture:
        assert picture.size == (size, size)
    again = json.loads(run("--retokenize", str(COUNT), "--json", before=["verify", out]))
    assert again["ok"]
    assert again["retokenization"]["splits"]["train"]["equal_codes_share"] == 1
    audit = json.loads(run("--quality", str(COUNT), "--json", before=["stats", out]))
    assert audit["splits"]["train"]["quality"]["samples"] == COUNT


def test_a_pruned_store_can_be_looked_at_like_any_other(photographs: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.zarr")
    options = ["--prune-codebook", "--image-size", "64", "--workers", "0"]
    run(*options, before=["convert", str(photographs), out])
    run("--image-size", "64", "--workers", "0", before=["convert", str(photographs), f"{out}.whole"])
    pruned, whole = tokenstore.open(out), tokenstore.open(f"{out}.whole")
    used = np.unique(whole["train"][:])
    kept = np.array(pruned.manifest.tokenizer.kept_codes[0])
    np.testing.assert_array_equal(kept, np.union1d(used, whole.symmetries[FLIP][used]))
    assert pruned.manifest.codebook_size == len(kept) < whole.manifest.codebook_size
    np.testing.assert_array_equal(kept[pruned["train"][:]], whole["train"][:])
    for name, store in (("a", out), ("b", f"{out}.whole")):
        run("0", "5", "--out", str(tmp_path / name), before=["reconstruct", store])
    for one, other in zip(
        sorted((tmp_path / "a").iterdir()), sorted((tmp_path / "b").iterdir()), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()
    again = json.loads(run("--retokenize", "8", "--json", before=["verify", out]))
    assert again["retokenization"]["splits"]["train"]["equal_codes_share"] == 1


def test_the_list_of_tokenizers_names_all_with_grid_codebook_and_licence() -> None:
    listed = json.loads(run("--json", before=["tokenizers"]))
    assert set(listed) == set(TOKENIZERS)
    assert all({"grid", "codebook", "licence"} <= set(facts) for facts in listed.values())
    default_codebook = load_file(PACKAGED_WEIGHTS)["codebook"]
    assert listed["default"]["codebook"] == f"{len(default_codebook):,} x {default_codebook.shape[1]}"
    table = run(before=["tokenizers"])
    for name, facts in listed.items():
        assert name in table
        assert all(facts[fact] in table for fact in ("summary", "grid", "codebook", "licence")), name  # uncut

"""Stores of a tokenizer that was the default: they name it `default`, and are used as on their first day."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.augment import load_adapter, recipes
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.images import LoadedTokenizer
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import StoreExistsError
from tokenstore.sources import open_source
from tokenstore.tokenizers import load_tokenizer, registry, tokenizer_of
from tokenstore.tokenizers.registry import TOKENIZERS

FORMER = "conv-vq-8x-2k"
SIDE = 128


@pytest.fixture(autouse=True)
def _another_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TOKENIZERS, "default", TOKENIZERS["conv-vq-symmetric-8x-2k"])


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Write soft images of one class: noise of 8x8 pixels, enlarged."""
    (folder / "train" / "soft").mkdir(parents=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for number, pixels in enumerate(coarse):
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / "train" / "soft" / f"{number}.png")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Convert images as a version did whose default was the former one."""
    loaded = LoadedTokenizer(load_tokenizer(FORMER), "default")
    options = ConvertOptions(image_size=SIDE, workers=0)
    convert_source(
        open_source(write_images(tmp_path / "images", 4, 0)),
        tmp_path / "store",
        tokenizer=loaded,
        options=options,
    )
    return tmp_path / "store"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_is_read_checked_and_rebuilt_by_its_own_tokenizer(store: Path, tmp_path: Path) -> None:
    opened = tokenstore.open(store)
    identity = opened.manifest.tokenizer
    assert (identity.name, identity.spec) == (FORMER, "default")
    tokenizer = tokenizer_of(opened.manifest)
    assert tokenizer.fingerprint == load_tokenizer(FORMER).fingerprint
    assert tokenizer.fingerprint != load_tokenizer("default").fingerprint
    again = json.loads(run("verify", store, "--retokenize", 4, "--json"))
    assert again["retokenization"]["splits"]["train"]["equal_codes_share"] == 1
    run("preview", store, "--out", tmp_path / "sheet.png")
    run("reconstruct", store, 0, "--out", tmp_path / "pictures")
    (picture,) = (tmp_path / "pictures").iterdir()
    codes = torch.from_numpy(opened["train"].read("tokens", [0]).astype(np.int64))
    with Image.open(picture) as shown:
        np.testing.assert_array_equal(np.asarray(shown), tokenizer.decode(codes)[0].permute(1, 2, 0).numpy())


def test_samples_are_appended_by_its_own_tokenizer(store: Path, tmp_path: Path) -> None:
    more = write_images(tmp_path / "more", 2, 1)
    tokenstore.append(store, more, workers=0)
    loaded = load_tokenizer(FORMER)
    with Image.open(more / "train" / "soft" / "1.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(tokenstore.open(store)["train"][5:6], loaded.encode(pixels).numpy())
    with pytest.raises(StoreExistsError, match="are in it already"):
        tokenstore.append(store, more, workers=0)


def test_it_is_augmented_by_its_own_adapter(store: Path, tmp_path: Path) -> None:
    opened = tokenstore.open(store)
    adapter = load_adapter(tokenizer=opened.manifest.tokenizer)
    assert adapter.tokenizer is not None
    assert adapter.tokenizer.fingerprint == opened.manifest.tokenizer.fingerprint
    assert not opened.symmetries
    said = run("preview", store, "--augment", "seitpp", "--out", tmp_path / "sheet.png")
    assert "TokenAdapt flip" in said
    assert "exact flip" not in said
    recipe = recipes.finetune(opened.codebook, classes=2, adapter=adapter)
    codes = torch.from_numpy(opened["train"].read("tokens", [0, 1]).astype(np.int64))
    inputs, _ = recipe(codes, torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(inputs).all()

"""A conversion that is resumed where a complete store is: of the same source, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.pictures import write_images
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import ConversionError

OPTIONS: dict[str, Any] = {"image_size": 16, "workers": 0, "tokenizer": "dct"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completed")
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_images(root / "images" / split / name, 3, (20, 20))
    (root / "images" / "train" / "a" / "1.png").write_bytes(b"no image")
    tokenstore.convert(root / "images", root / "store.zarr", on_error="skip", **OPTIONS)
    return root


def renamed(images: Path) -> None:
    (images / "val" / "b" / "2.png").rename(images / "val" / "b" / "9.png")


def other_classes(images: Path) -> None:
    for split in ("train", "val"):
        (images / split / "b").rename(images / split / "c")


def moved(images: Path) -> None:
    (images / "val" / "b" / "2.png").rename(images / "val" / "a" / "2b.png")


OTHERS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "another name": (renamed, {}, r"in split val the sample .*b/2\.png, found .*b/9\.png"),
    "a sample less": (
        lambda images: (images / "val" / "b" / "2.png").unlink(),
        {},
        "6 samples, found 5",
    ),
    "other classes": (other_classes, {}, r"classes \('a', 'b'\), found \('a', 'c'\)"),
    "another class of a sample": (moved, {}, "split val the sample"),
    "a split less": (lambda images: shutil.rmtree(images / "val"), {}, "splits"),
    "another size": (lambda _: None, {"image_size": 32}, r"images of 16x16 pixels \(squash\), found 32x32"),
    "another resize": (lambda _: None, {"resize": "crop"}, r"images of 16x16 pixels \(squash\), found"),
    "a limit": (lambda _: None, {"limit": 2}, "samples, found 2"),
    "another tokenizer": (lambda _: None, {"tokenizer": "default"}, "a tokenizer"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_complete_store_of_another_source_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    change, options, expected = OTHERS[name]
    images = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    change(images)
    before = sorted(path.stat().st_mtime_ns for path in (folder / "store.zarr").rglob("*"))
    with pytest.raises(ConversionError, match=f"a complete store is there.*{expected}"):
        tokenstore.convert(images, folder / "store.zarr", on_error="skip", resume=True, **(OPTIONS | options))
    assert sorted(path.stat().st_mtime_ns for path in (folder / "store.zarr").rglob("*")) == before


def test_the_same_samples_elsewhere_are_the_same_source(folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder / "images", tmp_path / "moved")
    words = ["convert", images, folder / "store.zarr", "--image-size", 16, "--workers", 0, "--resume"]
    done = CliRunner().invoke(cli, [*map(str, words), "--tokenizer", "dct", "--on-error", "skip"])
    assert done.exit_code == 0, done.output
    assert "already complete, of samples of the same names and labels" in done.output


def test_codes_are_compared_too(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (12, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "codes.npy", codes)
    for prune in (False, True):
        out = tmp_path / f"{prune}.zarr"
        options: dict[str, Any] = {"codebook_size": 16, "prune_codebook": prune}
        tokenstore.convert(tmp_path / "codes.npy", out, **options)
        assert tokenstore.convert(tmp_path / "codes.npy", out, resume=True, **options).already_complete
        np.save(tmp_path / "fewer.npy", codes[:7])
        with pytest.raises(ConversionError, match="12 samples, found 7"):
            tokenstore.convert(tmp_path / "fewer.npy", out, resume=True, **options)

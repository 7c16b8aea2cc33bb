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
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.conversion import ConvertOptions
from tokenstore.errors import ConversionError
from tokenstore.reading import SplitReader

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


def grown(images: Path) -> None:
    shutil.copy(images / "val" / "b" / "2.png", images / "val" / "b" / "3.png")


def renamed_bad(images: Path) -> None:
    (images / "train" / "a" / "1.png").rename(images / "train" / "a" / "1b.png")


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
    "a folder that grew": (grown, {}, "in split val 6 samples, found 7"),
    "a bad sample mended under another name": (renamed_bad, {}, r"the sample .*a/1\.png, found .*a/1b\.png"),
    "another codec": (lambda _: None, {"codec": "zstd"}, "the codec bitpack, found zstd"),
    "a codec of tables": (lambda _: None, {"codec": "context"}, "the codec bitpack, found context"),
    "other shards": (
        lambda _: None,
        {"shard_samples": 128},
        "64 samples in shards of 64, found chunks of 64 in",
    ),
    "other chunks": (lambda _: None, {"chunk_samples": 2}, "chunks of 64 samples in .*, found chunks of 2"),
    "one split": (lambda _: None, {"splits": "val"}, r"splits \['train', 'val'\], found \['val'\]"),
    "a pruned codebook": (lambda _: None, {"prune_codebook": True}, "a pruned codebook: False, found True"),
    "fewer pixels": (lambda _: None, {"max_pixels": 399}, "an image of 400 pixels, found at most 399"),
    "a part": (lambda _: None, {"part": (1, 2)}, "the part None, found 1/2"),
    "no labels": (lambda _: None, {"no_labels": True}, "classes"),
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


def test_every_option_that_decides_the_bytes_is_compared() -> None:
    tried = {name for _, options, _ in OTHERS.values() for name in options}
    in_tests_below = {"mask_size", "ignore_index", "codebook_size"}
    never_told = {"min_decode_rate"}
    assert set(ConvertOptions().decisions()) <= tried | in_tests_below | never_told


@pytest.mark.parametrize(
    "options", [{"codec": "auto"}, {"limit": 100}, {"shard_samples": 64}, {"batch_size": 2}]
)
def test_options_that_change_no_byte_are_no_difference(folder: Path, options: dict[str, Any]) -> None:
    again = {"on_error": "skip", "resume": True, **OPTIONS, **options}
    assert tokenstore.convert(folder / "images", folder / "store.zarr", **again).already_complete


@pytest.mark.parametrize("options", [{"prune_codebook": True}, {"codec": "context"}, {"part": (2, 2)}])
def test_a_store_made_with_an_option_is_complete_with_it_alone(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    again = {"on_error": "skip", **OPTIONS}
    tokenstore.convert(folder / "images", tmp_path / "out", **again, **options)
    repeated = tokenstore.convert(folder / "images", tmp_path / "out", resume=True, **again, **options)
    assert repeated.already_complete
    with pytest.raises(ConversionError, match="a complete store is there"):
        tokenstore.convert(folder / "images", tmp_path / "out", resume=True, **again)


def test_other_conversions_than_a_parts_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    again = {"on_error": "skip", "part": (2, 2), **OPTIONS}
    tokenstore.convert(folder / "images", tmp_path / "out", codec="auto", **again)
    with pytest.raises(ConversionError, match="a part of a conversion of codec auto, found context"):
        tokenstore.convert(folder / "images", tmp_path / "out", codec="context", resume=True, **again)


def test_label_maps_are_compared(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 3, (20, 20))
    (tmp_path / "maps").mkdir()
    for image in (tmp_path / "images").iterdir():
        Image.new("L", (20, 20)).save(tmp_path / "maps" / image.name)
    options: dict[str, Any] = {"masks": str(tmp_path / "maps"), **OPTIONS}
    tokenstore.convert(tmp_path / "images", tmp_path / "out", **options)
    assert tokenstore.convert(tmp_path / "images", tmp_path / "out", resume=True, **options).already_complete
    for other, expected in (
        ({"mask_size": 8}, "the array masks of 16 x 16 x uint8, found 8 x 8 x uint8"),
        ({"ignore_index": 3}, "an ignored label 255, found 3"),
        ({"masks": None}, "an ignored label 255, found None"),
    ):
        with pytest.raises(ConversionError, match=expected):
            tokenstore.convert(tmp_path / "images", tmp_path / "out", resume=True, **(options | other))


def test_samples_are_compared_without_the_whole_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the whole table was read")

    monkeypatch.setattr(SplitReader, "samples_table", refuse)
    monkeypatch.setattr("tokenstore.format.tables.BATCH_ROWS", 2)
    again = {"on_error": "skip", "resume": True, **OPTIONS}
    assert tokenstore.convert(folder / "images", folder / "store.zarr", **again).already_complete


def test_a_plan_of_a_complete_store_compares_it_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    again: dict[str, Any] = {"on_error": "skip", "resume": True, **OPTIONS}
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    plan = tokenstore.plan(folder / "images", folder / "store.zarr", **again)
    assert (plan.already_complete, plan.resumes, plan.measured) == (True, False, 0)
    assert plan.nbytes == sum(f.stat().st_size for f in (folder / "store.zarr").rglob("*") if f.is_file())
    with pytest.raises(ConversionError, match="the codec bitpack, found zstd"):
        tokenstore.plan(folder / "images", folder / "store.zarr", codec="zstd", **again)
    words = [
        "convert",
        folder / "images",
        folder / "store.zarr",
        "--image-size",
        16,
        "--workers",
        0,
        "--dry-run",
    ]
    done = CliRunner().invoke(cli, [*map(str, words), "--tokenizer", "dct", "--resume"])
    assert done.exit_code == 0, done.output
    assert "already complete, of samples of the same names and labels, with the same options" in done.output
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


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
    with pytest.raises(ConversionError, match=r"codebooks of \(16,\), found \(32,\)"):
        tokenstore.convert(tmp_path / "codes.npy", tmp_path / "False.zarr", resume=True, codebook_size=32)
    with pytest.raises(ConversionError, match=r"a tokenizer unknown \(no fingerprint\), found mine"):
        tokenstore.convert(
            tmp_path / "codes.npy",
            tmp_path / "False.zarr",
            resume=True,
            codebook_size=16,
            tokenizer_name="mine",
        )

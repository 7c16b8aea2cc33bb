"""The images that samples were made from are found again, or said to be missing."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.brightness_stores import LEVELS, converted, levels
from PIL import Image

import tokenstore
from tokenstore.audit.originals import image_options, open_images, read_originals
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ManifestError, SourceError
from tokenstore.format.manifest import Preprocessing
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, decode_image


def test_originals_are_the_images_as_the_tokenizer_saw_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    for resize in ("squash", "crop", "pad"):
        store = converted(tmp_path / "images", tmp_path / resize, resize=resize)
        found = read_originals(store, "train", [2, 0])
        assert (found.missing, found.reason, found.changed_files) == (0, None, 0)
        for image, number in zip(found.inputs, (2, 0), strict=True):
            data = (tmp_path / "images" / f"{number}.png").read_bytes()
            np.testing.assert_array_equal(image, decode_image(data, ImageOptions(16, resize)).pixels)


def test_originals_come_out_of_tar_shards(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        tar.add(images, ".")
    store = converted(tmp_path / "shard-0.tar", tmp_path / "of-tar")
    found = read_originals(store, "train", [4, 1])
    assert levels(np.stack(found.inputs)) == [store["train"][4][0, 0], store["train"][1][0, 0]]
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "shard-0.tar").rename(tmp_path / "elsewhere" / "shard-0.tar")
    assert read_originals(store, "train", [4]).missing == 1
    assert read_originals(store, "train", [4], moved).missing == 0


def test_a_source_that_is_gone_gives_none_and_says_why(store: tokenstore.TokenStore, images: Path) -> None:
    shutil.rmtree(images)
    found = read_originals(store, "train", [0, 3])
    assert found.inputs == [None, None]
    assert found.reason is not None
    assert str(images) in found.reason
    assert "images=..." in found.reason


def test_a_relative_source_is_found_from_the_folder_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grey_folder(tmp_path / "images", 2)
    monkeypatch.chdir(tmp_path)
    convert_source(
        open_source("images"), "out", tokenizer=BrightnessTokenizer(), options=ConvertOptions(workers=0)
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store = tokenstore.open("../out")
    assert store.manifest.source_location == "images"
    assert read_originals(store, "train", [0, 1]).missing == 0


def test_a_source_that_was_moved_is_found_where_it_is_named(
    store: tokenstore.TokenStore, images: Path, tmp_path: Path
) -> None:
    moved = images.rename(tmp_path / "val")  # a folder of that name gives a split of that name
    for source in (moved, str(moved), open_source(moved)):
        assert levels(np.stack(read_originals(store, "train", [0, 8], source).inputs)) == [0, 8]
    wrong = read_originals(store, "train", [0], tmp_path / "nowhere")
    assert wrong.reason == f"{tmp_path / 'nowhere'}: no such file or folder"


def test_a_sample_is_found_by_its_name_where_files_were_added_or_removed(
    store: tokenstore.TokenStore, images: Path
) -> None:
    write_grey_image(images / "class-0" / "0000.png", 200)
    (images / "class-1" / "001.png").unlink()
    found = read_originals(store, "train", range(LEVELS))
    assert [None if image is None else image[0, 0, 0] for image in found.inputs] == [
        *range(4),
        None,
        *range(5, 9),
    ]
    assert (found.missing, found.changed_files) == (1, 0)
    assert found.reason == f"{images}: class-1/001.png: no longer there under this name"


def test_files_of_another_size_are_counted_and_bad_ones_are_missing(
    store: tokenstore.TokenStore, images: Path
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(
        images / "class-0" / "000.png"
    )
    (images / "class-0" / "001.png").write_bytes(b"")
    found = read_originals(store, "train", [0, 1, 2])
    assert (found.missing, found.changed_files) == (1, 1)
    assert found.reason == f"{images}: class-0/001.png: the file is empty"


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_grey_image(tmp_path / "images" / split / "a" / "x.png", 10 * number)
    store = converted(tmp_path / "images", tmp_path / "out")
    assert levels(np.stack(read_originals(store, "val", [0]).inputs)) == [10]
    shutil.rmtree(tmp_path / "images" / "val")
    found = read_originals(store, "val", [0])
    assert found.inputs == [None]
    assert found.reason == f"{tmp_path / 'images'}: expected a split 'val', found train"


def test_ready_codes_have_no_originals(tmp_path: Path, images: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((3, 2, 2), np.uint8))
    convert_source(open_source(tmp_path / "codes.npy"), tmp_path / "out")
    store = tokenstore.open(tmp_path / "out")
    for source in (None, images):
        found = read_originals(store, "train", [0], source)
        assert found.inputs == [None]
        assert "ready codes" in str(found.reason)


def test_a_manifest_that_names_no_place_asks_for_one(store: tokenstore.TokenStore, images: Path) -> None:
    manifest = replace(store.manifest, source_location=None)
    with pytest.raises(SourceError, match=r"does not say where its images were; name the place by images="):
        open_images(manifest)
    assert open_images(manifest, images).location == str(images)


def test_codes_are_not_taken_for_images(store: tokenstore.TokenStore, tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(SourceError, match=r"codes\.npy: expected the images that the store was made of"):
        open_images(replace(store.manifest, source_kind=None), tmp_path / "codes.npy")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Preprocessing(16, 16, "shear"), "preprocessing: resize: expected one of squash"),
        (
            Preprocessing(16, 16, "squash", "lanczos"),
            "filter: expected 'bicubic' or 'dct-bi.*lanczos'",
        ),
    ],
)
def test_preprocessing_that_is_not_known_is_refused(
    store: tokenstore.TokenStore, steps: Preprocessing, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        image_options(replace(store.manifest, preprocessing=steps))


def test_originals_are_found_whatever_labels_their_source_has_now(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    write_grey_image(root / "train" / "images" / "1.png", 3)
    write_grey_image(root / "test" / "images" / "2.png", 9)
    with Image.open(root / "train" / "images" / "1.png") as image:
        (root / "train" / "labels").mkdir()
        Image.new("L", image.size).save(root / "train" / "labels" / "1.png")
    convert_source(
        open_source(root, masks="labels"),
        tmp_path / "masked",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=0, splits=("train",)),
    )
    assert read_originals(tokenstore.open(tmp_path / "masked"), "train", [0]).missing == 0


def test_originals_of_a_chosen_column_are_not_taken_from_another(tmp_path: Path) -> None:
    images = [(tmp_path / f"{number}.png") for number in range(2)]
    for number, path in enumerate(images):
        write_grey_image(path, 100 * number)
    table = {name: [path.read_bytes()] for name, path in zip(("image", "second"), images, strict=True)}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", image_column="second")
    options = ConvertOptions(workers=0)
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    found = read_originals(tokenstore.open(tmp_path / "out"), "train", [0])
    assert (found.missing, found.inputs) == (1, [None])
    assert "no longer there under this name" in (found.reason or "")
    assert read_originals(tokenstore.open(tmp_path / "out"), "train", [0], source).missing == 0

"""Folders of label maps: laid out as the folders of images are, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import write_grey_image
from helpers.label_maps import (
    IGNORED,
    converted,
    nearest,
    random_map,
    run,
    same,
    stored,
    write_map,
    write_pairs,
)

from tokenstore.errors import ConversionError, SourceError
from tokenstore.sources import open_source


@pytest.mark.parametrize("top", ["", "cat/", "cat/deep/"])
def test_a_folder_of_maps_is_laid_out_as_that_of_the_images(tmp_path: Path, top: str) -> None:
    names = [f"{split}/{top}{number}.v1" for split in ("train", "val") for number in range(3)]
    maps = write_pairs(tmp_path / "images", tmp_path / "masks", names)
    manifest = converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert manifest.class_names == (("cat",) if top else None)
    for split in ("train", "val"):
        expected = {name: nearest(maps[name], 16) for name in names if name.startswith(split)}
        assert same(stored(tmp_path / "out", split), expected)


@pytest.mark.parametrize("name", ["labels", "labels/"])
def test_each_split_may_have_its_images_and_maps_in_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root, maps = tmp_path / "camvid", {}
    for split in ("train", "val", "test"):
        here = write_pairs(
            root / split / "images", root / split / "labels", ["b", "a", "c"][: len(split) - 1]
        )
        maps[split] = here
    manifest = converted(root, name, tmp_path / "out")
    assert list(manifest.splits) == ["train", "val", "test"]
    assert manifest.ignore_index == IGNORED
    for split, here in maps.items():
        expected = {f"{split}/images/{path}": nearest(values, 16) for path, values in here.items()}
        assert same(stored(tmp_path / "out", split), expected)


def test_a_split_without_maps_may_be_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_pairs(root / "train" / "images", root / "train" / "labels", ["a", "b"])
    write_grey_image(root / "test" / "images" / "c.png", 3)
    source = open_source(root, masks="labels")
    assert source.notes == (f"label maps that are missing: 1 (first: {root}/test/labels/c.png)",)
    converted(root, "labels", tmp_path / "out", splits=("train",))
    assert list(stored(tmp_path / "out")) == ["train/images/a", "train/images/b"]
    with pytest.raises(ConversionError, match=r"split test: .* label map \S+/c\.png: is missing"):
        converted(root, "labels", tmp_path / "all")


def test_layouts_that_are_unclear_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_pairs(root / "train" / "images", root / "train" / "labels", ["a"])
    with pytest.raises(SourceError, match="a folder of label maps, or the name of one in each split"):
        open_source(root, masks="annotations")
    with pytest.raises(SourceError, match="would be read as images"):
        open_source(root, masks=root / "train" / "labels")
    with pytest.raises(SourceError, match="would be read as images"):
        open_source(root / "train" / "labels", masks=root / "train" / "labels")
    write_grey_image(root / "train" / "depth" / "a.png", 0)
    with pytest.raises(SourceError, match="one folder of images beside labels/, found depth/, images/"):
        open_source(root, masks="labels")
    np.savez(tmp_path / "train.npz", tokens=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(SourceError, match="label maps go with a folder of images, not with kind array"):
        open_source(tmp_path / "train.npz", masks=root)


@pytest.mark.usefixtures("pairs")
def test_maps_without_an_image_are_listed_and_end_the_conversion(tmp_path: Path) -> None:
    (tmp_path / "masks" / "colours.jpg").write_bytes(b"")
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    assert "names of label maps end in .png: 1 (first: " in source.notes[0]
    for name in ("x", "cat/00", "val/y"):
        write_map(tmp_path / "masks" / f"{name}.png", random_map(0))
    with pytest.raises(SourceError, match=r"none for 3: \S+cat/00\.png, \S+val/y\.png, \S+x\.png\. .*remove"):
        open_source(tmp_path / "images", masks=tmp_path / "masks")
    result = run("convert", tmp_path / "images", tmp_path / "out", "--masks", tmp_path / "masks")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert not (tmp_path / "out").exists()

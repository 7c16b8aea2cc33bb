"""Label maps that lie among the images of a source: they are no photographs, and no classes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenstore.errors import SourceError
from tokenstore.sources import open_source

SIDE = (24, 20)


def photograph(seed: int, mode: str = "RGB", size: tuple[int, int] = SIDE) -> Image.Image:
    """Draw an image of many values."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def label_map(seed: int, mode: str = "P", size: tuple[int, int] = SIDE) -> Image.Image:
    """Draw a label map of twelve classes, with a palette, as grey or in colours."""
    values = np.random.default_rng(seed).integers(0, 12, (size[1], size[0]), np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    if mode == "1":
        return Image.fromarray(values > 5)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 1000)
    return image.convert(mode)


def saved(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def folder_of(root: Path, image: str, maps: str, count: int = 6, mode: str = "P") -> Path:
    """Write pairs whose paths are those templates, filled with the pair's number."""
    for number in range(count):
        saved(photograph(number), root / image.format(n=number))
        saved(label_map(number, mode), root / maps.format(n=number))
    return root


def tar_of(folder: Path) -> Path:
    """Pack a folder, sorted by name."""
    path = folder.parent / f"{folder.name}.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(folder))
    return path


LAYOUTS = {
    "folders of a split": ("train/rgb/{n}.jpg", "train/sem/{n}.png"),
    "one folder": ("{n}.jpg", "{n}.png"),
    "words at the end": ("benign/b ({n}).png", "benign/b ({n})_mask.png"),
    "words at both ends": (
        "leftImg8bit/train/aachen/a_{n}_leftImg8bit.png",
        "gtFine/train/aachen/a_{n}_gtFine_labelIds.png",
    ),
    "folders of scenes": ("scene{n}/rgb/0001.jpg", "scene{n}/seg/0001.png"),
    "a folder beside the images": ("cats/{n}.jpg", "cats/maps/{n}.bmp"),
}


@pytest.mark.parametrize("mode", ["P", "L", "1"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_label_maps_among_the_images_of_a_folder_are_refused(
    tmp_path: Path, layout: tuple[str, str], mode: str
) -> None:
    root = folder_of(tmp_path / "data", *layout, mode=mode)
    with pytest.raises(SourceError, match="looks like the label map of") as caught:
        open_source(root)
    assert [parameter.name for parameter in caught.value.parameters] == ["masks", "no_labels"]
    everything = open_source(root, no_labels=True)
    assert sum(map(len, everything.splits.values())) == 12


@pytest.mark.parametrize("name", ["folders of a split", "words at the end", "words at both ends"])
def test_label_maps_among_the_images_of_a_tar_file_are_refused(tmp_path: Path, name: str) -> None:
    tar = tar_of(folder_of(tmp_path / "data", *LAYOUTS[name]))
    with pytest.raises(SourceError, match=r"looks like the label map of.*Unpack the tar files"):
        open_source(tar)
    assert sum(map(len, open_source(tar, no_labels=True).splits.values())) == 12


def test_the_message_says_what_then_works(tmp_path: Path) -> None:
    in_splits = folder_of(tmp_path / "split", *LAYOUTS["folders of a split"])
    with pytest.raises(SourceError, match="Give the label maps by masks='sem'"):
        open_source(in_splits)
    assert len(open_source(in_splits, masks="sem").splits["train"]) == 6
    for images, maps in (("pixels", "sem"), ("JPEGImages", "SegmentationClass")):
        root = folder_of(tmp_path / images, f"{images}/{{n}}.jpg", f"{maps}/{{n}}.png")
        with pytest.raises(SourceError) as caught:
            open_source(root)
        assert f"Convert {root}/{images}, and give the label maps by masks='{root}/{maps}'" in str(
            caught.value
        )
        assert len(open_source(root / images, masks=root / maps).splits["train"]) == 6


def test_maps_in_colours_and_of_instances_beside_maps_are_not_taken_for_images(tmp_path: Path) -> None:
    root = folder_of(tmp_path, *LAYOUTS["words at both ends"])
    for number in range(6):
        stem = f"gtFine/train/aachen/a_{number}_gtFine"
        saved(label_map(number, "RGB"), root / f"{stem}_color.png")
        saved(label_map(number, "I;16"), root / f"{stem}_instanceIds.png")
    with pytest.raises(SourceError, match=r"looks like the label map of leftImg8bit"):
        open_source(root)


def other_image(kind: str, number: int) -> Image.Image:
    """Draw the image of a class whose names are those of another class, but which has no label maps."""
    if kind == "grey photographs":
        return photograph(90 + number, "L")
    if kind == "other sizes":
        return label_map(number, "L", (30, 30))
    is_photograph = (kind == "some photographs" and number % 3 == 0) or (kind == "one map" and number > 0)
    return (photograph if is_photograph else label_map)(number, "L")


@pytest.mark.parametrize(
    "kind", ["grey photographs", "other sizes", "some photographs", "other names", "one map"]
)
def test_classes_of_images_with_equal_names_stay_classes(tmp_path: Path, kind: str) -> None:
    for number in range(6):
        saved(photograph(number), tmp_path / f"a/{number}.png")
        stem = f"x{number}" if kind == "other names" else number
        saved(other_image(kind, number), tmp_path / f"b/{stem}.png")
    assert open_source(tmp_path).class_names == ("a", "b")


def test_digits_of_one_channel_stay_classes(tmp_path: Path) -> None:
    for digit in range(3):
        for number in range(12):
            saved(label_map(100 * digit + number, "L"), tmp_path / f"{digit}/{number}.png")
    assert open_source(tmp_path).class_names == ("0", "1", "2")


def test_files_that_cannot_be_read_are_left_to_the_conversion(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/{n}.jpg", "b/{n}.png")
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    buffer = io.BytesIO()
    photograph(0).save(buffer, "EPS")
    (tmp_path / "b" / "eps.png").write_bytes(buffer.getvalue())
    assert open_source(tmp_path).class_names == ("a", "b")


def test_few_files_of_a_large_split_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        saved(photograph(number, size=(4, 4)), tmp_path / f"c/{number}.png")
    read: list[str] = []
    from tokenstore.sources import paired_maps

    before = paired_maps._read

    def counted(split: Any, file: Any) -> bytes:
        read.append(file.name)
        return before(split, file)

    monkeypatch.setattr(paired_maps, "_read", counted)
    open_source(tmp_path)
    assert len(read) == 32
    assert len(set(read)) == 32

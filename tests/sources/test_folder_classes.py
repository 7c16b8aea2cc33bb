"""Folders of images whose folders are not their classes."""

from __future__ import annotations

import tarfile
import unicodedata
from pathlib import Path

import pytest
from helpers.image_folders import fill
from helpers.image_sources import labels, listed

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.imagefolder import open_imagefolder

CLASSES = ("n01443537", "n01629819", "n01641577")


@pytest.fixture
def tiny_imagenet(root: Path) -> Path:
    """Write a folder with the layout of Tiny ImageNet as it unpacks."""
    boxes = "\t0\t0\t62\t62\n"
    for name in CLASSES:
        fill(root, *(f"train/{name}/images/{name}_{number}.JPEG" for number in range(2)))
        (root / f"train/{name}/{name}_boxes.txt").write_text(f"{name}_0.JPEG{boxes}")
    fill(root, *(f"val/images/val_{number}.JPEG" for number in range(4)), "test/images/test_0.JPEG")
    of_images = [CLASSES[2], CLASSES[0], CLASSES[1], CLASSES[2]]
    rows = [f"val_{number}.JPEG\t{name}{boxes}" for number, name in enumerate(of_images)]
    (root / "val/val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(CLASSES))
    return root


def test_tiny_imagenet_as_it_unpacks_has_the_labels_that_it_means(tiny_imagenet: Path) -> None:
    source = open_imagefolder(tiny_imagenet)
    assert source.class_names == CLASSES
    assert (labels(source), labels(source, "val")) == ([0, 0, 1, 1, 2, 2], [2, 0, 1, 2])
    assert labels(source, "test") is None
    assert listed(source)["val"][0] == "val/images/val_0.JPEG"
    notes = "\n".join(source.notes)
    assert (
        "val/images is that of all images of its split; their classes are those in val_annotations.txt"
        in notes
    )
    assert "folder test/images is that of all images of its split, and no class" in notes
    assert source.unused_labels == ()


def test_an_annotation_that_is_missing_or_names_no_class_is_refused(tiny_imagenet: Path) -> None:
    path = tiny_imagenet / "val/val_annotations.txt"
    text = path.read_text()
    path.write_text(text.partition("\n")[2])
    with pytest.raises(SourceError, match=r"images that are not listed: 1 \(first: val/images/val_0.JPEG\)"):
        open_imagefolder(tiny_imagenet)
    path.write_text("".join(f"val_{number}.JPEG\t{number}\n" for number in range(4)))
    with pytest.raises(SourceError, match="expected the class of each image, found '0'") as caught:
        open_imagefolder(tiny_imagenet)
    assert caught.value.parameters == (Parameter("no_labels", True),)
    assert labels(open_imagefolder(tiny_imagenet, no_labels=True)) is None


def test_without_annotations_the_folder_of_images_gives_no_labels(tiny_imagenet: Path) -> None:
    (tiny_imagenet / "val/val_annotations.txt").rename(tiny_imagenet / "val/labels-of-val.txt")
    source = open_imagefolder(tiny_imagenet)
    assert (source.class_names, labels(source, "val")) == (CLASSES, None)
    assert "first: val/labels-of-val.txt" in source.unused_labels[0]


@pytest.mark.parametrize("folder", ["images", "JPEGImages", "Photos"])
def test_a_single_folder_of_images_is_no_class(root: Path, folder: str) -> None:
    fill(root, f"{folder}/1.jpg", f"{folder}/deep/2.jpg")
    source = open_imagefolder(root)
    assert (labels(source), source.class_names) == (None, None)
    assert source.notes == (f"folder {folder} is that of all images of its split, and no class",)


def test_a_folder_that_is_a_class_elsewhere_stays_one(root: Path) -> None:
    fill(root, "train/images/1.jpg", "train/texts/1.jpg", "val/images/1.jpg")
    source = open_imagefolder(root)
    assert (labels(source), labels(source, "val")) == ([0, 1], [0])


def test_a_lone_folder_that_is_no_class_elsewhere_is_refused(root: Path) -> None:
    fill(root, "train/a/1.jpg", "train/b/1.jpg", "val/everything/1.jpg")
    with pytest.raises(
        SourceError, match="split val has one folder, 'everything', which is no class of another"
    ):
        open_imagefolder(root)
    assert labels(open_imagefolder(root, no_labels=True), "val") is None


def test_folders_of_images_and_label_maps_are_refused_with_the_way_to_use_both(root: Path) -> None:
    fill(root, *(f"{split}/{name}/1.png" for split in ("train", "val") for name in ("images", "labels")))
    with pytest.raises(SourceError, match="'images' and 'labels' look like images and label maps") as caught:
        open_imagefolder(root)
    assert caught.value.parameters[0] == Parameter("masks", "labels")
    assert labels(open_imagefolder(root, masks="labels")) is None


def test_a_class_whose_name_is_composed_in_one_split_and_not_in_another_is_one(root: Path) -> None:
    name = "café"
    composed, decomposed = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
    fill(root, f"train/{composed}/1.jpg", "train/dog/1.jpg", f"val/{decomposed}/1.jpg", "val/dog/1.jpg")
    source = open_imagefolder(root)
    assert (labels(source), labels(source, "val")) == ([0, 1], [0, 1])
    assert len(source.class_names or ()) == 2
    assert source.notes == (f"classes whose names are written in two Unicode forms are one: {composed}",)
    fill(root.parent / "one", f"{decomposed}/1.jpg", "dog/1.jpg")
    assert open_imagefolder(root.parent / "one").class_names == (decomposed, "dog")


def test_tars_know_a_folder_of_images_too(tiny_imagenet: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tiny.tar", "w") as tar:
        for split in ("train", "val"):
            tar.add(tiny_imagenet / split, split)
    source = open_source(tmp_path / "tiny.tar")
    assert (source.class_names, labels(source, "val")) == (CLASSES, None)  # type: ignore[arg-type]
    assert "folder images is that of all images of split val, and no class" in source.notes
    bare = open_source(tmp_path / "tiny.tar", no_labels=True)
    assert labels(bare) is None  # type: ignore[arg-type]


def test_tars_of_images_and_label_maps_are_refused_too(root: Path, tmp_path: Path) -> None:
    fill(root, "images/1.png", "labels/1.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root, "root")
    with pytest.raises(SourceError, match=r"look like images and label maps, .* Unpack the tar files"):
        open_source(tmp_path / "x.tar")
    assert len(open_source(tmp_path / "x.tar", no_labels=True).splits["train"]) == 2

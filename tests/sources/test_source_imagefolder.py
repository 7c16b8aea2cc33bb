"""Folders of images: what is a class, what is a split, what is skipped, what is refused."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
from helpers.growth import start_tracing, stop_tracing
from helpers.image_folders import fill
from helpers.image_sources import labels, listed

from tokenstore.errors import SourceError
from tokenstore.sources import names as name_columns
from tokenstore.sources.imagefolder import open_imagefolder


def test_class_folders_make_one_split_with_sorted_classes(root: Path) -> None:
    fill(root, "b/2.jpg", "a/1.jpg", "b/1.png")
    source = open_imagefolder(root)
    assert listed(source) == {"train": ["a/1.jpg", "b/1.png", "b/2.jpg"]}
    assert labels(source) == [0, 1, 1]
    assert source.class_names == ("a", "b")
    assert source.notes == ()
    assert (source.kind, source.location) == ("imagefolder", str(root))


@pytest.mark.parametrize("folder", ["val", "validation", "valid", "Val"])
def test_splits_share_the_classes_of_all_of_them(root: Path, folder: str) -> None:
    fill(root, "train/b/1.jpg", "train/c/1.jpg", f"{folder}/c/1.jpg", f"{folder}/a/1.jpg", "test/c/x.jpg")
    source = open_imagefolder(root)
    assert list(source.splits) == ["train", "val", "test"]
    assert source.class_names == ("a", "b", "c")
    assert (labels(source), labels(source, "val"), labels(source, "test")) == ([1, 2], [0, 2], [2])
    renamed = () if folder.lower() == "val" else (f"{folder} is split val",)
    assert source.notes == (*renamed, "classes of split val that do not occur in train: 1 (first: a)")


def test_folders_below_a_class_belong_to_it(root: Path) -> None:
    fill(root, "train/a/x/y/1.jpg", "train/a/0.jpg", "train/b/images/2.jpg")
    source = open_imagefolder(root)
    assert listed(source)["train"] == ["train/a/0.jpg", "train/a/x/y/1.jpg", "train/b/images/2.jpg"]
    assert labels(source) == [0, 0, 1]


def test_a_flat_folder_has_no_labels(root: Path) -> None:
    fill(root, "2.jpg", "1.jpg")
    source = open_imagefolder(root)
    assert listed(source) == {"train": ["1.jpg", "2.jpg"]}
    assert labels(source) is None
    assert source.class_names is None


def test_a_test_split_may_be_flat_beside_labelled_ones(root: Path) -> None:
    fill(root, "train/a/1.jpg", "test/1.jpg")
    source = open_imagefolder(root)
    assert (labels(source), labels(source, "test")) == ([0], None)


def test_a_folder_that_is_a_split_itself_keeps_its_name(root: Path) -> None:
    fill(root, "val/a/1.jpg")
    assert list(open_imagefolder(root / "val").splits) == ["val"]


def test_the_order_is_that_of_the_bytes_of_the_paths(root: Path) -> None:
    fill(
        root,
        "a/b/1.jpg",
        "a/b-c.jpg",
        "a/b.jpg",
        "a/B.jpg",
        "a-b/1.jpg",
        "a/é.jpg",
        "a/z.jpg",
        "a/10.jpg",
        "a/9.jpg",
    )
    names = listed(open_imagefolder(root))["train"]
    assert names == sorted(names, key=os.fsencode)
    assert len(names) == 9


@pytest.mark.parametrize("ending", ["JPEG", "jpg", "jpe", "PNG", "bmp", "gif", "webp", "TIF", "ppm", "jp2"])
def test_the_ending_decides_what_an_image_is(root: Path, ending: str) -> None:
    fill(root, f"x.{ending}")
    assert listed(open_imagefolder(root)) == {"train": [f"x.{ending}"]}


def test_other_files_are_passed_over_and_counted_and_hidden_ones_are_not_even_counted(root: Path) -> None:
    fill(root, "a/1.jpg", "a/notes.txt", "b.csv", "a/jpg", ".hidden/1.jpg", "a/._1.jpg", ".DS_Store")
    source = open_imagefolder(root)
    assert listed(source) == {"train": ["a/1.jpg"]}
    assert source.notes == ("files skipped, as their names do not end like an image's: 3 (first: a/jpg)",)


def test_a_folder_without_images_is_no_class(root: Path) -> None:
    fill(root, "a/1.jpg", "b/readme.md")
    source = open_imagefolder(root)
    assert source.class_names == ("a",)
    assert "folders without images, which are no classes: 1 (first: b/)" in source.notes


def test_classes_that_differ_by_case_are_two_and_noted(root: Path) -> None:
    fill(root, "cat/1.jpg", "Cat/1.jpg", "dog/1.jpg")
    source = open_imagefolder(root)
    assert source.class_names == ("Cat", "cat", "dog")
    assert source.notes == ("classes whose names differ only by case are different classes: Cat, cat",)


@pytest.mark.parametrize("where", ["", "train/"])
def test_images_beside_class_folders_are_refused(root: Path, where: str) -> None:
    fill(root, f"{where}a/1.jpg", f"{where}stray.jpg")
    with pytest.raises(SourceError, match=r"'stray.jpg' lies beside class folder 'a'"):
        open_imagefolder(root)


def test_images_beside_split_folders_are_refused(root: Path) -> None:
    fill(root, "train/a/1.jpg", "stray.jpg")
    with pytest.raises(SourceError, match=r"'stray.jpg' lies beside the split folders"):
        open_imagefolder(root)


def test_split_folders_among_other_folders_of_images_are_refused(root: Path) -> None:
    fill(root, "train/1.jpg", "car/1.jpg")
    with pytest.raises(SourceError, match=r"'train' is named like a split but 'car' is not"):
        open_imagefolder(root)


def test_folders_without_images_do_not_disturb_the_splits(root: Path) -> None:
    fill(root, "train/a/1.jpg", "docs/readme.txt")
    assert listed(open_imagefolder(root)) == {"train": ["train/a/1.jpg"]}


def test_two_folders_for_one_split_are_refused(root: Path) -> None:
    fill(root, "val/a/1.jpg", "validation/a/1.jpg")
    with pytest.raises(SourceError, match="both split val"):
        open_imagefolder(root)


def test_a_folder_without_any_image_is_refused(root: Path) -> None:
    fill(root, "a/1.txt")
    with pytest.raises(SourceError, match="no images found; looked for names ending in"):
        open_imagefolder(root)


def test_the_fingerprint_follows_names_and_labels_only(root: Path, tmp_path: Path) -> None:
    def fingerprint() -> str:
        return open_imagefolder(root).splits["train"].fingerprint()

    fill(root, "a/1.jpg", "b/2.jpg")
    first = fingerprint()
    assert first == fingerprint()
    assert int(first, 16)
    shutil.copytree(root, tmp_path / "copy")
    assert open_imagefolder(tmp_path / "copy").splits["train"].fingerprint() == first
    (root / "b/2.jpg").rename(root / "a/2.jpg")
    moved = fingerprint()
    fill(root, "a/3.jpg")
    assert len({first, moved, fingerprint()}) == 3


def test_a_new_class_changes_the_labels_and_so_the_fingerprint(root: Path) -> None:
    fill(root, "train/b/1.jpg")
    before = open_imagefolder(root).splits["train"].fingerprint()
    fill(root, "val/a/1.jpg")
    assert open_imagefolder(root).splits["train"].fingerprint() != before


@pytest.mark.parametrize("samples", [(-1, 1), (0, 4), (2, 1)])
def test_samples_outside_the_split_are_refused(root: Path, samples: tuple[int, int]) -> None:
    fill(root, "1.jpg", "2.jpg", "3.jpg")
    split = open_imagefolder(root).splits["train"]
    for ask in (split.names, split.labels, split.request):
        with pytest.raises(IndexError, match="of a split of 3"):
            ask(*samples)


def test_an_empty_range_of_samples_is_empty(root: Path) -> None:
    fill(root, "a/1.jpg")
    split = open_imagefolder(root).splits["train"]
    assert (len(split.names(1, 1)), len(split.labels(1, 1)), split.request(0, 0).read()) == (0, 0, [])


@pytest.mark.thorough
def test_a_million_names_take_no_object_each() -> None:
    start_tracing()
    names = name_columns.NameBuilder()
    count = names.extend(b"n01440764/n01440764_%08d.JPEG" % number for number in range(10**6))
    column = names.finish()
    python_bytes = tracemalloc.get_traced_memory()[0]
    stop_tracing()
    assert (count, len(column)) == (10**6, 10**6)
    assert python_bytes < 2 * 10**6
    assert column.nbytes < 40 * 10**6
    assert name_columns.sliced(column, 65_530, 65_540).to_pylist()[6] == b"n01440764/n01440764_00065536.JPEG"


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "Metadata.parquet"])
def test_tables_of_facts_of_images_are_named_as_what_they_are(root: Path, name: str) -> None:
    fill(root, "cats/0.jpg", f"cats/{name}")
    notes = open_imagefolder(root).notes
    assert notes == (
        f"tables of facts of images (Hugging Face's ImageFolder), which are not read: 1 (first: cats/{name})",
    )

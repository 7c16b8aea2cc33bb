"""Folders of images: what is a class, what is a split, what is skipped, what is refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources import ImageSource, file_bytes
from tokenstore.sources import names as name_columns
from tokenstore.sources.imagefolder import open_imagefolder


def jpeg(grey: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def fill(root: Path, *paths: str | bytes) -> None:
    """Put an image at each path."""
    for path in paths:
        full = root / os.fsdecode(path)
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(jpeg())


def listed(source: ImageSource) -> dict[str, list[str]]:
    return {name: split.names(0, len(split)).to_pylist() for name, split in source.splits.items()}


def labels(source: ImageSource, split: str = "train") -> list[int] | None:
    found = source.splits[split].labels(0, len(source.splits[split]))
    assert found is None or found.dtype == np.int32
    return None if found is None else found.tolist()


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
    assert source.notes == ("classes of split val that do not occur in train: 1 (first: a)",)


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


def test_names_that_are_not_utf8_and_names_of_255_bytes_work(root: Path) -> None:
    long = b"x" * 251 + b".jpg"
    fill(root, b"caf\xe9/\xff.jpg", b"a/" + long)
    source = open_imagefolder(root)
    assert source.class_names == ("a", "caf\\xe9")
    assert listed(source)["train"] == ["a/" + long.decode(), "caf\\xe9/\\xff.jpg"]
    assert source.splits["train"].request(0, 2).read() == [jpeg(), jpeg()]


def test_classes_that_print_the_same_are_refused(root: Path) -> None:
    fill(root, b"caf\xe9/1.jpg", rb"caf\xe9/1.jpg")
    with pytest.raises(SourceError, match="two classes print as"):
        open_imagefolder(root)


def test_links_to_files_and_folders_are_followed(root: Path) -> None:
    fill(root, "a/1.jpg", "../elsewhere/2.jpg")
    (root / "a/link.jpg").symlink_to(root / "../elsewhere/2.jpg")
    (root / "b").symlink_to(root / "../elsewhere", target_is_directory=True)
    source = open_imagefolder(root)
    assert listed(source)["train"] == ["a/1.jpg", "a/link.jpg", "b/2.jpg"]
    assert source.splits["train"].request(1, 3).read() == [jpeg(), jpeg()]


def test_loops_of_links_end_and_are_noted(root: Path) -> None:
    fill(root, "a/1.jpg", "a/b/2.jpg")
    (root / "a/b/up").symlink_to(root / "a", target_is_directory=True)
    (root / "a/itself").symlink_to(root / "a/itself")
    (root / "a/here.jpg").symlink_to(root / "a/here.jpg")
    source = open_imagefolder(root)
    assert listed(source)["train"] == ["a/1.jpg", "a/b/2.jpg"]
    assert any("lead back" in note and "a/b/up/" in note for note in source.notes)


def test_a_link_to_the_root_ends_too(root: Path) -> None:
    fill(root, "a/1.jpg")
    (root / "a/root").symlink_to(root, target_is_directory=True)
    assert listed(open_imagefolder(root))["train"] == ["a/1.jpg"]


def test_what_is_no_file_is_never_opened(root: Path) -> None:
    fill(root, "a/1.jpg")
    os.mkfifo(root / "a/pipe.jpg")
    (root / "a/broken.jpg").symlink_to(root / "nothing.jpg")
    source = open_imagefolder(root)
    assert listed(source)["train"] == ["a/1.jpg"]
    assert source.notes == (
        "named like images but skipped, as they are no files or lead nowhere: 2 (first: a/broken.jpg)",
    )


def test_a_file_that_became_a_pipe_is_a_bad_sample_and_no_endless_wait(root: Path) -> None:
    fill(root, "1.jpg")
    request = open_imagefolder(root).splits["train"].request(0, 1)
    (root / "1.jpg").unlink()
    os.mkfifo(root / "1.jpg")
    assert str(request.read()[0]) == "not a regular file"


def test_a_file_that_vanished_is_a_bad_sample_with_its_reason(root: Path) -> None:
    fill(root, "1.jpg", "2.jpg")
    request = open_imagefolder(root).splits["train"].request(0, 2)
    (root / "1.jpg").unlink()
    gone, there = request.read()
    assert isinstance(gone, SampleError)
    assert "No such file" in str(gone)
    assert there == jpeg()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_a_bad_sample(root: Path) -> None:
    fill(root, "1.jpg")
    (root / "1.jpg").chmod(0)
    assert "Permission denied" in str(open_imagefolder(root).splits["train"].request(0, 1).read()[0])


def test_a_file_that_the_system_refuses_to_read_is_a_bad_sample(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, "1.jpg")
    request = open_imagefolder(root).splits["train"].request(0, 1)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_bytes.os, "open", refuse)
    assert str(request.read()[0]) == "cannot be read: Permission denied"


def test_a_file_of_absurd_size_is_not_read(root: Path) -> None:
    fill(root, "1.jpg")
    os.truncate(root / "1.jpg", 2**40)
    assert "are more than" in str(open_imagefolder(root).splits["train"].request(0, 1).read()[0])


def test_a_folder_that_cannot_be_listed_is_refused(root: Path) -> None:
    with pytest.raises(SourceError, match="cannot be listed: No such file"):
        open_imagefolder(root)


def test_requests_are_small_and_survive_pickling(root: Path) -> None:
    fill(root, *(f"a/{number:04}.jpg" for number in range(300)))
    split = open_imagefolder(root).splits["train"]
    request = pickle.loads(pickle.dumps(split.request(200, 203)))
    assert len(pickle.dumps(request)) < 400
    assert request.read() == [jpeg()] * 3


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


def test_a_million_names_take_no_object_each() -> None:
    tracemalloc.start()
    names = name_columns.NameBuilder()
    count = names.extend(b"n01440764/n01440764_%08d.JPEG" % number for number in range(10**6))
    column = names.finish()
    python_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (count, len(column)) == (10**6, 10**6)
    assert python_bytes < 2 * 10**6
    assert column.nbytes < 40 * 10**6
    assert name_columns.sliced(column, 65_530, 65_540).to_pylist()[6] == b"n01440764/n01440764_00065536.JPEG"


class TestLabelsFile:
    def csv(self, root: Path, text: str | bytes) -> Path:
        path = root.parent / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    @pytest.mark.parametrize(
        "head",
        ["path,label\n", "filename,class\n", "Image,Label\n", "file,label\r\n", "\ufeffpath,label\n", ""],
    )
    def test_names_become_sorted_classes_with_or_without_heading(self, root: Path, head: str) -> None:
        fill(root, "1.jpg", "deep/2.jpg", "3.jpg")
        source = open_imagefolder(root, self.csv(root, head + "1.jpg,dog\n./deep/2.jpg,cat\n3.jpg, dog\n"))
        assert source.class_names == ("cat", "dog")
        assert listed(source) == {"train": ["1.jpg", "3.jpg", "deep/2.jpg"]}
        assert labels(source) == [1, 1, 0]

    def test_integers_are_labels_as_they_are(self, root: Path) -> None:
        fill(root, "a/1.jpg", "a/2.jpg")
        source = open_imagefolder(root, self.csv(root, "a/2.jpg,7\na/1.jpg,0\n"))
        assert source.class_names is None
        assert labels(source) == [0, 7]

    def test_splits_are_still_folders(self, root: Path) -> None:
        fill(root, "train/1.jpg", "val/x/2.jpg")
        source = open_imagefolder(root, self.csv(root, "train/1.jpg,b\nval/x/2.jpg,a\n"))
        assert (labels(source), labels(source, "val")) == ([1], [0])

    def test_quoted_paths_and_bytes_that_are_not_utf8_work(self, root: Path) -> None:
        fill(root, "a, b.jpg", b"caf\xe9.jpg")
        source = open_imagefolder(root, self.csv(root, b'"a, b.jpg",x\ncaf\xe9.jpg,\xe9\n'))
        assert source.class_names == ("x", "\\xe9")
        assert labels(source) == [0, 1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1.jpg,a\n", r"images of split train that are not listed: 1 \(first: 2.jpg\)"),
            (
                "1.jpg,a\n2.jpg,a\n3.jpg,b\n4.jpg,b\n",
                r"listed images that were not found: 2 \(first: 3.jpg\)",
            ),
            ("1.jpg,a\n1.jpg,b\n2.jpg,b\n", r"two different labels for '1.jpg'"),
            ("1.jpg,1\n2.jpg,-1\n", r"expected labels 0..2147483647, found -1"),
            ("1.jpg,1\n2.jpg,99999999999\n", r"expected labels 0..2147483647, found 99999999999"),
            ("1.jpg,1\n2.jpg,9" + "9" * 40, "expected labels"),
            ("1.jpg,a\n2.jpg, \n", r"sample 1 has an empty label"),
            ("1.jpg,a,b\n2.jpg,a,b\n", r"expected a CSV file of two columns"),
            ("1.jpg\n2.jpg\n", r"expected a CSV file of two columns"),
            ("", r"expected a CSV file of two columns"),
            ("path,label\n", r"lists no images"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(self, root: Path, text: str, message: str) -> None:
        fill(root, "1.jpg", "2.jpg")
        with pytest.raises(SourceError, match=message):
            open_imagefolder(root, self.csv(root, text))

    def test_a_repeated_line_is_harmless(self, root: Path) -> None:
        fill(root, "1.jpg", "2.jpg")
        assert labels(open_imagefolder(root, self.csv(root, "1.jpg,a\n1.jpg,a\n2.jpg,b\n"))) == [0, 1]

    def test_a_missing_file_is_refused(self, root: Path) -> None:
        fill(root, "1.jpg")
        with pytest.raises(SourceError, match=r"labels file cannot be read: .*No such file"):
            open_imagefolder(root, root / "nothing.csv")

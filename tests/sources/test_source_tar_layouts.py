"""Tar files laid out as folders of images are, and several tar files as splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.image_sources import contents, labels
from helpers.tar_files import shard, write_tar

from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.shard_files import expand_braces
from tokenstore.sources.tar import open_tar


class TestImageFoldersAsTar:
    def test_parent_folders_are_classes_where_no_sample_has_a_label(self, tmp_path: Path) -> None:
        members = {"set/b/1.JPEG": b"b1", "set/a/1.JPEG": b"a1", "set/b/2.JPEG": b"b2"}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert source.class_names == ("a", "b")
        assert labels(source) == [1, 0, 1]

    def test_folders_named_by_numbers_are_still_classes_in_order_of_names(self, tmp_path: Path) -> None:
        source = open_tar(write_tar(tmp_path / "x.tar", {"9/1.jpg": b"", "10/1.jpg": b""}))
        assert (source.class_names, labels(source)) == (("10", "9"), [1, 0])

    def test_split_folders_inside_are_splits(self, tmp_path: Path) -> None:
        members = {"./set/train/a/1.jpg": b"ta", "./set/val/b/x/1.jpg": b"vb", "./set/train/b/1.jpg": b"tb"}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert list(source.splits) == ["train", "val"]
        assert source.class_names == ("a", "b")
        assert (labels(source), contents(source)) == ([0, 1], [b"ta", b"tb"])
        assert (labels(source, "val"), contents(source, "val")) == ([1], [b"vb"])

    def test_split_folders_inside_are_splits_of_labelled_samples_too(self, tmp_path: Path) -> None:
        members = {"train/1.jpg": b"t", "train/1.cls": 4, "val/1.jpg": b"v", "val/1.cls": 5}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert (labels(source), labels(source, "val")) == ([4], [5])

    def test_a_tar_file_named_after_its_split_may_hold_the_split_folder(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train.tar", {"train/a/1.jpg": b"", "train/b/1.jpg": b""})
        write_tar(tmp_path / "val.tar", {"val/b/1.jpg": b""})
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val"), source.class_names) == ([0, 1], [1], ("a", "b"))
        write_tar(tmp_path / "val.tar", {"train/b/1.jpg": b""})
        with pytest.raises(SourceError, match="split val by its name, but holds a folder for train"):
            open_tar(tmp_path)

    def test_images_without_folders_have_no_labels(self, tmp_path: Path) -> None:
        source = open_tar(write_tar(tmp_path / "x.tar", {"1.jpg": b"", "2.jpg": b""}))
        assert (labels(source), source.class_names) == (None, None)

    def test_images_beside_class_folders_are_refused(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", {"a/1.jpg": b"", "b/1.jpg": b"", "stray.jpg": b""})
        with pytest.raises(SourceError, match=r"image 'stray.jpg' lies beside class folders"):
            open_tar(path)


class TestSplitsAndPatterns:
    def test_names_of_files_tell_the_split(self, tmp_path: Path) -> None:
        for name in ("train-0.tar", "train-1.tar", "validation_0.tar", "imagenet-test-0.tar"):
            shard(tmp_path / name)
        source = open_tar(tmp_path)
        assert {name: len(split) for name, split in source.splits.items()} == {
            "train": 4,
            "val": 2,
            "test": 2,
        }

    def test_folders_tell_the_split(self, tmp_path: Path) -> None:
        shard(tmp_path / "train/0.tar")
        shard(tmp_path / "val/0.tar", 5)
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val")) == ([0, 1], [5, 6])

    def test_string_labels_share_their_classes_between_splits(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train.tar", {"1.jpg": b"", "1.cls": "b"})
        write_tar(tmp_path / "val.tar", {"1.jpg": b"", "1.cls": "a"})
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val"), source.class_names) == ([1], [0], ("a", "b"))

    def test_files_of_which_only_some_name_a_split_are_refused(self, tmp_path: Path) -> None:
        shard(tmp_path / "train-0.tar")
        shard(tmp_path / "more.tar")
        with pytest.raises(SourceError, match=r"'train-0.tar' names its split but 'more.tar' does not"):
            open_tar(tmp_path)

    def test_files_beside_split_folders_are_refused(self, tmp_path: Path) -> None:
        shard(tmp_path / "train/0.tar")
        shard(tmp_path / "0.tar")
        with pytest.raises(SourceError, match=r"'0.tar' lies beside split folder 'train'"):
            open_tar(tmp_path)

    def test_braces_and_wildcards_name_files_in_order(self, tmp_path: Path) -> None:
        for number in range(11):
            shard(tmp_path / f"{number:03}.tar", number, 1)
        assert labels(open_tar(f"{tmp_path}/{{001..003}}.tar")) == [1, 2, 3]
        assert labels(open_tar(f"{tmp_path}/{{004,002}}.tar")) == [4, 2]
        assert labels(open_tar(f"{tmp_path}/01*.tar")) == [10]
        assert labels(open_source(f"{tmp_path}/{{009..010}}.tar")) == [9, 10]

    def test_a_missing_file_of_a_pattern_is_named(self, tmp_path: Path) -> None:
        shard(tmp_path / "0.tar")
        with pytest.raises(SourceError, match=r"2 files not found \(first: .*1.tar\)"):
            open_tar(f"{tmp_path}/{{0..2}}.tar")

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("a.tar", ["a.tar"]),
            ("{8..11}", ["8", "9", "10", "11"]),
            ("{08..11}", ["08", "09", "10", "11"]),
            ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
            ("{,x}y", ["y", "xy"]),
        ],
    )
    def test_braces_expand_as_in_a_shell(self, pattern: str, names: list[str]) -> None:
        assert expand_braces(pattern) == names

    @pytest.mark.parametrize("pattern", ["{a}", "{}", "{3..1}", "{a..c}"])
    def test_braces_without_range_or_list_are_refused(self, pattern: str) -> None:
        with pytest.raises(SourceError, match="expected braces like"):
            expand_braces(pattern)

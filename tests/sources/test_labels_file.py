"""A file of labels beside a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.image_folders import fill
from helpers.image_sources import labels, listed

from tokenstore.errors import SourceError
from tokenstore.sources.imagefolder import open_imagefolder


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

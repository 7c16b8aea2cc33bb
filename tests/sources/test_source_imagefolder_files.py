"""Folders of images with odd names, links, pipes, and files that cannot be read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from helpers.image_folders import fill, jpeg
from helpers.image_sources import listed

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources import file_bytes
from tokenstore.sources.imagefolder import open_imagefolder


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

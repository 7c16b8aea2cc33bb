"""The kinds of sources by their paths, the rules for splits, and streams that only go forwards."""

from __future__ import annotations

import gzip
import io
import pickle
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenstore.errors import SourceError
from tokenstore.sources import KINDS, ImageSource, open_source
from tokenstore.sources.files import LocalFile
from tokenstore.sources.forward_stream import ForwardStream
from tokenstore.sources.split_names import group_files, group_folders, split_of_file, split_of_folder


def put_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2)).save(path)


def put_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))


def put_parquet(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"x"]}), path)


def test_each_kind_is_found_out_from_what_is_there(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a/1.png")
    (tmp_path / "shards").mkdir()
    put_tar(tmp_path / "shards/0.tar")
    put_parquet(tmp_path / "hub/data/train-00000-of-00001.parquet")
    (tmp_path / "codes").mkdir()
    np.save(tmp_path / "codes/train.npy", np.zeros((2, 3), "u1"))
    found = {
        name: open_source(tmp_path / name).kind
        for name in ("images", "shards", "shards/0.tar", "hub", "codes", "codes/train.npy")
    }
    assert list(found.values()) == ["imagefolder", "tar", "tar", "parquet", "array", "array"]
    assert {*found.values(), "seit"} < set(KINDS)  # tests/sources/layouts has the other kinds
    assert open_source(str(tmp_path / "shards/*.tar")).kind == "tar"


def test_a_given_kind_goes_before_what_is_found(tmp_path: Path) -> None:
    put_image(tmp_path / "1.png")
    put_tar(tmp_path / "0.tar")
    with pytest.raises(SourceError, match=r"could be of kind imagefolder or tar; say which"):
        open_source(tmp_path)
    assert open_source(tmp_path, "tar").kind == "tar"
    assert open_source(tmp_path, "imagefolder").kind == "imagefolder"


def test_a_labels_file_means_a_folder_of_images(tmp_path: Path) -> None:
    put_image(tmp_path / "images/1.png")
    (tmp_path / "labels.csv").write_text("1.png,cat\n")
    source = open_source(tmp_path / "images", labels=tmp_path / "labels.csv")
    assert isinstance(source, ImageSource)
    assert source.class_names == ("cat",)
    with pytest.raises(SourceError, match=r"goes with a folder of images, not with kind tar"):
        open_source(tmp_path / "images", "tar", labels=tmp_path / "labels.csv")
    np.save(tmp_path / "codes.npy", np.zeros((4, 2, 2), np.uint16))
    with pytest.raises(SourceError, match=r"goes with a folder of images, not with kind array"):
        open_source(tmp_path / "codes.npy", labels=tmp_path / "labels.csv")


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_path_that_is_not_there_is_refused(tmp_path: Path, kind: str | None) -> None:
    for name in ("nothing", "nothing.tar", "nothing.npy"):
        with pytest.raises(SourceError, match=r"nothing.*: no such file or folder"):
            open_source(tmp_path / name, kind)


def test_an_unknown_kind_is_refused_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"expected one of imagefolder, tar, parquet, seit, array, .*got 'zip'"
    ):
        open_source(tmp_path, "zip")


def test_a_folder_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path)
    for word in ("images", ".tar", ".parquet", "SeiT", "train.npy"):
        assert word in str(caught.value)


def test_a_file_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(b"PK")
    with pytest.raises(
        SourceError, match=r"expected a folder, or a file ending in .tar, .parquet, .npy, .npz"
    ):
        open_source(tmp_path / "x.dat")


@pytest.mark.parametrize("kind", ["imagefolder", "seit"])
def test_a_file_where_a_folder_is_needed_is_refused(tmp_path: Path, kind: str) -> None:
    put_tar(tmp_path / "x.tar")
    with pytest.raises(SourceError):
        open_source(tmp_path / "x.tar", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_refused_by_every_kind(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SourceError):
        open_source(tmp_path, kind)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("TEST", "test"),
        ("trainer", None),
        ("train2", None),
        ("images", None),
    ],
)
def test_folders_are_splits_by_their_whole_name(name: str, split: str | None) -> None:
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("train.npz", "train"),
        ("train00.tar", "train"),
        ("imagenet1k-validation-07.tar", "val"),
        ("cats_val_3.tar", "val"),
        ("my.Test.npy", "test"),
        ("trainer-0.tar", None),
        ("restrain.tar", None),
        ("00000.tar", None),
    ],
)
def test_files_are_of_the_split_that_a_word_of_their_name_tells(name: str, split: str | None) -> None:
    assert split_of_file(name) == split


def test_groups_of_names_are_splits_or_none_or_refused() -> None:
    assert group_folders(["val", "train"], "x") == {"val": "val", "train": "train"}
    assert group_folders(["cat", "dog"], "x") is None
    assert group_folders([], "x") is None
    assert group_files(["a", "b"], "x") == {"train": ["a", "b"]}
    assert group_files(["a"], "x", "test") == {"test": ["a"]}
    assert group_files([], "x") == {}
    with pytest.raises(SourceError):
        group_files(["train-0", "1"], "x")


class TestForwardStream:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(range(200))))
        return tmp_path / "x.gz"

    def test_ranges_come_in_any_order(self, path: Path) -> None:
        stream = ForwardStream(partial(gzip.open, path), "x", LocalFile.of(path))
        for start, count in [(0, 10), (10, 5), (100, 100), (3, 2), (199, 1), (0, 0)]:
            assert stream.read(start, count) == bytes(range(start, start + count))
        stream.check_nothing_after(200)
        with pytest.raises(SourceError, match=r"x: expected 150 bytes, found more"):
            stream.check_nothing_after(150)

    def test_the_end_is_not_passed(self, path: Path) -> None:
        stream = ForwardStream(partial(gzip.open, path), "x", LocalFile.of(path))
        with pytest.raises(SourceError, match=r"x: truncated: 10 bytes expected at 195, found 5"):
            stream.read(195, 10)
        assert stream.read(195, 5) == bytes(range(195, 200))

    def test_it_opens_again_in_another_process(self, path: Path) -> None:
        stream = ForwardStream(partial(gzip.open, path), "x", LocalFile.of(path))
        stream.read(50, 3)
        assert pickle.loads(pickle.dumps(stream)).read(10, 2) == bytes([10, 11])

    def test_a_missing_file_is_a_source_error(self, tmp_path: Path) -> None:
        missing = tmp_path / "none.gz"
        with pytest.raises(SourceError, match=r"x: damaged or truncated near byte 0: .*No such file"):
            ForwardStream(partial(gzip.open, missing), "x", LocalFile.of(missing)).read(0, 1)

    def test_it_starts_afresh_after_an_error(self, tmp_path: Path) -> None:
        files = [io.BytesIO(b"good"), None]

        def open_stream() -> io.BytesIO:
            file = files.pop()
            if file is None:
                raise OSError("once")
            return file

        stream = ForwardStream(open_stream, "x", LocalFile.of(tmp_path))
        with pytest.raises(SourceError, match=r"once"):
            stream.read(0, 4)
        assert stream.read(0, 4) == b"good"


def test_sources_need_neither_torch_nor_zarr() -> None:
    code = "import sys, tokenstore.sources; print({'torch', 'zarr', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Sources at a URL: what a local source of the same files gives, by range, and whose fault a failure is."""

from __future__ import annotations

import pickle
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_sources import contents, labels, listed
from helpers.tar_files import shard, write_tar

from tokenstore.errors import ArgumentError, SampleError, SourceChangedError, SourceError, StorageError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource, MaskedSplit
from tokenstore.sources.remote_files import RemoteFile, RemotePlace
from tokenstore.storage.remote.folder import RemoteFolder

Put = Callable[[Path], str]
"""A function that copies a folder to remote storage and returns the URL."""


@pytest.fixture
def put() -> Put:
    """Copy folders to a place of their own in the memory of this process."""

    def copied(folder: Path) -> str:
        url = f"memory://{uuid.uuid4().hex}"
        fs = fsspec.filesystem("memory")
        for path in folder.rglob("*"):
            if path.is_file():
                fs.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return url

    return copied


def opened(where: str | Path, **options: Any) -> ImageSource:
    """Open a source of images."""
    source = open_source(where, **options)
    assert isinstance(source, ImageSource)
    return source


def assert_same(remote: ImageSource, local: ImageSource) -> None:
    """Compare all that a conversion takes from a source, but its location."""
    assert remote.kind == local.kind
    assert remote.notes == local.notes
    assert remote.class_names == local.class_names
    assert listed(remote) == listed(local)
    for name, split in local.splits.items():
        assert remote.splits[name].fingerprint() == split.fingerprint()
        assert labels(remote, name) == labels(local, name)
        assert contents(remote, name) == contents(local, name)


def shards(folder: Path, count: int = 3) -> Path:
    """Write tar shards."""
    for number in range(count):
        shard(folder / "shards" / f"{number:03}.tar", 10 * number, 4)
    return folder


def tables(folder: Path) -> Path:
    """Write Parquet files of several row groups."""
    for number in range(2):
        rows = range(10 * number, 10 * number + 7)
        columns = {"image": [b"image %d" % row for row in rows], "label": list(rows)}
        (folder / "tables").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / "tables" / f"{number}.parquet", row_group_size=3)
    return folder


@pytest.mark.parametrize("made", [shards, tables])
def test_a_folder_at_a_url_is_what_the_local_folder_is(
    tmp_path: Path, put: Put, made: Callable[[Path], Path]
) -> None:
    url, below = put(made(tmp_path)), made.__name__
    assert_same(opened(f"{url}/{below}"), opened(tmp_path / below))


@pytest.mark.parametrize("pattern", ["shards/{000..002}.tar", "shards/*.tar", "*/00[02].tar", "**/*.tar"])
def test_a_pattern_at_a_url_stands_for_the_files_it_stands_for_locally(
    tmp_path: Path, put: Put, pattern: str
) -> None:
    url = put(shards(tmp_path))
    assert_same(opened(f"{url}/{pattern}"), opened(f"{tmp_path}/{pattern}"))


def test_files_of_one_name_in_several_folders_are_all_read(tmp_path: Path, put: Put) -> None:
    for number, name in enumerate(("a", "b")):
        shard(tmp_path / name / "0.tar", first=10 * number)
    pattern = "{a,b,a}/0.tar"
    local = opened(f"{tmp_path}/{pattern}")
    assert labels(local) == [0, 1, 10, 11]
    assert_same(opened(f"{put(tmp_path)}/{pattern}"), local)


def test_folders_named_after_splits_are_splits_at_a_url_too(tmp_path: Path, put: Put) -> None:
    for split in ("train", "validation"):
        shard(tmp_path / split / "x.tar")
    remote = opened(put(tmp_path))
    assert_same(remote, opened(tmp_path))
    assert list(remote.splits) == ["train", "val"]


def test_parquet_cells_may_name_files_beside_the_file_at_a_url_and_none_elsewhere(
    tmp_path: Path, put: Put
) -> None:
    paths = ["a/1.jpg", "no.jpg", "../2.jpg", "/etc/passwd", "s3://bucket/x.jpg", "\0"]
    (tmp_path / "x" / "a").mkdir(parents=True)
    (tmp_path / "x" / "a" / "1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").write_bytes(b"two")
    pq.write_table(pa.table({"image": paths}), tmp_path / "x" / "x.parquet")
    url = put(tmp_path)
    first, missing, *others = contents(opened(f"{url}/x/x.parquet"))
    assert first == b"one"
    assert str(missing) == "cannot be read: No such file or directory"
    assert all(isinstance(each, SampleError) for each in others)
    assert "leads out of the folder" in str(others[0])
    allowed = contents(opened(f"{url}/x/x.parquet", allow_outside_paths=True))
    assert allowed[2] == b"two"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("shards/{000..009}.tar", r"7 files not found \(first: memory://.*/003.tar\)"),
        ("shards/x*.tar", "1 files not found"),
        ("none", "no such file or folder"),
        ("shards/none.tar", "no such file or folder"),
        ("codes.npy", "kind array is read from a local disk only"),
        ("x.tar.gz", "compressed tar"),
    ],
)
def test_a_url_without_a_source_is_refused(tmp_path: Path, put: Put, place: str, message: str) -> None:
    url = put(shards(tmp_path))
    with pytest.raises(SourceError, match=message):
        open_source(f"{url}/{place}")


@pytest.mark.parametrize(
    "url", ["simplecache::s3://bucket/x.tar", "zip://a::memory://x.zip", "pipe:cat x.tar"]
)
def test_a_chained_url_and_a_command_are_no_sources(url: str) -> None:
    with pytest.raises(SourceError, match=r"chained|no such file"):
        open_source(url)


def test_files_of_a_web_server_are_read_by_their_names(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    for number in range(2):
        shard(tmp_path / "a b" / f"{number}.tar", 10 * number)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a%20b"
        source = opened(f"{url}/{{0..1}}.tar?key=word")
        assert "word" not in source.location
        assert_same(source, opened(tmp_path / "a b"))
        for place, message in (("2.tar", "no such file"), ("{0..2}.tar?key=word", r"1 files not found")):
            with pytest.raises(SourceError, match=message) as caught:
                open_source(f"{url}/{place}")
            assert "word" not in str(caught.value)
        with pytest.raises(StorageError, match="cannot list its files"):
            open_source(url)
        server.shutdown()


def test_source_storage_options_of_a_local_path_are_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    with pytest.raises(ArgumentError, match="source_storage_options"):
        open_source(tmp_path / "shards", source_storage_options={"anon": True})


def test_no_text_of_a_remote_source_holds_a_secret(tmp_path: Path, put: Put) -> None:
    place = RemotePlace.at("https://user:pass@host?sig=word", {"client_kwargs": {"token": "word"}})
    file = RemoteFile(place, "a.tar", 3, "")
    request = opened(f"{put(shards(tmp_path))}/shards").splits["train"].request(0, 1)
    assert "word" not in f"{place} {place!r} {file} {file!r} {file.key}"
    assert "pass" not in f"{place} {place!r} {file} {file!r} {file.key}"
    assert pickle.loads(pickle.dumps(file)).place is place
    assert pickle.loads(pickle.dumps(request)).read() == [b"image 0"]


@pytest.mark.parametrize("made", [shards, tables])
def test_storage_that_does_not_answer_is_no_fault_of_a_sample(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, made: Callable[[Path], Path]
) -> None:
    request = opened(f"{put(made(tmp_path))}/{made.__name__}").splits["train"].request(0, 5)

    def fails(*_: object, **__: object) -> bytes:
        raise StorageError("nothing within 30 s")

    for name in ("read_range", "read_ranges", "read_files"):
        monkeypatch.setattr(RemoteFolder, name, fails)
    with pytest.raises(StorageError, match="nothing within"):
        request.read()


@pytest.mark.parametrize("made", [shards, tables])
def test_a_file_that_shrank_at_a_url_is_an_error_and_one_that_went_gives_bad_samples(
    tmp_path: Path, put: Put, made: Callable[[Path], Path]
) -> None:
    url = f"{put(made(tmp_path))}/{made.__name__}"
    fs = fsspec.filesystem("memory")
    first = sorted(fs.find(url))[0]
    request = opened(url).splits["train"].request(0, 9)
    fs.pipe_file(first, fs.cat_file(first)[:600])
    with pytest.raises(SourceChangedError, match="was replaced after it was listed"):
        request.read()
    fs.rm(first)
    bad = [isinstance(image, SampleError) for image in request.read()]
    assert any(bad)
    assert not all(bad)


def test_a_tar_file_cut_off_at_a_url_is_refused_with_its_name(tmp_path: Path, put: Put) -> None:
    whole = shard(tmp_path / "x.tar", count=3).read_bytes()
    for length in range(1, 3000, 397):
        (tmp_path / "x.tar").write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"x\.tar: (truncated|not a tar)"):
            open_source(f"{put(tmp_path)}/x.tar")


def test_a_size_that_is_no_images_is_refused_before_anything_is_fetched(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "x.tar", {"1.jpg": b"#" * 5000, "2.jpg": b"small"})
    request = opened(f"{put(tmp_path)}/x.tar").splits["train"].request(0, 2)
    monkeypatch.setattr("tokenstore.sources.tar.MAX_FILE_BYTES", 1000)
    assert [str(image) for image in request.read()] == [
        "5000 bytes are more than the 1000 allowed",
        "b'small'",
    ]


def test_neighbouring_samples_are_fetched_together(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(f"{put(shards(tmp_path))}/shards")
    asked: list[Mapping[str, Any]] = []
    whole = RemoteFolder.read_ranges

    def counted(self: RemoteFolder, requests: Any, *args: Any, **options: Any) -> list[bytes]:
        asked.extend(requests)
        return whole(self, requests, *args, **options)

    monkeypatch.setattr(RemoteFolder, "read_ranges", counted)
    assert len(source.splits["train"].request(1, 11).read()) == 10
    assert len(asked) == 3


def pictures(folder: Path) -> Path:
    """Write a folder of images in class folders, with splits, hidden files and a table."""
    for name in ("train/a/x/2.jpg", "train/a/1.PNG", "train/b/é.jpg", "val/b/3.jpg", "train/b/.hidden.jpg"):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "pictures" / "train" / "b" / "classes.txt").write_text("a b")
    return folder


def test_a_folder_of_images_at_a_url_is_what_the_local_folder_is(tmp_path: Path, put: Put) -> None:
    url = put(pictures(tmp_path))
    assert_same(opened(f"{url}/pictures"), opened(tmp_path / "pictures"))
    assert_same(opened(f"{url}/pictures/train"), opened(tmp_path / "pictures" / "train"))


def test_an_image_that_went_at_a_url_is_a_bad_sample(tmp_path: Path, put: Put) -> None:
    url = put(pictures(tmp_path))
    request = pickle.loads(pickle.dumps(opened(f"{url}/pictures").splits["train"].request(0, 3)))
    fsspec.filesystem("memory").rm(f"{url}/pictures/train/a/1.PNG")
    (tmp_path / "pictures/train/a/1.PNG").unlink()
    first, *others = request.read()
    assert str(first) == "cannot be read: No such file or directory"
    assert others == [b"train/a/x/2.jpg", "train/b/é.jpg".encode()]


def test_labels_and_label_maps_may_be_at_urls_too(tmp_path: Path, put: Put) -> None:
    for name in ("a/1.jpg", "a/2.jpg"):
        for path in (tmp_path / "images" / name, tmp_path / "maps" / name.replace("jpg", "png")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(str(path.relative_to(tmp_path)).encode())
    (tmp_path / "labels.csv").write_text("a/1.jpg,dog\na/2.jpg,cat\n")
    url = put(tmp_path)
    options = {"labels": "labels.csv", "masks": "maps"}
    remote = opened(f"{url}/images", **{name: f"{url}/{value}" for name, value in options.items()})
    local = opened(tmp_path / "images", **{name: tmp_path / value for name, value in options.items()})
    assert_same(remote, local)
    assert labels(remote) == [1, 0]
    splits = remote.splits["train"], local.splits["train"]
    maps = [split.masks(0, 2) for split in splits if isinstance(split, MaskedSplit)]
    assert maps[0].read() == maps[1].read() == [b"maps/a/1.png", b"maps/a/2.png"]
    assert maps[0].where(1) == f"{url}/maps/a/2.png"
    assert maps[1].where(1) == str(tmp_path / "maps/a/2.png")
    fsspec.filesystem("memory").rm(f"{url}/maps/a/2.png")
    assert str(maps[0].read()[1]).startswith("is missing")


@pytest.mark.parametrize("made", [shards, tables, pictures])
def test_a_source_of_a_relative_path_stays_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[Path], Path]
) -> None:
    made(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = opened(made.__name__)
    before = contents(source)
    monkeypatch.chdir("/")
    assert contents(source) == before
    assert not any(isinstance(image, SampleError) for image in before)
    assert source.location == made.__name__


def test_a_walk_lists_each_folder_at_a_url_once_and_many_at_a_time(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        path = tmp_path / "images" / "train" / f"{number:02}" / "x.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    url = put(tmp_path)
    listings: list[str] = []
    whole = RemoteFolder.entry_pages

    def counted(self: RemoteFolder, path: str = "") -> Any:
        listings.append(path)
        return whole(self, path)

    monkeypatch.setattr(RemoteFolder, "entry_pages", counted)
    split = opened(f"{url}/images", kind="imagefolder").splits["train"]
    assert split.names(0, 40).to_pylist() == [f"train/{number:02}/x.jpg" for number in range(40)]
    assert sorted(listings) == sorted({*listings})
    assert len(listings) == 42


@pytest.mark.parametrize("name", ["x.zip", "x.ZIP", "x.7z", "x.tgz", "x.tar.zst"])
def test_archives_that_have_to_be_unpacked_are_named_locally_and_at_a_url(
    tmp_path: Path, put: Put, name: str
) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / name).write_bytes(b"packed")
    for folder in (str(tmp_path / "packed"), f"{put(tmp_path)}/packed"):
        with pytest.raises(
            SourceError, match=rf"Archives that have to be unpacked first: 1 \(first: {name}\)"
        ):
            open_source(folder)
        with pytest.raises(SourceError, match=rf"{name}: .*(unpack it|decompress it first)"):
            open_source(f"{folder}/{name}")


def test_compressed_tar_files_beside_others_are_said_to_be_left_out(tmp_path: Path, put: Put) -> None:
    shards(tmp_path)
    (tmp_path / "shards" / "x.tar.gz").write_bytes(b"packed")
    local, remote = opened(tmp_path / "shards"), opened(f"{put(tmp_path)}/shards")
    assert_same(remote, local)
    expected = "compressed tar files left out, to be decompressed first: 1 (first: x.tar.gz)"
    assert expected in local.notes

"""Conversions of sources on object storage: the store of a local source, and a resume that lists nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.brightness import BrightnessTokenizer
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule, together
from helpers.object_storage import S3Server
from helpers.paths import TESTS
from helpers.tar_files import write_tar
from PIL import Image

import tokenstore
from tokenstore.conversion.encoding import RangeEncoder
from tokenstore.conversion.image_size import choose_size
from tokenstore.conversion.images import LoadedTokenizer, plan_images
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ConversionError, SourceError, StorageError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.listings import SavedListings
from tokenstore.storage.local import LocalFolder
from tokenstore.writing.target import LISTINGS

OPTIONS: dict[str, Any] = {
    "workers": 0,
    "chunk_samples": 8,
    "shard_samples": 16,
    "batch_size": 3,
    "on_error": "skip",
    "image_size": 16,
}
TARS = 3
IMAGES = 20
"""The images of one tar file."""


def picture(level: int) -> bytes:
    """Return a grey image as a PNG file; the ninth of each ten is broken."""
    data = io.BytesIO()
    Image.new("RGB", (20, 20), (level, level, level)).save(data, "PNG")
    return b"broken" if level % 10 == 8 else data.getvalue()


def write_sources(folder: Path) -> Path:
    """Write tar shards, Parquet files and a folder of images, all of the same images."""
    for number in range(TARS):
        levels = range(IMAGES * number, IMAGES * (number + 1))
        members = [(f"{level:03}.png", picture(level)) for level in levels]
        members += [(f"{level:03}.cls", b"%d" % (level % 5)) for level in levels]
        write_tar(folder / "tar" / f"{number}.tar", sorted(members))
        columns = {"image": list(map(picture, levels)), "label": [level % 5 for level in levels]}
        (folder / "parquet").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / "parquet" / f"{number}.parquet", row_group_size=4)
        for level in levels:
            path = folder / "images" / f"class-{level % 5}" / f"{level:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(level))
    return folder


def on_s3(folder: Path, server: S3Server) -> str:
    """Copy the files of a folder to a bucket of their own, and return its URL."""
    url = f"s3://{server.new_bucket()}"
    fs = fsspec.filesystem("s3", **server.storage_options())
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return url


def converted(source: str | Path, target: Path, **options: Any) -> Path:
    """Convert images of grey levels."""
    tokenizer = options.pop("tokenizer", None) or BrightnessTokenizer()
    tokenstore.convert(source, target, tokenizer=tokenizer, **OPTIONS, **options)
    return target


def files_of(store: Path) -> dict[str, bytes]:
    """Return the files of a store, the root without the place of the source."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    root = json.loads(files["zarr.json"])
    for name in ("source_location", "digest"):
        del root["attributes"]["tokenstore"][name]
    return {**files, "zarr.json": json.dumps(root).encode()}


class StoppedError(Exception):
    """The exception that stops a conversion."""


class StoppingTokenizer(BrightnessTokenizer):
    """A tokenizer that stops after some shards; the listings have to be saved by then."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target = target

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        assert list((self.target / LISTINGS).glob("*.parquet"))
        if len(self.batches) == 12:
            raise StoppedError
        return super().encode(inputs)


@pytest.mark.parametrize("kind", ["tar", "images", pytest.param("parquet", marks=pytest.mark.thorough)])
def test_a_store_is_the_same_whether_its_source_is_local_or_on_s3(
    tmp_path: Path, s3_server: S3Server, kind: str
) -> None:
    sources = write_sources(tmp_path / "sources")
    url, options = on_s3(sources, s3_server), s3_server.storage_options()
    remote = converted(f"{url}/{kind}", tmp_path / "remote.zarr", source_storage_options=options)
    local = converted(sources / kind, tmp_path / "local.zarr")
    assert files_of(remote) == files_of(local)
    assert len(tokenstore.open(remote)["train"]) == TARS * (IMAGES - 2)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["tar", "images"])
def test_a_store_is_the_same_with_decode_processes_and_without(
    tmp_path: Path, s3_server: S3Server, kind: str
) -> None:
    sources = write_sources(tmp_path / "sources")
    url, options = on_s3(sources, s3_server), s3_server.storage_options()
    for workers in (0, 2):
        tokenstore.convert(
            f"{url}/{kind}",
            tmp_path / f"{workers}.zarr",
            tokenizer=BrightnessTokenizer(),
            source_storage_options=options,
            **{**OPTIONS, "workers": workers},
        )
    assert files_of(tmp_path / "0.zarr") == files_of(tmp_path / "2.zarr")


def test_a_resumed_conversion_lists_nothing_again(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    sources = write_sources(tmp_path / "sources")
    pattern, target = f"{on_s3(sources, s3_server)}/tar/{{0..2}}.tar", tmp_path / "remote.zarr"
    options = s3_server.storage_options(fault_proxy.url)
    with pytest.raises(StoppedError):
        converted(pattern, target, source_storage_options=options, tokenizer=StoppingTokenizer(target))
    fault_proxy.clear()
    converted(pattern, target, source_storage_options=options, resume=True)
    gets = [request for request in fault_proxy.requests if request.method == "GET"]
    assert all(str(request.range).removeprefix("bytes=").split("-")[0] != "0" for request in gets)
    assert len(gets) <= 2 * TARS
    assert fault_proxy.count("HEAD") == TARS
    assert files_of(target) == files_of(converted(sources / "tar", tmp_path / "local.zarr"))
    assert not (target / LISTINGS).exists()


def test_a_tar_file_that_was_replaced_is_listed_again_and_refused(
    tmp_path: Path, s3_server: S3Server
) -> None:
    sources = write_sources(tmp_path / "sources")
    url, target = on_s3(sources, s3_server), tmp_path / "remote.zarr"
    options = s3_server.storage_options()
    with pytest.raises(StoppedError):
        converted(f"{url}/tar", target, source_storage_options=options, tokenizer=StoppingTokenizer(target))
    fsspec.filesystem("s3", **options).put_file(str(sources / "tar" / "0.tar"), f"{url}/tar/1.tar")
    with pytest.raises(ConversionError, match="cannot resume with other inputs: source"):
        converted(f"{url}/tar", target, source_storage_options=options, resume=True)


def test_storage_that_stops_answering_ends_a_conversion_that_can_be_resumed(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = write_sources(tmp_path / "sources")
    url, target = on_s3(sources, s3_server), tmp_path / "remote.zarr"
    options = s3_server.storage_options()

    def fails(*_: object, **__: object) -> list[bytes]:
        raise StorageError("no answer within 30 s")

    with monkeypatch.context() as patch:
        patch.setattr("tokenstore.storage.remote.folder.RemoteFolder.read_ranges", fails)
        with pytest.raises(StorageError, match="no answer"):
            converted(f"{url}/tar", target, source_storage_options=options)
    converted(f"{url}/tar", target, source_storage_options=options, resume=True)
    assert len(tokenstore.open(target)["train"]) == TARS * (IMAGES - 2)


@pytest.mark.thorough
def test_a_conversion_that_was_killed_lists_nothing_again(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    sources = write_sources(tmp_path / "sources")
    pattern, target = f"{on_s3(sources, s3_server)}/tar/{{0..2}}.tar", tmp_path / "remote.zarr"
    options = s3_server.storage_options(fault_proxy.url)
    program = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from conversion.test_remote_source import StoppedError, StoppingTokenizer, converted\n"
        "class Killing(StoppingTokenizer):\n"
        "    def encode(self, inputs):\n"
        "        try:\n"
        "            return super().encode(inputs)\n"
        "        except StoppedError:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "target = Path(sys.argv[2])\n"
        "options = json.loads(sys.argv[3])\n"
        "converted(sys.argv[1], target, source_storage_options=options, tokenizer=Killing(target))\n"
    )
    command = [sys.executable, "-c", program, pattern, str(target), json.dumps(options)]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    )
    assert ended.returncode == -signal.SIGKILL
    fault_proxy.clear()
    converted(pattern, target, source_storage_options=options, resume=True)
    assert fault_proxy.count("HEAD") == TARS
    assert fault_proxy.count("GET") <= 2 * TARS
    assert files_of(target) == files_of(converted(sources / "tar", tmp_path / "local.zarr"))


def test_row_groups_of_parquet_are_fetched_once_for_all_decode_processes(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 6)
    noise = np.random.default_rng(0).integers(0, 256, (90, 40, 40, 3), np.uint8)
    images = [io.BytesIO() for _ in noise]
    for pixels, file in zip(noise, images, strict=True):
        Image.fromarray(pixels).save(file, "PNG")
    (tmp_path / "tables").mkdir()
    table = pa.table({"image": [file.getvalue() for file in images]})
    pq.write_table(table, tmp_path / "tables" / "x.parquet", row_group_size=30)
    size = (tmp_path / "tables" / "x.parquet").stat().st_size
    url, options = f"{on_s3(tmp_path, s3_server)}/tables", s3_server.storage_options(fault_proxy.url)
    source = open_source(url, source_storage_options=options)
    fault_proxy.clear()
    chosen = {**OPTIONS, "workers": 2}
    tokenstore.convert(source, tmp_path / "x.zarr", tokenizer=BrightnessTokenizer(), **chosen)
    assert size < fault_proxy.sent < 1.5 * size
    assert len(tokenstore.open(tmp_path / "x.zarr")["train"]) == len(noise)


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_a_resumed_conversion_of_a_folder_or_of_parquet_lists_nothing_again(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, kind: str
) -> None:
    sources, target = write_sources(tmp_path / "sources"), tmp_path / "remote.zarr"
    url, options = f"{on_s3(sources, s3_server)}/{kind}", s3_server.storage_options(fault_proxy.url)
    with pytest.raises(StoppedError):
        converted(url, target, source_storage_options=options, tokenizer=StoppingTokenizer(target))
    fault_proxy.clear()
    requests = []

    def listed(source: Any) -> None:
        requests.extend(fault_proxy.requests)
        notes.extend(source.notes)

    notes: list[str] = []
    converted(url, target, source_storage_options=options, resume=True, on_source=listed)
    if kind == "images":
        assert not any("list-type=2" in request.path for request in requests)
        assert fault_proxy.count("HEAD") == 0
        assert any("images added since are left out" in note for note in notes)
    else:  # the files' versions
        assert ["list-type=2" in request.path for request in requests] == [True]
    assert files_of(target) == files_of(converted(sources / kind, tmp_path / "local.zarr"))


def test_a_folder_whose_saved_listing_is_refused_is_listed_again(tmp_path: Path, s3_server: S3Server) -> None:
    sources, target = write_sources(tmp_path / "sources"), tmp_path / "remote.zarr"
    url, options = f"{on_s3(sources, s3_server)}/images", s3_server.storage_options()
    fs = fsspec.filesystem("s3", **options)
    with pytest.raises(StoppedError):
        converted(url, target, source_storage_options=options, tokenizer=StoppingTokenizer(target))
    fs.pipe_file(f"{url}/beside.png", picture(1))
    converted(url, target, source_storage_options=options, resume=True)
    assert len(tokenstore.open(target)["train"]) == TARS * (IMAGES - 2)
    with pytest.raises(SourceError, match="lies beside class folder"):
        converted(url, tmp_path / "other.zarr", source_storage_options=options)
    assert not (tmp_path / "other.zarr" / LISTINGS).exists()


def test_a_conversion_that_is_begun_anew_saves_the_folder_as_it_is_now(
    tmp_path: Path, s3_server: S3Server
) -> None:
    sources, target = write_sources(tmp_path / "sources"), tmp_path / "remote.zarr"
    url, options = f"{on_s3(sources, s3_server)}/images", s3_server.storage_options()
    for name in ("a", "b", "c"):  # the conversions before ended when they had listed the folder
        saved = SavedListings(LocalFolder(str(target)), LISTINGS)
        open_source(url, source_storage_options=options, listings=saved)
        fsspec.filesystem("s3", **options).pipe_file(f"{url}/class-0/{name}.png", picture(1))
    with pytest.raises(StoppedError):
        converted(url, target, source_storage_options=options, tokenizer=StoppingTokenizer(target))
    converted(url, target, source_storage_options=options, resume=True)
    assert len(tokenstore.open(target)["train"]) == TARS * (IMAGES - 2) + 3


def test_a_flat_folder_is_listed_once_a_page_at_a_time(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(1100):
        (tmp_path / "flat" / f"{number}.jpg").touch()
    url, options = f"{on_s3(tmp_path, s3_server)}/flat", s3_server.storage_options(fault_proxy.url)
    source = open_source(url, source_storage_options=options)
    assert len(source.splits["train"]) == 1100
    assert fault_proxy.count(path="list-type=2") == fault_proxy.count() == 2


def test_the_images_that_say_the_size_are_read_many_at_a_time(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    url = f"{on_s3(write_sources(tmp_path / 'sources'), s3_server)}/images"
    source = open_source(url, source_storage_options=s3_server.storage_options(fault_proxy.url))
    assert isinstance(source, ImageSource)
    fault_proxy.clear([Rule(together(threading.Barrier(8)), "GET", count=32)])
    assert choose_size([source.splits["train"]], BrightnessTokenizer()).side == 16
    assert fault_proxy.count("GET") == 32
    assert fault_proxy.most_under_way >= 8


def test_ranges_of_whole_row_groups_fetch_each_row_group_once(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 96, 96, 3), np.uint8)
    images = [io.BytesIO() for _ in noise]
    for pixels, file in zip(noise, images, strict=True):
        Image.fromarray(pixels).save(file, "PNG")
    (tmp_path / "tables").mkdir()
    table = pa.table({"image": [file.getvalue() for file in images]})
    pq.write_table(table, tmp_path / "tables" / "x.parquet", row_group_size=60, data_page_size=2**14)
    size = (tmp_path / "tables" / "x.parquet").stat().st_size
    url, options = f"{on_s3(tmp_path, s3_server)}/tables", s3_server.storage_options(fault_proxy.url)
    source = open_source(url, source_storage_options=options)
    assert isinstance(source, ImageSource)
    chosen = ConvertOptions(batch_size=8, image_size=16, workers=0)
    plan = plan_images(source, ("train",), chosen, url, LoadedTokenizer(BrightnessTokenizer()))
    sent = []
    for whole_groups in (False, True):
        fault_proxy.clear()
        codes = []
        for samples in plan.ranges({"train": 0}, 2, whole_groups=whole_groups):
            with RangeEncoder(plan.encoder, 8, 0) as encoder:  # as if each were another machine
                codes.append(encoder.encode(plan.request(samples, encoder.task_samples)).codes)
        sent.append((fault_proxy.sent / size, np.concatenate(codes)))
    (_, some), (factor, others) = sent
    assert np.array_equal(some, others)
    assert factor < 1.6 < sent[0][0]

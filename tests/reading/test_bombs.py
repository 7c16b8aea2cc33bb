"""Stores that say they are larger than they are: refused before time or memory is spent on them."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.broken_stores import zstd_frame
from helpers.conformance import read_json, shard_of, write_full
from helpers.growth import start_tracing, stop_tracing
from helpers.stores import edit_root, replace_files

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs.zstd import Zstd
from tokenstore.errors import CodecError, DamageError, ManifestError, TokenstoreError
from tokenstore.format.layout import ArrayLayout
from tokenstore.storage import open_storage

SHARD, SAMPLES = "train/tokens/c/0/0/0", "train/samples.parquet"


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that takes 200 MB more than the process had at most before, or two seconds of its time."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert time.process_time() - started < 5


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load what reading a store loads once."""
    for codec in ("bitpack", "zstd"):
        verify(write_full(tmp_path_factory.mktemp("warm") / codec, codec=codec))


FRAMES = {
    "it says so": zstd_frame(2**31),
    "it says that it is small": zstd_frame(2**31, stated=48),
    "it does not say": zstd_frame(2**31, stated=None),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.usefixtures("warm", "bounded")
def test_no_more_than_a_chunk_is_inflated(tmp_path: Path, frame: bytes) -> None:
    """Inflate 2 GB in a chunk of two samples, 48 bytes."""
    assert len(frame) < 100_000
    store = write_full(tmp_path / "store", codec="zstd")
    replace_files(store, {SHARD: shard_of(*[frame] * 4, chunks_per_shard=4)})
    split = tokenstore.open(store)["train"]
    if frame is FRAMES["it does not say"]:
        assert not split.read("tokens", [0, 1]).any()  # only the first 48 bytes are asked for
    else:
        with pytest.raises(DamageError, match=r"shard 0 chunk 0.*(bytes|zstd)"):
            split.read("tokens", [0])
        assert len(verify(store).problems) == 4


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 65791, 65792, 2**20])
def test_a_frame_states_its_size_in_any_of_its_forms(nbytes: int) -> None:
    codec = Zstd()
    values = np.arange(nbytes, dtype=np.uint8)
    payload = np.frombuffer(codec.encode(values, nbytes, 0), np.uint8)
    assert codec.decoded_nbytes(payload) == nbytes
    out = np.empty_like(values)
    codec.decode(payload, out)
    np.testing.assert_array_equal(out, values)
    streamed = np.frombuffer(zstd_frame(nbytes, stated=None), np.uint8)
    assert codec.decoded_nbytes(streamed) is None
    codec.decode(streamed, out)
    assert not out.any()
    with pytest.raises(CodecError, match="expected at least"):
        codec.decode(streamed, np.empty(nbytes + 1, np.uint8))


def samples(source: Any, what: str) -> bytes:
    """Return a table of 21 samples from these sources."""
    null = pa.nulls(21)
    table = pa.table(
        {
            "source_index": pa.array(range(21)),
            "source": source,
            "label_name": null.cast(pa.string()),
            "width": null.cast(pa.int32()),
            "height": null.cast(pa.int32()),
            "source_bytes": null.cast(pa.int64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=what == "bytes of text")
    return buffer.getvalue()


TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "a page": (lambda: pa.array(["\0" * 2**23] * 9 + [""] * 12), "bytes of values"),
    "a text that repeats": (lambda: pa.array(["\0" * 2**22] * 21), "bytes of text"),
}


@pytest.mark.parametrize(("source", "what"), TABLES.values(), ids=TABLES)
def test_no_more_than_a_table_of_so_many_samples_is_inflated(
    tmp_path: Path, source: Callable[[], Any], what: str
) -> None:
    store = write_full(tmp_path / "store")
    data = samples(source(), what)
    assert len(data) < 100_000
    replace_files(store, {SAMPLES: data})
    with pytest.raises(DamageError, match=f"{SAMPLES}: not a table.*expected at most .* {what}"):
        tokenstore.open(store)["train"].samples_table()
    assert any(what in problem for problem in verify(store).problems)


@pytest.mark.parametrize("samples", [2**28, 2**40, 2**62, 2**63 - 1])
@pytest.mark.parametrize("grow", ["N", "shards", "shards and chunks"])
@pytest.mark.usefixtures("warm", "bounded")
def test_a_manifest_of_many_samples_in_few_files_is_refused(tmp_path: Path, samples: int, grow: str) -> None:
    """Say that 17 files have up to 2^63 samples, in as many shards, or in shards or chunks as large."""
    store = write_full(tmp_path / "store")
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["splits"]["train"].update(samples=samples))
    changed = {}
    for name in ("tokens", "labels", "masks"):
        path = f"train/{name}/zarr.json"
        array = read_json(store / path)
        array["shape"][0] = samples
        shard, chunk = array["chunk_grid"]["configuration"], array["codecs"][0]["configuration"]
        if grow != "N":
            shard["chunk_shape"][0] = samples // 8 * 8
        if grow == "shards and chunks":
            chunk["chunk_shape"][0] = samples // 8 * 8
        changed[path] = json.dumps(array).encode()
    replace_files(store, changed)
    with pytest.raises((ManifestError, DamageError), match=r"train/tokens: "):
        tokenstore.open(store)["train"]
    assert verify(store).problems


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the metadata of an array of 21 samples, changed."""
    array = ArrayLayout((21, 3, 4), np.dtype(np.uint16), 2, 8, Zstd()).to_zarr("tokens")
    edit(array)
    return array


LAYOUTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a float in the shape": lambda array: array.update(shape=[21.0, 3, 4]),
    "a truth in the shape": lambda array: array.update(shape=[21, True, 4]),
    "a text in the shape": lambda array: array.update(shape=["21", 3, 4]),
    "a negative axis": lambda array: array.update(shape=[21, -3, 4]),
    "an axis beyond 64 bits": lambda array: array.update(shape=[2**63, 3, 4]),
    "no axes": lambda array: array.update(shape=[]),
    "65 axes": lambda array: array.update(shape=[21] + [1] * 64),
    "a float level": lambda array: array["codecs"][0]["configuration"]["codecs"][1]["configuration"].update(
        level=1.0
    ),
    "a true level": lambda array: array["codecs"][0]["configuration"]["codecs"][1]["configuration"].update(
        level=True
    ),
    "a float fill value": lambda array: array.update(fill_value=65535.0),
    "a record of a gigabyte": lambda array: array.update(data_type="f8,(100000000,)f8"),
    "a text of a gigabyte": lambda array: array.update(data_type="S1000000000"),
    "an object": lambda array: array.update(data_type="object"),
    "a deep data type": lambda array: array.update(data_type="(" * 10_000),
    "a list of codecs that is one": lambda array: array.update(codecs=array["codecs"][0]),
    "no document": lambda array: array.clear(),
}


@pytest.mark.parametrize("edit", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.usefixtures("bounded")
def test_metadata_of_an_array_that_cannot_be_is_a_manifest_error(edit: Callable[[Any], object]) -> None:
    with pytest.raises(ManifestError, match="store/array"):
        ArrayLayout.from_zarr(edited(edit), "store/array")


@pytest.mark.usefixtures("bounded")
def test_samples_beyond_all_memory_are_a_manifest_error() -> None:
    huge = ArrayLayout((0, 2**40, 2**40), np.dtype(np.uint16), 2, 8, Zstd()).to_zarr("tokens")
    with pytest.raises(ManifestError, match="chunks of up to 2147483648 bytes"):
        ArrayLayout.from_zarr(huge, "store/array")
    assert issubclass(ManifestError, TokenstoreError)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_a_zip_file_is_inflated_no_further_than_its_size(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as packed:
        packed.writestr("zarr.json", bytes(40_000_000))
    data = (tmp_path / "x.zip").read_bytes()
    size = struct.pack("<I", 40_000_000)
    assert data.count(size) == 2
    (tmp_path / "x.zip").write_bytes(data.replace(size, struct.pack("<I", 100)))
    start_tracing()
    storage = open_storage(str(tmp_path / "x.zip"))
    for read in (lambda: storage.read("zarr.json", 1000), lambda: storage.read_range("zarr.json", 7, 9)):
        with contextlib.suppress(DamageError):
            assert set(read()) == {0}
    peak = tracemalloc.get_traced_memory()[1]
    stop_tracing()
    assert peak < 10_000_000  # of which the dictionary of LZMA takes 8

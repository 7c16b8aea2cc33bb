"""A file that takes another one's place while a source is open is never read as the one that was listed."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.brightness import BrightnessTokenizer
from helpers.tar_files import write_tar
from PIL import Image

import tokenstore
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import IncompleteStoreError, NotAStoreError, SourceChangedError
from tokenstore.sources import CodeSource, ImageSource, open_source
from tokenstore.sources.base import Source

COUNT = 40


def png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (16, 16), grey).save(stream, "png", compress_level=0)
    return stream.getvalue()


def put_tar(path: Path, first: int) -> Path:
    members: dict[str, bytes | int] = {}
    for row in range(COUNT):
        members |= {f"{row:03}.png": png(first + row), f"{row:03}.cls": row % 3}
    return write_tar(path / "x.tar", members)


def put_parquet(path: Path, first: int) -> Path:
    images = [{"bytes": png(first + row), "path": f"{row}.png"} for row in range(COUNT)]
    table = pa.table({"image": images, "label": [row % 3 for row in range(COUNT)]})
    pq.write_table(table, path / "x.parquet", row_group_size=9, compression="none")
    return path / "x.parquet"


def codes(first: int) -> npt.NDArray[np.uint16]:
    return np.arange(first, first + COUNT * 4, dtype=np.uint16).reshape(COUNT, 4)


def put_npy(path: Path, first: int) -> Path:
    np.save(path / "x.npy", codes(first))
    return path / "x.npy"


def put_npz(path: Path, first: int) -> Path:
    np.savez(path / "x.npz", tokens=codes(first))
    return path / "x.npz"


SOURCES = {"tar": put_tar, "parquet": put_parquet, "npy": put_npy, "npz": put_npz}


def contents(source: Source) -> list[Any]:
    """Return the bytes of all images of the only split, or its codes."""
    if isinstance(source, CodeSource):
        (of_split,) = (split.codes(0, COUNT).tolist() for split in source.splits.values())
        return of_split
    assert isinstance(source, ImageSource)
    (images,) = (split.request(0, COUNT).read() for split in source.splits.values())
    return list(images)


def replace(path: Path, put: Callable[[Path, int], Path]) -> None:
    """Put a file of other contents and the same size in another one's place."""
    (path.parent / "other").mkdir()
    other = put(path.parent / "other", 100)
    assert other.stat().st_size == path.stat().st_size
    os.utime(other, (1, 1))  # some kernels give two files that are written at once the same time
    other.replace(path)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("has_read", [False, True])
def test_a_replaced_file_is_an_error(tmp_path: Path, name: str, has_read: bool) -> None:
    place = SOURCES[name](tmp_path, 0)
    source = open_source(place)
    assert not has_read or contents(source)
    replace(place, SOURCES[name])
    assert contents(open_source(place))
    for each in (source, pickle.loads(pickle.dumps(source))):
        with pytest.raises(SourceChangedError, match=rf"x\.{name}.*: was replaced after it was listed"):
            contents(each)


@pytest.mark.parametrize("name", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_conversion_ends_without_a_store(tmp_path: Path, name: str, workers: int) -> None:
    """Replace the file when all is listed: no sample is skipped for it, and no label meets another image."""
    place = SOURCES[name](tmp_path, 0)
    source = open_source(place)
    replace(place, SOURCES[name])
    options = ConvertOptions(workers=workers, image_size=16)
    with pytest.raises(SourceChangedError, match="was replaced after it was listed"):
        convert_source(source, tmp_path / "x.zarr", tokenizer=BrightnessTokenizer(), options=options)
    with pytest.raises((NotAStoreError, IncompleteStoreError)):
        tokenstore.open(tmp_path / "x.zarr")

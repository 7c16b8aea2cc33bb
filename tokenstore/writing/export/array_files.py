"""Arrays in files: what the layouts that hold whole arrays have in common."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from tokenstore.codecs import TEXT, Column
from tokenstore.writing.export.base import Exported, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["codebook_file", "npy_array", "npy_bytes", "read_rows", "stored_dtype", "write_npy"]

_READ_NBYTES = 2**22
_HEADER_START = 10
"""The bytes before the header of a `.npy` file: the magic, the version, and the length."""


def stored_dtype(exported: Exported, split: str, name: str) -> np.dtype[Any]:
    """Return the little-endian dtype that an array of numpy holds a column in; texts are read for it."""
    contents = exported.splits[split]
    kind = contents.kind(name)
    if kind == TEXT:
        return np.dtype(f"<U{contents.text_characters(name)}")
    return kind.dtype.newbyteorder("<")


def write_npy(exported: Exported, unit: Unit, name: str, stream: Stream, file: IO[bytes]) -> None:
    """Write one column of a unit in the `.npy` format, batch by batch."""
    kind = exported.splits[unit.split].kind(name)
    dtype = stored_dtype(exported, unit.split, name)
    write_header(file, dtype, (unit.stop - unit.start, *kind.shape))
    for values in stream([name]):
        file.write(np.ascontiguousarray(values[name].astype(dtype)).tobytes())


def write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of the `.npy` format."""
    description = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, description)


def npy_bytes(values: npt.NDArray[Any]) -> bytes:
    """Return an array in the `.npy` format, little-endian and in C order."""
    return _header(values.dtype.newbyteorder("<").str, values.shape) + _little_endian(values).tobytes()


def npy_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array that bytes in the `.npy` format hold, read-only; raise ValueError for other bytes."""
    start = _HEADER_START + int.from_bytes(data[_HEADER_START - 2 : _HEADER_START], "little")
    dtype, shape = _parsed(data[:start])
    return np.frombuffer(data[start:], dtype).reshape(shape)


@functools.lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    write_header(file, np.dtype(dtype), shape)
    return file.getvalue()


@functools.lru_cache(maxsize=256)
def _parsed(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    file = io.BytesIO(header)
    if npy_format.read_magic(file) != (1, 0):
        raise ValueError("expected version 1 of the .npy format")
    shape, fortran_order, dtype = npy_format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject:
        raise ValueError(f"expected numbers in C order, found {dtype}")
    return dtype, shape


def _little_endian(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))


def read_rows(stored: npt.NDArray[Any], name: str, kind: Column) -> Iterator[Values]:
    """Yield the rows of a stored array, such as a memory map, as the values of a column."""
    step = max(1, _READ_NBYTES // max(1, stored[:1].nbytes))
    for start in range(0, len(stored), step):
        rows = np.asarray(stored[start : start + step])
        yield {name: rows.astype(object) if kind == TEXT else rows}


def codebook_file(exported: Exported) -> Mapping[str, bytes]:
    """Return the file of the codebook's vectors, where the store has them."""
    vectors = exported.store.codebook
    return {} if vectors is None else {"codebook.npy": npy_bytes(vectors)}


def column_path(split: str, name: str, ending: str) -> Path:
    """Return the path of a column's file: `train.npy` for the codes, `train-labels.npy` for the labels."""
    return Path(f"{split}{ending}" if name == "tokens" else f"{split}-{name}{ending}")

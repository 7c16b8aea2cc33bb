"""The values in the columns of MDS shards: what an encoding's name says, and the values of many samples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import SourceError

__all__ = ["Cells", "Encoding", "encoding_of"]

_ARRAY, _TEXT, _INT = "ndarray", "str", "int"
_DTYPES = {
    **{
        name: np.dtype(name)
        for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    },
    **{name: np.dtype(name) for name in ("float16", "float32", "float64")},
}
_CODES_OF_DTYPES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}
"""The byte that stands for the type of an array whose encoding does not name one."""
_SHAPE = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_MOST_NBYTES = 2**28
_MOST_AXES = 32


@dataclass(frozen=True)
class Cells:
    """The bytes of one column of some samples, inside the bytes of all their columns."""

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    where: str
    first: int
    """The number of the first sample, for messages."""

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self) -> npt.NDArray[np.uint8]:
        """Return the bytes (n, m) of cells of one length; raise SourceError for cells of several lengths."""
        length = int(self.lengths[0]) if len(self) else 0
        wrong = self.lengths != length
        if wrong.any():
            sample = int(wrong.argmax())
            raise SourceError(
                f"{self.where}: sample {self.first + sample}: expected {length} bytes as in sample "
                f"{self.first}, found {self.lengths[sample]}: values of several shapes, or damaged"
            )
        rows: npt.NDArray[np.uint8] = self.data[self.starts[:, None] + np.arange(length)]
        return rows


@dataclass(frozen=True)
class Encoding:
    """The encoding of a column, by its name in the index."""

    name: str
    dtype: np.dtype[Any] | None
    """The type of the numbers; None where each value has it, and for what is no number."""
    shape: tuple[int, ...] | None
    """The shape of an array, () for one number; None where each value has it, and for texts."""
    nbytes: int | None
    """The bytes of every value; None where they vary."""

    @property
    def is_array(self) -> bool:
        """True for arrays, which may be codes."""
        return self.name == _ARRAY

    @property
    def is_label(self) -> bool:
        """True for whole numbers and texts, which may be labels."""
        return self.name == _TEXT or (self.shape == () and self.dtype is not None and self.dtype.kind in "iu")

    def column(self, cells: Cells) -> Column:
        """Return what the column holds, by its first cell; raise SourceError for what is not read."""
        if self.name == _TEXT:
            return TEXT
        dtype, shape, _ = self._head(cells)
        if not all(shape):
            raise SourceError(f"{cells.where}: expected values, found an array of shape {shape}")
        return Column(dtype, shape)

    def values(self, cells: Cells, kind: Column) -> npt.NDArray[Any]:
        """Return the values (n, *shape) of cells; raise SourceError for cells of another kind."""
        if self.name == _TEXT:
            return _texts(cells)
        if not len(cells):
            return np.empty((0, *kind.shape), kind.dtype)
        dtype, shape, head = self._head(cells)
        rows = cells.rows()
        wrong = (rows[:, :head] != rows[0, :head]).any(axis=1)
        if (dtype, shape) != (kind.dtype, kind.shape) or wrong.any():
            sample = cells.first + int(wrong.argmax())
            raise SourceError(
                f"{cells.where}: sample {sample}: expected {kind}, found a value of another kind"
            )
        values = np.ascontiguousarray(rows[:, head:]).view(dtype.newbyteorder("<"))
        return values.reshape(len(cells), *shape).astype(dtype, copy=False)

    def _head(self, cells: Cells) -> tuple[np.dtype[Any], tuple[int, ...], int]:
        """Return the type and the shape of the first value, and the bytes before its numbers."""
        if self.dtype is None and self.shape is None and self.name != _ARRAY:
            raise SourceError(
                f"{cells.where}: expected texts, numbers or arrays, found the encoding {self.name!r}, "
                "which is not read"
            )
        begin = int(cells.starts[0])
        head = cells.data[begin : begin + int(cells.lengths[0])].tobytes()
        try:
            dtype, at = self.dtype, 0
            if dtype is None:
                dtype, at = _DTYPES[_CODES_OF_DTYPES[head[0]]], 1
            shape = self.shape
            if shape is None:
                axes, width = head[at] >> 2, 2 ** (head[at] & 3)
                numbers = np.frombuffer(head, f"<u{width}", axes, at + 1)
                shape, at = tuple(int(size) for size in numbers), at + 1 + axes * width
            if len(shape) > _MOST_AXES or at + dtype.itemsize * math.prod(shape) != len(head):
                raise ValueError(f"{dtype} {shape} of {len(head) - at} bytes")
        except (ValueError, KeyError, IndexError) as error:
            raise SourceError(f"{cells.where}: sample {cells.first}: damaged: {error}") from error
        return dtype, shape, at


def encoding_of(name: Any, nbytes: Any) -> Encoding:
    """Return the encoding of a name and of the size that the index gives; raise ValueError for wrong ones."""
    if not isinstance(name, str):
        raise ValueError(f"an encoding {name!r:.80}")
    kind, _, rest = name.partition(":")
    dtype_name, _, shape_text = rest.partition(":")
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] | None = None
    if kind == _ARRAY:
        if rest and (dtype_name not in _DTYPES or (shape_text and not _SHAPE.fullmatch(shape_text))):
            raise ValueError(f"the encoding {name!r:.80}")
        dtype = _DTYPES[dtype_name] if dtype_name else None
        shape = tuple(map(int, shape_text.split(","))) if shape_text else None
    elif kind == _INT or kind in _DTYPES:
        dtype, shape = _DTYPES["int64" if kind == _INT else kind], ()
    expected = None if dtype is None or shape is None else dtype.itemsize * math.prod(shape)
    is_size = nbytes is None or (type(nbytes) is int and 0 <= nbytes <= _MOST_NBYTES)
    if (
        not is_size
        or (dtype is not None and nbytes != expected)
        or (kind in (_ARRAY, _TEXT) and nbytes != expected)
    ):
        raise ValueError(f"the encoding {name!r:.80} of {nbytes!r:.80} bytes")
    return Encoding(kind, dtype, shape, nbytes)


def _texts(cells: Cells) -> npt.NDArray[Any]:
    data = cells.data.tobytes()
    texts: npt.NDArray[Any] = np.empty(len(cells), object)
    for row, (start, length) in enumerate(zip(cells.starts.tolist(), cells.lengths.tolist(), strict=True)):
        try:
            texts[row] = data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{cells.where}: sample {cells.first + row}: no text: {error}") from error
    return texts

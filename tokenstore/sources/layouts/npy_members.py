"""The arrays in the `.npy` members of tar files, packed by gzip or not: where they lie, and of what kind."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SourceError, StorageError
from tokenstore.sources.files import Reader, SourceFile, reading
from tokenstore.sources.forward_stream import STREAM_ERRORS
from tokenstore.sources.listings import FileListing, ListingTask
from tokenstore.sources.names import printable
from tokenstore.sources.npy_files import npy_header
from tokenstore.sources.tar_headers import walk_headers

__all__ = ["PACKED", "ListArrays", "PackedFile", "inflated"]

PACKED = (".tar.gz", ".tgz")
"""The endings of tar files that are packed by gzip."""
_NPY = b".npy"
_HEADER_NBYTES = 2**12


@dataclass(frozen=True)
class ListArrays(ListingTask):
    """The listing of the `.npy` members of a tar file: `member`, `offset` of the values, `dtype` and `shape`.

    Offsets are those in the stream without gzip. Files with an ending of `others` are listed too, without a
    dtype. A file is read to its end, so that a damaged one is refused.
    """

    others: tuple[bytes, ...] = ()

    @override
    def __call__(self, file: SourceFile) -> FileListing:
        names: list[bytes] = []
        offsets: list[int] = []
        dtypes: list[str | None] = []
        shapes: list[list[int] | None] = []
        with inflated(file) as (reader, length):
            for member in walk_headers(reader, file, length):
                if not member.is_file or not member.name.endswith((_NPY, *self.others)):
                    continue
                names.append(member.name)
                if member.name.endswith(_NPY):
                    where = f"{file}: {printable(member.name)}"
                    reader.seek(member.offset)
                    head = reader.read(min(member.size, _HEADER_NBYTES))
                    dtype, shape, offset = npy_header(head, member.size, where)
                    offsets.append(member.offset + offset)
                    dtypes.append(dtype.str)
                    shapes.append(list(shape))
                else:
                    offsets.append(member.offset)
                    dtypes.append(None)
                    shapes.append(None)
        columns = {
            "member": pa.array(names, pa.binary()),
            "offset": pa.array(offsets, pa.int64()),
            "dtype": pa.array(dtypes, pa.string()),
            "shape": pa.array(shapes, pa.list_(pa.int64())),
        }
        return FileListing(pa.table(columns), {})


class PackedFile(gzip.GzipFile):
    """The stream that a file packed by gzip holds; closing it closes the file."""

    def __init__(self, file: SourceFile) -> None:
        self._packed = file.open()
        super().__init__(fileobj=cast(Any, self._packed), mode="rb")

    def close(self) -> None:
        """Close the stream and the file."""
        super().close()
        self._packed.close()


@contextmanager
def inflated(file: SourceFile) -> Iterator[tuple[Reader, int | None]]:
    """Open a tar file, and yield its reader without gzip and the bytes it has at most, None for the file's.

    Raises SourceError, also while the block runs, for a stream of gzip that is damaged or cut off.
    """
    if not file.name.lower().endswith(PACKED):
        with reading(file) as reader:
            yield reader, None
        return
    try:
        with PackedFile(file) as packed:
            yield packed, sys.maxsize
        file.check_unchanged()
    except StorageError:
        raise
    except STREAM_ERRORS as error:
        raise SourceError(f"{file}: damaged or truncated: {error}") from error

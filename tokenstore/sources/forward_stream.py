"""The reader of byte ranges of a compressed stream, which goes forwards and starts again to go back."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from typing import IO

from tokenstore.errors import SourceError
from tokenstore.sources.files import SourceFile
from tokenstore.storage.inflating import ZIP_ERRORS

STREAM_ERRORS = (*ZIP_ERRORS, OSError)
"""The exceptions that gzip and zipfile raise for damaged files and for kinds that they don't read."""
_BLOCK_NBYTES = 2**20


def read_all(file: IO[bytes] | gzip.GzipFile, most: int) -> bytes | None:
    """Return all bytes of a stream, or None for a stream of more than `most` bytes."""
    # subtle: `read(most)` would allocate `most` bytes before it reads the first
    blocks, length = [], 0
    while block := file.read(_BLOCK_NBYTES):
        blocks.append(block)
        length += len(block)
        if length > most:
            return None
    return b"".join(blocks)


class ForwardStream:
    """A stream that is cheap to read forwards and has to start anew to go back.

    `open_stream` must pickle, as a stream that is sent to another process is opened again in that process.
    It opens `file`, which is still the one that was listed after each read.
    """

    def __init__(self, open_stream: Callable[[], IO[bytes]], where: str, file: SourceFile) -> None:
        self._open_stream, self._where, self._file = open_stream, where, file
        self._stream: IO[bytes] | None = None
        self._lock = threading.Lock()

    def read(self, start: int, count: int) -> bytes:
        """Read bytes [start, start + count); raise SourceError if the stream is damaged or ends before.

        Raises SourceChangedError if another file has taken the place of this one.
        """
        data = self._read(start, count)
        self._file.check_unchanged()
        if len(data) < count:
            raise SourceError(
                f"{self._where}: truncated: {count} bytes expected at {start}, found {len(data)}"
            )
        return data

    def check_nothing_after(self, length: int) -> None:
        """Raise SourceError if the stream goes on after `length` bytes, or if its checksum is wrong."""
        if self._read(length, 1):
            raise SourceError(f"{self._where}: expected {length} bytes, found more")

    def _read(self, start: int, count: int) -> bytes:
        with self._lock:
            try:
                if self._stream is None:
                    self._stream = self._open_stream()
                # subtle: seek reads on in gzip and zip streams, and begins again to go back
                self._stream.seek(start)
                return self._stream.read(count)
            except STREAM_ERRORS as error:
                self._close()
                raise SourceError(
                    f"{self._where}: damaged or truncated near byte {start}: {error}"
                ) from error

    def close(self) -> None:
        """Close the stream until it is read again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def __reduce__(self) -> tuple[type[ForwardStream], tuple[Callable[[], IO[bytes]], str, SourceFile]]:
        return ForwardStream, (self._open_stream, self._where, self._file)

"""A base of read-only streams that have a position and can be sought."""

from __future__ import annotations

import errno
import io
from abc import abstractmethod

from typing_extensions import override

__all__ = ["SeekableStream"]


class SeekableStream(io.RawIOBase):
    """A stream of bytes with a position of its own; a subclass reads, and says how long the stream is."""

    def __init__(self) -> None:
        self.position = 0
        """The number of the byte that is read next."""

    @abstractmethod
    def nbytes(self) -> int:
        """Return the number of bytes of the stream."""

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self.position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position}.get(whence)
        position = (self.nbytes() if base is None else base) + offset
        if position < 0:
            raise OSError(errno.EINVAL, "a seek to before the start")
        self.position = position
        return position

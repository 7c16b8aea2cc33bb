"""The reading of encoded files from the local disk."""

from __future__ import annotations

import os
import stat

from tokenstore.errors import SampleError

__all__ = ["MAX_FILE_BYTES", "read_file"]

MAX_FILE_BYTES = 2**30
"""The size in bytes above which an encoded image is refused unread."""


def read_file(path: str | bytes) -> bytes | SampleError:
    """Return all bytes of a regular file, or the reason why they cannot be read, as an error."""
    try:
        # subtle: without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return SampleError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                return SampleError(f"{status.st_size} bytes are more than the {MAX_FILE_BYTES} allowed")
            return file.read()
    except OSError as error:
        return SampleError(f"cannot be read: {error.strerror or error}")

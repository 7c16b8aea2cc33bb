"""The reading of encoded files from the local disk."""

from __future__ import annotations

import os
import stat

from tokenstore.errors import Parameter, SampleError

__all__ = ["MAX_FILE_BYTES", "read_file", "read_file_below"]

MAX_FILE_BYTES = 2**30
"""The size in bytes above which an encoded image is refused unread."""
_MOST_PATH_BYTES = 4096
"""The length of a path that no system exceeds; longer texts are something else, such as base64."""
_SHOWN_BYTES = 80


def read_file(path: str | bytes) -> bytes | SampleError:
    """Return all bytes of a regular file, or the reason why they cannot be read, as an error."""
    try:
        # subtle: without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return SampleError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                return SampleError(f"{status.st_size} bytes are more than the {MAX_FILE_BYTES} allowed")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        return SampleError(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def read_file_below(folder: bytes, path: bytes, *, allow_outside: bool = False) -> bytes | SampleError:
    """Return all bytes of a file whose `path` some other file names, relative to its `folder`.

    A path that leads out of the folder, by `..`, from the root or by a link, is an error unless
    `allow_outside`.
    """
    if len(path) > _MOST_PATH_BYTES:
        begin = path[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        return SampleError(f"expected a path, found {len(path):,} characters that begin with {begin!r}")
    try:
        whole = os.path.realpath(path if path.startswith(b"/") else folder + b"/" + path)
        top = os.path.realpath(folder)
    except (OSError, ValueError) as error:
        return SampleError(f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not allow_outside and not whole.startswith(top.rstrip(b"/") + b"/"):
        allow = Parameter("allow_outside_paths", True)
        shown = path[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        return SampleError(
            f"path {shown!r} leads out of the folder of the file that names it; {allow} reads it",
            parameters=[allow],
        )
    return read_file(whole)

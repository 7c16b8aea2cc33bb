"""The reading of encoded files from the local disk."""

from __future__ import annotations

import os

from tokenstore.errors import DamageError, Parameter, SampleError
from tokenstore.storage.regular import open_regular, read_at

__all__ = ["MAX_FILE_BYTES", "MAX_PATH_BYTES", "outside_error", "read_file", "read_file_below"]

MAX_FILE_BYTES = 2**30
"""The size in bytes above which an encoded image is refused unread."""
MAX_PATH_BYTES = 4096
"""The length of a path that no system exceeds; longer texts are something else, such as base64."""
_SHOWN_BYTES = 80


def read_file(path: str | bytes) -> bytes | SampleError:
    """Return all bytes of a regular file, or the reason why they cannot be read, as an error."""
    try:
        descriptor, nbytes = open_regular(path, "the file")
        try:
            if nbytes > MAX_FILE_BYTES:
                return SampleError(f"{nbytes} bytes are more than the {MAX_FILE_BYTES} allowed")
            return read_at(descriptor, 0, nbytes)
        finally:
            os.close(descriptor)
    except (OSError, ValueError, DamageError) as error:  # a path with a zero byte is a ValueError
        cause = error.__cause__ or error
        if isinstance(cause, DamageError):
            return SampleError("not a regular file")
        return SampleError(f"cannot be read: {getattr(cause, 'strerror', None) or cause}")


def read_file_below(folder: bytes, path: bytes, *, allow_outside: bool = False) -> bytes | SampleError:
    """Return all bytes of a file whose `path` some other file names, relative to its `folder`.

    A path that leads out of the folder, by `..`, from the root or by a link, is an error unless
    `allow_outside`.
    """
    if len(path) > MAX_PATH_BYTES:
        begin = path[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        return SampleError(f"expected a path, found {len(path):,} characters that begin with {begin!r}")
    try:
        whole = os.path.realpath(path if path.startswith(b"/") else folder + b"/" + path)
        top = os.path.realpath(folder)
    except (OSError, ValueError) as error:
        return SampleError(f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not allow_outside and not whole.startswith(top.rstrip(b"/") + b"/"):
        return outside_error(path)
    return read_file(whole)


def outside_error(path: bytes) -> SampleError:
    """Return the error for a path that leads out of the folder of the file that names it."""
    allow = Parameter("allow_outside_paths", True)
    shown = path[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return SampleError(
        f"path {shown!r} leads out of the folder of the file that names it; {allow} reads it",
        parameters=[allow],
    )

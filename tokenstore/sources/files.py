"""The files of a source: on this machine's disk here, at a URL in `remote_files`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, runtime_checkable

from typing_extensions import override

from tokenstore.errors import DamageError, SampleError, SourceChangedError, SourceError, StorageError
from tokenstore.sources.file_bytes import read_file_below
from tokenstore.sources.names import printable
from tokenstore.storage.regular import open_regular, read_at

__all__ = [
    "ExpectingReader",
    "LocalFile",
    "Reader",
    "SourceFile",
    "json_object",
    "reading",
    "replaced",
    "whole_file",
]


class Reader(Protocol):
    """An open file, read forwards and backwards."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset in bytes, and return the position."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer at the end of the file."""

    def close(self) -> None:
        """Close the file."""


@runtime_checkable
class ExpectingReader(Reader, Protocol):
    """An open file that can be told what will be read of it."""

    def expect(self, nbytes: int, *, here: bool) -> None:
        """Take note that so many bytes are read in order, from the next read on, or from where they began."""


class SourceFile(Protocol):
    """A file of a source; `str()` is its place as messages name it.

    A SourceFile is small and can be pickled: it can be read in another process and, unless it is local, on
    another machine.
    """

    @property
    def is_remote(self) -> bool:
        """True if the bytes come over a network."""

    @property
    def name(self) -> str:
        """The last part of the file's path; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""

    @property
    def nbytes(self) -> int:
        """The size in bytes."""

    @property
    def version(self) -> str:
        """A text that changes when the file is replaced; empty where its storage tells no versions."""

    @property
    def key(self) -> str:
        """The whole path or URL, without secrets."""

    def open(self) -> Reader:
        """Open the file for reading.

        Opening, or the first read, raises OSError or SourceError for a file that cannot be read; StorageError
        says that remote storage does not answer.
        """

    def arrow_source(self) -> Any:
        """Return what Arrow's readers open: a path, or a file object."""

    def read_beside(self, paths: Sequence[bytes], *, allow_outside: bool) -> list[bytes | SampleError]:
        """Return the files at paths that this file names, relative to its folder, or the reasons why not.

        A path that leads out of the folder is an error unless `allow_outside`.
        """

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | SampleError]:
        """Return the bytes of each range (offset, size), or the reason why it cannot be read.

        Raises StorageError where remote storage does not answer, SourceChangedError for a file that was
        replaced after it was listed: neither is a fault of a sample.
        """

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if what was read through `arrow_source` may be of another file.

        A remote file checks each read by itself.
        """


@dataclass(frozen=True)
class LocalFile(SourceFile):
    """A file on this machine's disk, by its absolute path: a change of the working folder changes nothing."""

    path: str
    shown: str
    """The path as the user gave it, for messages."""
    listed: tuple[int, int] | None = None
    """Size in bytes and time of the last change when the file was listed; None: any file at the path will do.

    Inodes are not compared: some network file systems give a file another one each time.
    """

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the file at a path, as it is now."""
        try:
            listed = _state(path.stat())
        except (OSError, ValueError):  # reading it will say why
            listed = None
        return cls(str(path.absolute()), str(path), listed)

    def __str__(self) -> str:
        return self.shown

    @property
    @override
    def is_remote(self) -> bool:
        return False

    @property
    @override
    def name(self) -> str:
        return Path(self.path).name

    @property
    @override
    def nbytes(self) -> int:
        return Path(self.path).stat().st_size

    @property
    @override
    def version(self) -> str:
        status = Path(self.path).stat()
        return f"{status.st_ino}-{status.st_mtime_ns}"

    @property
    @override
    def key(self) -> str:
        return printable(os.fsencode(self.path))

    @override
    def open(self) -> BinaryIO:
        return Path(self.path).open("rb")

    @override
    def arrow_source(self) -> str:
        return self.path

    @override
    def read_beside(self, paths: Sequence[bytes], *, allow_outside: bool) -> list[bytes | SampleError]:
        folder = os.fsencode(Path(self.path).parent)
        return [read_file_below(folder, path, allow_outside=allow_outside) for path in paths]

    @override
    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | SampleError]:
        try:
            descriptor, _ = open_regular(self.path, self.shown)
        except (OSError, DamageError) as error:
            return [self._unreadable(error) for _ in ranges]
        try:
            answers = [self._read_range(descriptor, offset, size) for offset, size in ranges]
            self._compare(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        return answers

    @override
    def check_unchanged(self) -> None:
        with contextlib.suppress(OSError):  # a file that has gone is found by who reads it
            self._compare(Path(self.path).stat())

    def _compare(self, status: os.stat_result) -> None:
        if self.listed is not None and self.listed != _state(status):
            raise replaced(self)

    def _read_range(self, descriptor: int, offset: int, size: int) -> bytes | SampleError:
        try:
            data = read_at(descriptor, offset, offset + size)
        except OSError as error:
            return self._unreadable(error)
        return data if len(data) == size else SampleError(f"{self} ends within the sample")

    def _unreadable(self, error: OSError | DamageError) -> SampleError:
        return SampleError(f"{self} cannot be read: {getattr(error, 'strerror', None) or error}")


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def replaced(file: SourceFile) -> SourceChangedError:
    """Return the error for a file that is not the one that was listed."""
    return SourceChangedError(
        f"{file}: was replaced after it was listed. Leave the files of a source as they are until the "
        "conversion has ended, and begin it again"
    )


@contextlib.contextmanager
def reading(file: SourceFile, what: str = "") -> Iterator[Reader]:
    """Open a file, `what` in messages, while the block runs; raise SourceError where it cannot be read.

    Raises SourceChangedError after the block if the file was replaced after it was listed.
    """
    reader = None
    try:
        reader = file.open()
        yield reader
        file.check_unchanged()
    except StorageError:  # which is an OSError, and says more
        raise
    except OSError as error:
        raise SourceError(f"{file}: {what}cannot be read: {error.strerror or error}") from error
    finally:
        if reader is not None:
            reader.close()


def whole_file(file: SourceFile, most: int, what: str) -> bytes:
    """Return all bytes of a file that is `what`; raise SourceError for one of more than `most` bytes.

    Raises SourceError for a file that cannot be read, too.
    """
    with reading(file, f"{what} ") as reader:
        data = b"" if file.nbytes > most else reader.read(most + 1)
        if max(file.nbytes, len(data)) > most:
            raise SourceError(f"{file}: expected {what} of at most {most:,} bytes, found more")
        return data


def json_object(path: Path, most: int, what: str) -> dict[str, Any]:
    """Return the object in a local file of JSON that is `what`; raise SourceError for another file.

    Raises SourceError for a file of more than `most` bytes, and for one that cannot be read, too.
    """
    data = whole_file(LocalFile.of(path), most, what)
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError(f"a {type(document).__name__}")
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected {what}: {error}") from error
    return document

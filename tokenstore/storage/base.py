"""The protocol of all places where a store's files can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from tokenstore.errors import DamageError

__all__ = ["IN_PLACE_MARKER", "SCRATCH", "STAGING", "Range", "Storage"]

STAGING = ".partial"
"""The folder of an unfinished store with the files that only its conversion needs."""
SCRATCH = f"{STAGING}/.scratch"
"""The temporary name of a file while it is written to a local folder; no split can have it."""
IN_PLACE_MARKER = "operation.json"
"""The file that makes the working folder beside a local store ours."""
BLOCK_NBYTES = 2**22
"""The bytes that `Storage.blocks` yields at a time of a remote file, each block from a request."""
LOCAL_BLOCK_NBYTES = 2**17
"""The same of a file of this machine: larger blocks cost memory and win no time."""

Range: TypeAlias = tuple[str, int, int]
"""A file's path, the first byte, and the byte after the last."""


def too_long(where: str, limit: int, nbytes: int | None = None) -> DamageError:
    """Return the error for a file of more than `limit` bytes, of which nothing more is read."""
    size = "more" if nbytes is None else nbytes
    return DamageError(f"{where}: expected at most {limit} bytes, found {size}. Restore the file from a copy")


class Storage(ABC):
    """Files by their path relative to a root; paths have slashes, and none at either end.

    All methods may be called from any number of threads, and in forked processes. A Storage can be pickled:
    the copy opens the same place again.

    Methods raise FileNotFoundError for a file that does not exist, and DamageError where something else than
    a regular file is in its place, or where a zip file that holds the file is damaged. A remote place also
    raises StorageError where it does not answer in time, or refuses access.
    """

    url: str
    """The place as it may be printed: a remote URL without user, password and query."""
    root: Path | None = None
    """The local folder or zip file; None for a remote place."""
    folder: Path | None = None
    """The local folder in which every file is a file of its own; None for zip files and remote places."""
    maps_files: bool = False
    """True if every file's bytes can be mapped from this machine's disk, so that `open_file` finds them."""

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def changes(self) -> int:
        """The number of answers that may have come from another version of a file than an answer before.

        It is 0 for a place whose answers tell no versions.
        """
        return 0

    def version(self, path: str) -> tuple[int, ...] | None:
        """Return numbers that change when a file is replaced; None where a request would be needed."""
        return None

    @abstractmethod
    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return a whole file; raises DamageError for one of more than `limit` bytes."""

    @abstractmethod
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a file.

        A remote place raises DamageError for a file that ends before `stop`; a local one returns fewer bytes.
        """

    def read_files(
        self, paths: Sequence[str], limit: int | None = None, concurrency: int = 16
    ) -> list[bytes | FileNotFoundError | DamageError]:
        """Return many whole files in order; a remote place reads `concurrency` of them at a time.

        A file that does not exist, or is longer than `limit` bytes, is the error that `read` raises for it.
        """
        answers: list[bytes | FileNotFoundError | DamageError] = []
        for path in paths:
            try:
                answers.append(self.read(path, limit))
            except (FileNotFoundError, DamageError) as error:
                answers.append(error)
        return answers

    def read_ranges(self, requests: Sequence[Range], concurrency: int = 16) -> list[bytes]:
        """Return the bytes of many ranges; a remote place reads `concurrency` of them at a time."""
        return [self.read_range(*request) for request in requests]

    def ranges_in_turn(
        self, requests: Iterable[Range], concurrency: int = 16
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of many ranges in order; a remote place reads `concurrency` of them ahead."""
        left = iter(requests)
        while batch := list(islice(left, concurrency)):
            yield from self.read_ranges(batch, concurrency)

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield a whole file, at most a few megabytes at a time."""
        size = self.size(path)
        for start in range(0, size, BLOCK_NBYTES):
            yield self.read_range(path, start, min(start + BLOCK_NBYTES, size))

    def open_file(self, path: str) -> tuple[int, int, int] | None:
        """Open a file on this machine's disk: return (descriptor, offset, size) of its bytes, or None.

        The caller closes the descriptor. None stands for bytes that lie elsewhere, or are compressed.
        """
        return None

    @abstractmethod
    def size(self, path: str) -> int:
        """Return a file's size in bytes."""

    @abstractmethod
    def exists(self, path: str = "") -> bool:
        """Return True if a file or a folder is at `path`; on a web server, if the URL is served."""

    @abstractmethod
    def files(self) -> list[str]:
        """Return the paths of all files below the root, sorted.

        Raises StorageError for a plain web server, which cannot list its files.
        """

    def sizes(self) -> dict[str, int] | None:
        """Return the size of every file below the root by its path; None where a listing tells none.

        Raises StorageError for a plain web server, which cannot list its files.
        """
        return None

    def folder_with(self, name: str) -> str | None:
        """Return the uppermost folder below the root with a file of that name.

        None stands for no such folder, and for places other than zip files, which list no files at once.
        """
        return None

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file that readers see whole or not at all, also after a crash.

        Raises StoreError for a zip file, StorageError for a place that takes no files.
        """

    def write_ahead(self, path: str, data: bytes) -> None:
        """Write a file as `write` does, but so that a power cut may lose its name before `settle`.

        Raises what `write` raises.
        """
        self.write(path, data)

    def settle(self, paths: Iterable[str]) -> None:  # noqa: B027 (only a local folder has to)
        """Make the names of files, written by `write_ahead`, last through a power cut."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> None:
        """Write a file unless one exists, whole or not at all, also if several try at once.

        Raises FileExistsError for a file with other bytes; one with the same bytes may be this call's own,
        whose answer was lost. Raises what `write` raises.
        """

    @abstractmethod
    def move_into_place(self, finished: Path, path: str) -> None:
        """Move a finished local file into the place, whole or not at all.

        For a local folder, `finished` must be in the same file system. Raises what `write` raises.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all its files; do nothing if neither exists.

        Raises what `write` raises.
        """

    @abstractmethod
    def below(self, folder: str) -> Storage:
        """Return the storage of a folder in this place, with the same options.

        Raises StoreError for a zip file.
        """

    def interrupted_exchange(self) -> Path | None:
        """Return the working folder of an operation that ended while it exchanged the store of this place.

        Nothing is at the place then, and the folder beside it has the store. None where no such end is known.
        """
        return None

    def reopened(self) -> Storage:
        """Return the storage of the same place as it is now: a local zip file may exist since then."""
        return self

    def working_storage(self) -> Storage:
        """Return the storage in which a store for this place is written.

        A store that is to become a local zip file is written to a folder beside it and packed at the end; any
        other is written in place, and the result is this storage itself.
        """
        return self

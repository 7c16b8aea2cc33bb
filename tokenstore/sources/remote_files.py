"""The files of a source at a URL: read by range, many ranges at a time, and never whole to the disk."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from typing_extensions import override

from tokenstore.errors import DamageError, SampleError, SourceError, StorageError
from tokenstore.sources.file_bytes import MAX_FILE_BYTES, MAX_PATH_BYTES, outside_error
from tokenstore.sources.files import SourceFile, replaced
from tokenstore.storage import public_url
from tokenstore.storage.remote.entries import plain_version
from tokenstore.storage.remote.faults import ReplacedError
from tokenstore.storage.streams import SeekableStream

if TYPE_CHECKING:
    from tokenstore.storage.remote.folder import RemoteFolder

__all__ = ["RemoteFile", "RemotePlace", "split_url"]

CONCURRENCY = 16
"""The requests of one call that are under way at a time."""
_GAP_NBYTES = 2**16
"""The bytes between two ranges up to which they are fetched together."""
_SPAN_NBYTES = 2**23
"""The bytes of ranges that are fetched together at most, unless one range is larger."""
_GROWTH = 8
"""The factor by which a block is larger than the one before it, while a walk goes steadily on."""
_PART_NBYTES = 2**23
"""The bytes of each of the requests by which a large block is fetched."""
_NEAR_NBYTES = 2**20
"""The distance up to which reading on costs less time than a request of its own."""
_BLOCK_NBYTES = (2**16, 2**22)
"""The bytes of the first request of a walk through a file, and of each once the walk goes steadily on."""
_BLOCKS_AHEAD = 4
"""The blocks of a file of images that are fetched ahead."""
_ASKED_AGAIN = 3
"""The times that a place is asked about a file that seems to be another: several servers may answer."""
MISSING = "cannot be read: No such file or directory"

_places: dict[tuple[str, str], RemotePlace] = {}
"""The places of this process, so that the requests of one place share its connections."""


class RemotePlace:
    """The bucket or server that remote files are at, with the options to reach it.

    A place is pickled as its URL and options; in each process there is one object for both.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._url, self._storage_options = url, dict(storage_options)

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> RemotePlace:
        """Return this process's place of that URL and those options."""
        key = url, repr(sorted(storage_options.items()))
        return _places.setdefault(key, cls(url, storage_options))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePlace.at, (self._url, self._storage_options)

    def __repr__(self) -> str:
        return f"RemotePlace({str(self)!r})"

    def __str__(self) -> str:
        return public_url(self._url)

    @cached_property
    def storage(self) -> RemoteFolder:
        """The files of the place; raises StoreError for a kind of storage that is not known."""
        from tokenstore.storage.remote.folder import RemoteFolder  # imports fsspec, as local files need not

        return RemoteFolder(self._url, self._storage_options)

    def url_of(self, path: str) -> str:
        """Return the public URL of a path, for messages."""
        base, slash = str(self), "" if str(self).endswith("/") else "/"
        return f"{base}{slash}{path}"

    def read_files(self, paths: Sequence[str]) -> Iterator[bytes | SampleError | None]:
        """Yield whole files, many of them fetched at a time, or the reasons why they cannot be read.

        None stands for a file that does not exist.
        """
        for answer in self.storage.read_files(paths, MAX_FILE_BYTES, CONCURRENCY):
            if isinstance(answer, bytes):
                yield answer
            elif isinstance(answer, FileNotFoundError):
                yield None
            else:
                yield SampleError(
                    f"more bytes than the {MAX_FILE_BYTES} allowed, or fewer than the server says"
                )

    def file(self, path: str) -> RemoteFile:
        """Return the file at a path; raise FileNotFoundError if no file is there."""
        entry = self.storage.entry(path)
        return RemoteFile(self, path, entry.nbytes, entry.version)


def split_url(url: str, storage_options: Mapping[str, Any] | None) -> tuple[RemotePlace, str]:
    """Return the place that a URL is at, and the path there without slashes at its ends.

    Raises SourceError for a chained URL.
    """
    if "::" in url:
        raise SourceError(f"{public_url(url)}: expected a URL of one kind of storage, found a chained one")
    scheme, _, rest = url.partition("://")
    query = ""
    if scheme in ("http", "https"):
        rest, mark, query = rest.partition("?")
        query = mark + query
    host, _, path = rest.partition("/")
    if scheme in ("http", "https"):
        path = unquote(path)
    return RemotePlace.at(f"{scheme}://{host}{query}", storage_options or {}), path.strip("/")


@dataclass(frozen=True)
class RemoteFile(SourceFile):
    """A file at a URL, with the size and version that it had when it was listed."""

    place: RemotePlace
    path: str
    size: int
    tag: str
    """The version: an ETag or a time."""

    def __str__(self) -> str:
        return self.place.url_of(self.path)

    @property
    @override
    def is_remote(self) -> bool:
        return True

    @property
    @override
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    @override
    def nbytes(self) -> int:
        return self.size

    @property
    @override
    def version(self) -> str:
        return self.tag

    @property
    @override
    def key(self) -> str:
        return str(self)

    @override
    def open(self) -> RemoteReader:
        return RemoteReader(self)

    @override
    def arrow_source(self) -> RemoteReader:
        return RemoteReader(self, _BLOCKS_AHEAD)

    @override
    def read_beside(self, paths: Sequence[bytes], *, allow_outside: bool) -> list[bytes | SampleError]:
        folder = self.path.rpartition("/")[0]
        wholes = [_below(folder, path, allow_outside) for path in paths]
        files = self.place.read_files([path for path in wholes if isinstance(path, str)])
        answers = [whole if isinstance(whole, SampleError) else next(files) for whole in wholes]
        return [SampleError(MISSING) if answer is None else answer for answer in answers]

    @override
    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | SampleError]:
        spans = _spans(ranges)
        answers: list[bytes | SampleError] = [b""] * len(ranges)
        try:
            blocks = self.fetch([(start, stop) for start, stop, _ in spans])
        except FileNotFoundError:
            return [SampleError(f"{self} cannot be read: no such file") for _ in ranges]
        for (start, _, members), block in zip(spans, blocks, strict=True):
            for number in members:
                offset, size = ranges[number]
                answers[number] = block[offset - start : offset - start + size]
        return answers

    def fetch(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes [start, stop) of some spans, of the version of the file that was listed.

        Raises FileNotFoundError for a file that has gone, SourceChangedError for one that was replaced, and
        StorageError for a server that does not send what it says it has.
        """
        storage = self.place.storage
        requests = [(self.path, start, stop) for start, stop in spans]
        try:
            return storage.read_ranges(requests, CONCURRENCY, version=self.tag)
        except ReplacedError:
            if self._is_as_listed():  # the servers of one place may tell versions of their own
                return storage.read_ranges(requests, CONCURRENCY)
            raise replaced(self) from None
        except DamageError as error:
            if self._is_as_listed():
                raise StorageError(
                    f"{self}: expected an answer from the {self.size:,} bytes that the server says the file "
                    f"has, found another: {error}"
                ) from error
            raise replaced(self) from None

    def _is_as_listed(self) -> bool:
        """Return True if the place says of the file what it said when it was listed."""
        entries = (self.place.storage.entry(self.path) for _ in range(_ASKED_AGAIN))
        versions = plain_version(self.tag), ""
        return any(
            entry.nbytes == self.size and plain_version(entry.version) in versions for entry in entries
        )

    @override
    def check_unchanged(self) -> None:
        pass


def _below(folder: str, path: bytes, allow_outside: bool) -> str | SampleError:
    """Return the whole path of a file that another file in a folder names, or the error for a wrong path."""
    text = path.decode("utf-8", "surrogateescape")
    whole = posixpath.normpath(posixpath.join(f"/{folder}", text))
    if len(path) > MAX_PATH_BYTES or "\0" in text or "://" in text:
        begin = path[:80].decode("utf-8", "backslashreplace")
        return SampleError(f"expected a path, found {len(path):,} characters that begin with {begin!r}")
    if not allow_outside and not whole.startswith(f"/{folder}/".replace("//", "/")):
        return outside_error(path)
    return whole.lstrip("/")


def _spans(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Join neighbouring ranges (offset, size) to spans (start, stop, numbers of the ranges)."""
    spans: list[tuple[int, int, list[int]]] = []
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        start, stop = ranges[number][0], sum(ranges[number])
        if spans:
            first, last, members = spans[-1]
            whole = max(last, stop) - first
            if start <= last + _GAP_NBYTES and whole <= max(_SPAN_NBYTES, last - first):
                spans[-1] = (first, max(last, stop), [*members, number])
                continue
        spans.append((start, stop, [number]))
    return spans


class RemoteReader(SeekableStream):
    """A remote file as a seekable stream.

    A walk in small steps reads on in large blocks, of which the next `blocks` are fetched meanwhile. A walk
    in large steps fetches a small block at each.
    """

    def __init__(self, file: RemoteFile, blocks: int = 1) -> None:
        super().__init__()
        self._file, self._blocks = file, blocks
        self._last = 0
        self._start, self._block = 0, b""
        self._block_nbytes = _BLOCK_NBYTES[0]
        self._ahead = deque[tuple[int, int, Future[bytes]]]()
        """The start and the end of each block that is being fetched."""
        self._expected: int | None = None
        self._origin: int | None = None
        """The start of the bytes that are expected to be read, once it is known."""
        self._thread: ThreadPoolExecutor | None = None

    @override
    def nbytes(self) -> int:
        return self._file.nbytes

    @override
    def read(self, size: int = -1) -> bytes:
        stop = self._file.nbytes if size < 0 else min(self._file.nbytes, self.position + size)
        start = min(self.position, stop)
        if not self._start <= start <= stop <= self._start + len(self._block):
            self._fetch(start, stop)
        self.position = self._last = stop
        return self._block[start - self._start : stop - self._start]

    @override
    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def expect(self, nbytes: int, *, here: bool) -> None:
        """Take note that so many bytes are read in order: fetch large blocks of them, and no more.

        They begin at the next fetch, or `here`: where those begin that were expected before.
        """
        self._expected = nbytes
        self._origin = self._origin if here else None

    @override
    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._thread = None
        self._ahead.clear()
        self._block = b""
        super().close()

    def _fetch(self, start: int, stop: int) -> None:
        """Have a block with the bytes from `start` to `stop`; those that are here are not fetched again."""
        least, most = _BLOCK_NBYTES
        is_near = 0 <= start - self._last <= _NEAR_NBYTES
        last = self._file.nbytes
        if self._expected is None:
            self._block_nbytes = min(_GROWTH * self._block_nbytes, most) if is_near else least
        else:
            self._origin = start if self._origin is None else self._origin
            self._block_nbytes, last = most, min(last, self._origin + self._expected)
        if stop > last:  # more is read than was expected
            last = min(self._file.nbytes, stop + least)
        first, blocks = start, []
        end = self._start + len(self._block)
        if self._start <= start < end:
            blocks.append(self._block[start - self._start :])
        else:
            end = start
        while self._ahead and self._ahead[0][1] <= end:
            self._ahead.popleft()
        if self._ahead and self._ahead[0][0] <= end and not blocks:
            first = end = self._ahead[0][0]
        while end < stop:
            if self._ahead and self._ahead[0][0] == end:
                block = self._ahead.popleft()[2].result()
            else:
                self._ahead.clear()
                block = self._read(end, max(stop, min(last, end + self._block_nbytes)))
            blocks.append(block)
            end += len(block)
        self._start, self._block = first, b"".join(blocks)
        if is_near and self._block_nbytes == most:
            self._fetch_ahead(most, last)

    def _fetch_ahead(self, size: int, last: int) -> None:
        """Begin to fetch the next blocks of a size, up to a last byte."""
        end = self._ahead[-1][1] if self._ahead else self._start + len(self._block)
        while end < last and len(self._ahead) < self._blocks:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(self._blocks, "tokenstore-read-ahead")
            start, end = end, min(end + size, last)
            self._ahead.append((start, end, self._thread.submit(self._read, start, end)))

    def _read(self, start: int, stop: int) -> bytes:
        step = stop - start if stop - start <= 2 * _PART_NBYTES else _PART_NBYTES
        parts = [(first, min(first + step, stop)) for first in range(start, stop, max(step, 1))]
        try:
            return b"".join(self._file.fetch(parts))
        except FileNotFoundError as error:
            raise SourceError(f"{self._file}: cannot be read: no such file") from error

"""A zip file on remote storage: its directory is read once, its members are byte ranges of the one file."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tokenstore.errors import DamageError
from tokenstore.storage.remote import Range, Remote, Retries

LOCAL_HEADER = struct.Struct("<26xHH")
"""The part of a fixed size before a member's name, extra field and data: their lengths."""
_READ_AHEAD_NBYTES = 2**18
_ZIP_URL = re.compile(r"zip(?:://(?P<folder>[^:]*))?::(?P<outer>.+)", re.DOTALL)
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
)
"""What reading a damaged zip file raises."""


@contextlib.contextmanager
def damage_reported(url: str) -> Iterator[None]:
    """Have a zip file's damage raised as DamageError."""
    try:
        yield
    except _ERRORS as error:
        raise DamageError(f"{url}: not a whole zip file: {error}. Restore it from a copy") from error


@dataclass(eq=False)
class _Member:
    info: zipfile.ZipInfo
    stop: int
    """Where the next member's header, or the directory, starts at the latest."""
    start: int = -1
    """Where its data starts; -1 before its header was read."""

    @property
    def is_stored(self) -> bool:
        return self.info.compress_type == zipfile.ZIP_STORED

    @property
    def span(self) -> Range:
        """The range of the zip file that holds all of it."""
        return "", self.start, self.start + self.info.compress_size


class ZippedRemote:
    """The files in a folder of a zip file that lies on remote storage, read as those of a Remote are.

    Raises DamageError where the zip file is damaged, and what Remote raises.
    """

    def __init__(self, remote: Remote, folder: str = "") -> None:
        self.remote = remote
        self.url = remote.url
        self._folder = f"{folder.strip('/')}/" if folder.strip("/") else ""
        self._read_members: dict[str, _Member] | None = None

    @property
    def _members(self) -> dict[str, _Member]:
        if self._read_members is None:
            tail = _Tail(self.remote)
            with damage_reported(self.url), zipfile.ZipFile(tail) as opened:
                infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
                stops = [*(info.header_offset for info in infos[1:]), opened.start_dir]
            self._read_members = {
                info.filename: _Member(info, stop)
                for info, stop in zip(infos, stops, strict=False)
                if not info.is_dir()
            }
        return self._read_members

    def _member(self, path: str) -> _Member:
        try:
            return self._members[f"{self._folder}{path}"]
        except KeyError:
            raise FileNotFoundError(f"{self.url}: no member {self._folder}{path}") from None

    def _locate(self, members: Sequence[_Member], concurrency: int) -> None:
        """Read the headers of members that have not been read from."""
        unknown = dict.fromkeys(member for member in members if member.start < 0)
        offsets = [member.info.header_offset for member in unknown]
        headers = self.remote.read_ranges(
            [("", offset, offset + LOCAL_HEADER.size) for offset in offsets], concurrency
        )
        for member, offset, header in zip(unknown, offsets, headers, strict=True):
            with damage_reported(self.url):
                start = offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
                fits = start + member.info.compress_size <= member.stop
                sound = not member.is_stored or member.info.compress_size == member.info.file_size
                if not (fits and sound and header.startswith(b"PK\3\4")):
                    raise zipfile.BadZipFile(f"{member.info.filename} is not where the directory says")
                member.start = start

    def read(self, path: str) -> bytes:
        return self.read_ranges([(path, 0, self.size(path))])[0]

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self.read_ranges([(path, start, stop)])[0]

    def read_ranges(self, requests: Sequence[Range], concurrency: int = 16) -> list[bytes]:
        """Bytes of many ranges; of a compressed member all is read, and a whole member is checked."""
        members = [self._member(path) for path, _, _ in requests]
        self._locate(members, concurrency)
        pieces = [self._piece(member, *request) for member, request in zip(members, requests, strict=True)]
        once = list(dict.fromkeys(pieces))
        read = dict(zip(once, self.remote.read_ranges(once, concurrency), strict=True))
        for member, piece in dict.fromkeys(zip(members, pieces, strict=True)):
            if piece == member.span:
                read[piece] = self._inflated(member, read[piece])
        return [
            read[piece] if member.is_stored else read[piece][start:stop]
            for member, piece, (_, start, stop) in zip(members, pieces, requests, strict=True)
        ]

    def _piece(self, member: _Member, path: str, start: int, stop: int) -> Range:
        """The range of the zip file that holds a range of a member."""
        size = member.info.file_size
        if not 0 <= start <= stop <= size:
            raise DamageError(
                f"{self.url}/{path}: expected bytes {start} to {stop}, found {size} bytes. "
                "Restore it from a copy"
            )
        return ("", member.start + start, member.start + stop) if member.is_stored else member.span

    def _inflated(self, member: _Member, data: bytes) -> bytes:
        with damage_reported(self.url), zipfile.ZipExtFile(io.BytesIO(data), "r", member.info) as file:
            return file.read()

    def size(self, path: str) -> int:
        return self._member(path).info.file_size

    def exists(self, path: str = "") -> bool:
        if not self.remote.exists():
            return False
        name = f"{self._folder}{path}".rstrip("/")
        return not name or any(f"{other}/".startswith(f"{name}/") for other in self._members)

    def files(self) -> list[str]:
        if not self.remote.exists():
            return []
        inside = (name for name in self._members if name.startswith(self._folder))
        return sorted(name.removeprefix(self._folder) for name in inside)


class _Tail(io.RawIOBase):
    """A remote file that is read from its end; what lies behind a read is read with it."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._size = remote.size()
        self._position = 0
        self._start = max(0, self._size - _READ_AHEAD_NBYTES)
        # subtle: at once, for zipfile takes a failing read of the end for damage
        self._held = remote.read_range("", self._start, self._size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a seek to before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start, stop = self._position, min(self._position + len(buffer), self._size)
        if start < self._start:
            stop_before = self._start
            self._held = self._remote.read_range("", start, stop_before) + self._held
            self._start = start
        data = self._held[start - self._start : max(start, stop) - self._start]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_remote(
    url: str, storage_options: Mapping[str, Any] | None = None, retries: Retries | None = None
) -> Remote | ZippedRemote:
    """The files at an fsspec URL, or of the zip file that it names: `….zip`, `zip::URL` or `zip://folder::URL`.

    Of a chained URL, options may be given by protocol as fsspec takes them. Raises StoreError for a kind of
    storage that is not known.
    """
    options = dict(storage_options or {})
    chained = _ZIP_URL.match(url)
    if chained is None:
        remote = Remote(url, options, retries)
        is_zip = PurePosixPath(urlsplit(url).path).suffix == ".zip"
        return ZippedRemote(remote) if is_zip else remote
    outer = chained["outer"]
    own = options.get(outer.split("://", 1)[0])
    if "::" not in outer and isinstance(own, Mapping):
        options = dict(own)
    return ZippedRemote(Remote(outer, options, retries), chained["folder"] or "")

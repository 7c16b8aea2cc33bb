"""A zip file on remote storage: its directory is read once, its members are byte ranges of the one file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from tokenstore.errors import DamageError
from tokenstore.storage.base import Range, too_long
from tokenstore.storage.inflating import inflated, is_bounded
from tokenstore.storage.remote.folder import RemoteFolder
from tokenstore.storage.streams import SeekableStream
from tokenstore.storage.zipped import LOCAL_HEADER, ReadOnlyZip, damage_reported, is_member_or_folder

__all__ = ["RemoteZip"]

_READ_AHEAD_NBYTES = 2**18
_MOST_DIRECTORY_NBYTES = 2**28
"""The longest directory that is read: that of a million files takes about 150 MB."""


@dataclass(eq=False)
class _Member:
    info: zipfile.ZipInfo
    stop: int
    """The first byte of the next member's header, or of the directory."""
    start: int = -1
    """The first byte of the member's data; -1 before the member's header was read."""

    @property
    def is_stored(self) -> bool:
        return self.info.compress_type == zipfile.ZIP_STORED

    @property
    def span(self) -> Range:
        """The range of the zip file with the member's data, compressed as it is."""
        return "", self.start, self.start + self.info.compress_size


class RemoteZip(ReadOnlyZip):
    """The members in a folder of a zip file on remote storage; `remote` is the zip file's own URL.

    The zip file's directory is read once, on first use. Reading a compressed member's range reads the whole
    member. A member that is read whole is checked against its CRC-32.
    """

    def __init__(self, remote: RemoteFolder, inner_folder: str = "") -> None:
        self.remote = remote
        self.url = remote.url
        self._folder = f"{inner_folder.strip('/')}/" if inner_folder.strip("/") else ""
        self._directory: dict[str, _Member] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.remote, self._folder)

    @override
    def reopened(self) -> RemoteZip:
        return RemoteZip(self.remote, self._folder)

    @property
    def _members(self) -> dict[str, _Member]:
        if self._directory is None:
            tail = _Tail(self.remote)
            with damage_reported(self.url), zipfile.ZipFile(tail) as opened:
                infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
                stops = [*(info.header_offset for info in infos[1:]), opened.start_dir]
            self._directory = {
                info.filename: _Member(info, stop)
                for info, stop in zip(infos, stops, strict=False)
                if not info.filename.endswith("/")
            }
        return self._directory

    def _member(self, path: str) -> _Member:
        try:
            return self._members[f"{self._folder}{path}"]
        except KeyError:
            raise FileNotFoundError(f"{self.url}: no member {self._folder}{path}") from None

    def _locate(self, members: Sequence[_Member], concurrency: int) -> None:
        """Read the headers of those members whose data has not been located yet."""
        unknown = dict.fromkeys(member for member in members if member.start < 0)
        offsets = [member.info.header_offset for member in unknown]
        headers = self.remote.read_ranges(
            [("", offset, offset + LOCAL_HEADER.size) for offset in offsets], concurrency
        )
        for member, offset, header in zip(unknown, offsets, headers, strict=True):
            with damage_reported(self.url):
                start = offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
                stored, whole = member.info.compress_size, member.info.file_size
                fits = start + stored <= member.stop
                # subtle: deflate makes incompressible data longer by less than a thousandth
                sound = stored == whole if member.is_stored else stored <= whole + whole // 100 + 2**12
                if not (fits and sound and header.startswith(b"PK\3\4")):
                    raise zipfile.BadZipFile(f"{member.info.filename} is not where the directory says")
                member.start = start

    @property
    @override
    def changes(self) -> int:
        return self.remote.changes

    @override
    def read(self, path: str, limit: int | None = None) -> bytes:
        size = self.size(path)
        if limit is not None and size > limit:
            raise too_long(f"{self.url}/{path}", limit, size)
        return self.read_ranges([(path, 0, size)])[0]

    @override
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self.read_ranges([(path, start, stop)])[0]

    @override
    def read_ranges(self, requests: Sequence[Range], concurrency: int = 16) -> list[bytes]:
        members = [self._member(path) for path, _, _ in requests]
        self._locate(members, concurrency)
        pieces = [self._piece(member, *request) for member, request in zip(members, requests, strict=True)]
        unique = list(dict.fromkeys(pieces))
        read = dict(zip(unique, self.remote.read_ranges(unique, concurrency), strict=True))
        stops: dict[tuple[_Member, Range], int] = {}
        for member, piece, (_, _, stop) in zip(members, pieces, requests, strict=True):
            stops[member, piece] = max(stop, stops.get((member, piece), 0))
        for (member, piece), stop in stops.items():
            if piece == member.span:
                read[piece] = self._inflated(member, read[piece], stop)
        return [
            read[piece] if member.is_stored else read[piece][start:stop]
            for member, piece, (_, start, stop) in zip(members, pieces, requests, strict=True)
        ]

    def _piece(self, member: _Member, path: str, start: int, stop: int) -> Range:
        """Return the range of the zip file to read for a range of a member."""
        size = member.info.file_size
        if not 0 <= start <= stop <= size:
            raise DamageError(
                f"{self.url}/{path}: expected bytes {start} to {stop}, found {size} bytes. "
                "Restore it from a copy"
            )
        return ("", member.start + start, member.start + stop) if member.is_stored else member.span

    def _inflated(self, member: _Member, data: bytes, stop: int) -> bytes:
        """Return a compressed member's bytes up to `stop`, so that no more are inflated than are needed."""
        packed = io.BytesIO(data)
        with damage_reported(self.url):
            file = zipfile.ZipExtFile(packed, "r", member.info) if is_bounded(member.info) else packed
            return b"".join(inflated(file, member.info, stop))

    @override
    def size(self, path: str) -> int:
        return self._member(path).info.file_size

    @override
    def exists(self, path: str = "") -> bool:
        if not self.remote.exists():
            return False
        name = f"{self._folder}{path}".rstrip("/")
        return not name or is_member_or_folder(name, self._members)

    @override
    def files(self) -> list[str]:
        if not self.remote.exists():
            return []
        inside = (name for name in self._members if name.startswith(self._folder))
        return sorted(name.removeprefix(self._folder) for name in inside)


class _Tail(SeekableStream):
    """A remote file that is read from its end; a read before the bytes in memory fetches all up to them."""

    def __init__(self, remote: RemoteFolder) -> None:
        super().__init__()
        self._remote = remote
        self._size = remote.size()
        self._start = max(0, self._size - _READ_AHEAD_NBYTES)
        # subtle: at once, for zipfile takes a failing read of the end for damage
        self._tail = remote.read_range("", self._start, self._size)

    @override
    def nbytes(self) -> int:
        return self._size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start, stop = self.position, min(self.position + len(buffer), self._size)
        if start < self._start:
            if self._size - start > _MOST_DIRECTORY_NBYTES:
                raise zipfile.BadZipFile(f"a directory of {self._size - start} bytes")
            self._tail = self._remote.read_range("", start, self._start) + self._tail
            self._start = start
        data = self._tail[start - self._start : max(start, stop) - self._start]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

"""The journal of a split under way: which of its shards are whole, in order, and their rows of the table.

An entry is written after all files of its shard, and after the entry of the shard before. So a journal says
of the first shards that they are whole, also after a crash. In a local folder, entries are lines that are
appended to one file, each with a checksum: what a crash left of the last line is no entry. A remote place has
an object for each entry, and one for many.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from tokenstore.errors import ConversionError
from tokenstore.files import append_file
from tokenstore.format import FileRecord, Skip, encode_json, sharding
from tokenstore.storage import STAGING, Storage

_ROWS_AT_ONCE = 16
_ENTRIES_AT_ONCE = 64
_WINDOWS = (1, 16, 256)
"""The objects of entries that are asked for in turn: first, then, and from then on."""
_BATCH = 64
"""The entries of a remote journal that are written together once more."""


@dataclass(frozen=True)
class Entry:
    """The facts of one whole shard."""

    samples: int
    source_stop: int
    """The first sample of the source after this shard."""
    source_bytes: int | None
    skipped: tuple[Skip, ...]
    """The samples of the source that are left out before this shard's end, after the one before."""
    files: Mapping[str, FileRecord]
    """The shard's file of each array, by its path in the store."""
    part: FileRecord | None = None
    """The file of the part of the samples table that ends with this shard."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        values: dict[str, Any] = {
            "samples": self.samples,
            "source_stop": self.source_stop,
            "source_bytes": self.source_bytes,
            "skipped": [[skip.source_index, skip.source, skip.reason] for skip in self.skipped],
            "files": {path: [record.size, record.sha256] for path, record in self.files.items()},
        }
        return values if self.part is None else {**values, "part": [self.part.size, self.part.sha256]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Entry:
        """Return the entry of JSON values that `to_dict` returned."""
        return cls(
            values["samples"],
            values["source_stop"],
            values["source_bytes"],
            tuple(Skip(*skip) for skip in values["skipped"]),
            {path: FileRecord(*record) for path, record in values["files"].items()},
            FileRecord(*values["part"]) if "part" in values else None,
        )


class Journal(Protocol):
    """The journal of one split; raises what its storage raises."""

    def read(self) -> Iterator[Entry]:
        """Yield the entries, in order. The next one to append is behind those that were taken."""

    def save_rows(self, shard: int, rows: bytes) -> None:
        """Save a shard's rows of the samples table, a Parquet file, before its entry is appended."""

    def append(self, shard: int, entry: Entry) -> None:
        """Append the entry of the next shard, whose files are all whole."""

    def rows(self, first: int, stop: int) -> Iterator[bytes]:
        """Yield the saved rows of the shards `first` to `stop` - 1."""

    def forget_rows(self, stop: int) -> None:
        """Let the rows of all shards before `stop` go: they are in a part of the table, whose entry stays."""


def open_journal(storage: Storage, split: str) -> Journal:
    """Return the journal of a split in the storage where its store is written."""
    if storage.folder is None:
        return RemoteJournal(storage, split)
    return LocalJournal(storage.folder, split)


class LocalJournal(Journal):
    """A journal in a local folder: a file of entries, and files of rows.

    An entry whose shard has not the size that it says is none: a power cut may have lost the shard's name.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._prefix = str(folder)
        self._entries = folder / STAGING / split / "journal"
        self._stop = 0
        """The end of the last entry in its file."""
        self._spans: dict[int, tuple[int, int, int]] = {}
        """The rows of each shard: the number of the file, and where they begin and end in it."""
        self._rows_file = 0

    @override
    def read(self) -> Iterator[Entry]:
        try:
            lines = self._entries.open("rb")
        except FileNotFoundError:
            return
        with lines:
            for shard, line in enumerate(lines):
                values = _decoded(line)
                if values is None:
                    return
                entry = Entry.from_dict(values)
                if not all(self._is_whole(path, record) for path, record in entry.files.items()):
                    return
                self._spans[shard] = (*values["rows"],)
                self._stop += len(line)
                if entry.part is not None:
                    self._forget(shard + 1)
                yield entry

    def _is_whole(self, path: str, record: FileRecord) -> bool:
        try:
            return os.stat(f"{self._prefix}/{path}").st_size == record.size  # noqa: PTH116 (pathlib costs more)
        except FileNotFoundError:
            return False

    @override
    def save_rows(self, shard: int, rows: bytes) -> None:
        _, _, start = self._spans.get(shard - 1, (0, 0, 0))
        append_file(self._rows_path(self._rows_file), start, rows)
        self._spans[shard] = self._rows_file, start, start + len(rows)

    @override
    def append(self, shard: int, entry: Entry) -> None:
        line = _encoded({**entry.to_dict(), "rows": self._spans[shard]})
        append_file(self._entries, self._stop, line)
        self._stop += len(line)

    @override
    def rows(self, first: int, stop: int) -> Iterator[bytes]:
        for shard in range(first, stop):
            number, start, end = self._spans[shard]
            rows = b""
            with contextlib.suppress(FileNotFoundError), self._rows_path(number).open("rb") as file:
                file.seek(start)
                rows = file.read(end - start)
            if len(rows) != end - start:
                raise ConversionError(
                    f"{self._entries.parent}: rows of finished shards are missing, so that this conversion "
                    "cannot be finished. Remove the unfinished store, and begin again"
                )
            yield rows

    @override
    def forget_rows(self, stop: int) -> None:
        path = self._rows_path(self._rows_file)
        self._forget(stop)
        path.unlink(missing_ok=True)

    def _forget(self, stop: int) -> None:
        self._spans.clear()
        self._rows_file = stop

    def _rows_path(self, number: int) -> Path:
        """Return the file of the rows from a shard on."""
        return self._entries.with_name(f"rows-{number}")


def _encoded(values: Mapping[str, Any]) -> bytes:
    """Return an entry's line: the checksum of its JSON, and the JSON."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (sharding.crc32c(text), text)


def _decoded(line: bytes) -> Any:
    """Return the values of an entry's line, or None for bytes that a crash left."""
    checksum, _, text = line.partition(b" ")
    text = text.removesuffix(b"\n")
    is_whole = line.endswith(b"\n") and checksum == b"%08x" % sharding.crc32c(text)
    return json.loads(text) if is_whole else None


class RemoteJournal(Journal):
    """A journal in a remote place: an object for each entry and one for its rows, many read at a time.

    Every `_BATCH` entries are written once more, together, so that a resumed conversion reads few objects.
    """

    def __init__(self, storage: Storage, split: str) -> None:
        self._storage = storage
        self._folder = f"{STAGING}/{split}"
        self._batches = 0
        """The batches of entries that are known to be written."""
        self._waiting: list[dict[str, Any]] = []
        """The entries after these batches, as JSON values."""

    def _path(self, shard: int, suffix: str) -> str:
        return f"{self._folder}/{shard:06d}.{suffix}"

    def _batch_path(self, batch: int) -> str:
        return f"{self._folder}/batch-{batch:06d}.json"

    @override
    def read(self) -> Iterator[Entry]:
        for batch in self._objects(self._batch_path, 0):
            self._batches += 1
            yield from map(Entry.from_dict, batch)
        for values in self._objects(lambda shard: self._path(shard, "json"), self._batches * _BATCH):
            self._waiting.append(values)
            yield Entry.from_dict(values)

    def _objects(self, path: Callable[[int], str], start: int) -> Iterator[Any]:
        """Yield the JSON values of numbered objects, up to the first that is not there."""
        windows = iter(_WINDOWS)
        while True:
            size = next(windows, _WINDOWS[-1])
            paths = [path(number) for number in range(start, start + size)]
            for data in self._storage.read_files(paths, concurrency=_ENTRIES_AT_ONCE):
                if isinstance(data, FileNotFoundError):
                    return
                if isinstance(data, Exception):
                    raise data
                yield json.loads(data)
            start += size

    @override
    def save_rows(self, shard: int, rows: bytes) -> None:
        self._storage.write(self._path(shard, "parquet"), rows)

    @override
    def append(self, shard: int, entry: Entry) -> None:
        values = entry.to_dict()
        self._storage.write(self._path(shard, "json"), encode_json(values))
        self._waiting.append(values)
        while len(self._waiting) >= _BATCH:
            data = json.dumps(self._waiting[:_BATCH], separators=(",", ":"), allow_nan=False)
            self._storage.write(self._batch_path(self._batches), data.encode())
            del self._waiting[:_BATCH]
            self._batches += 1

    @override
    def rows(self, first: int, stop: int) -> Iterator[bytes]:
        for start in range(first, stop, _ROWS_AT_ONCE):
            paths = [self._path(shard, "parquet") for shard in range(start, min(start + _ROWS_AT_ONCE, stop))]
            for data in self._storage.read_files(paths, concurrency=_ROWS_AT_ONCE):
                if isinstance(data, Exception):
                    raise data
                yield data

    @override
    def forget_rows(self, stop: int) -> None:
        """Do nothing: all objects of the journal are removed together, at the commit."""

"""The listing of a source's files, one task a file: many at a time, and kept for a conversion that goes on.

A listing is what one file says of its samples: compact columns of a row a sample, and a few facts. It depends
on the file alone. So files are listed in threads or processes, and in any order.
"""

from __future__ import annotations

import hashlib
import io
import json
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tokenstore.errors import DamageError
from tokenstore.parquet_pages import open_parquet
from tokenstore.sources.arrow_types import READ_ERRORS
from tokenstore.sources.files import SourceFile
from tokenstore.sources.folder_listings import FolderListings
from tokenstore.storage import Storage
from tokenstore.version import __version__

__all__ = ["FileListing", "ListingTask", "SavedListings", "list_files"]

_ROWS_FOR_PROCESSES = 50_000
"""The expected rows, about 50 us each, from which on processes list faster than it takes to start them."""
_THREADS = 16
"""The remote files that are listed at a time: each waits for its storage most of the time."""
_ROWS_A_FILE = 100_000
"""The rows that are saved together."""
_FEWEST_ROWS = 10_000
"""The rows of local files from which on a listing is saved: fewer are listed again in a second."""
_FACTS = b"tokenstore.listings"


@dataclass(frozen=True)
class FileListing:
    """The samples of one file."""

    table: pa.Table
    """The columns of a row a sample."""
    facts: dict[str, Any]
    """The rest, as JSON values."""


class ListingTask(Protocol):
    """The way to list one file; it can be pickled, and its `repr` says which rules it goes by."""

    def __call__(self, file: SourceFile) -> FileListing:
        """List a file; raise SourceError for one that is damaged."""


class SavedListings:
    """The listings of an unfinished conversion, in a folder of its storage.

    A listing is found by its file's place, size and version; folders tell no version, so their listings are
    taken from there only by a conversion that is `resumed`. The name of a file of listings is its digest;
    listings that are not as they were written are made again. `own` is called once, before the first is
    saved: it raises if another process writes there. Without a storage, nothing is saved.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        folder: str = "",
        own: Callable[[], None] = lambda: None,
        *,
        resumed: bool = False,
    ) -> None:
        self._storage, self._folder, self._own = storage, folder, own
        self.folders = FolderListings(None if storage is None else self, trusted=resumed)
        """The listings of folders at URLs."""
        self._saved: dict[str, FileListing] | None = None
        self._waiting: dict[str, FileListing] = {}
        self._is_slow = self._has_saved = False

    def get(self, key: str) -> FileListing | None:
        """Return the listing of a key, or None."""
        if self._saved is None:
            self._saved = self._load()
        return self._saved.get(key)

    def put(self, key: str, listing: FileListing, *, slow: bool) -> None:
        """Save a listing, soon; a `slow` one is worth saving however few rows it has."""
        if self._storage is None:
            return
        self._waiting[key] = listing
        self._is_slow |= slow
        if sum(len(each.table) for each in self._waiting.values()) >= _ROWS_A_FILE:
            self._write()

    def flush(self) -> None:
        """Save what is not yet saved, unless listing it again takes no longer."""
        rows = sum(len(each.table) for each in self._waiting.values())
        if self._waiting and (self._is_slow or rows >= _FEWEST_ROWS):
            self._write()

    def remove(self) -> None:
        """Remove what was saved here."""
        if self._storage is not None and (self._has_saved or self.folders.took_saved):
            self._storage.remove(self._folder)

    def _write(self) -> None:
        if not self._has_saved:
            self._own()
        waiting, self._waiting, self._has_saved = self._waiting, {}, True
        by_columns: dict[tuple[str, ...], dict[str, FileListing]] = {}
        for key, each in waiting.items():
            by_columns.setdefault(tuple(each.table.column_names), {})[key] = each
        for alike in by_columns.values():
            self._write_alike(alike)

    def _write_alike(self, listings: dict[str, FileListing]) -> None:
        """Save listings of the same columns in one file."""
        assert self._storage is not None
        facts = [[key, len(each.table), each.facts] for key, each in listings.items()]
        table = pa.concat_tables([each.table for each in listings.values()])
        data = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()}), data, compression="zstd"
        )
        name = hashlib.sha256(data.getbuffer()).hexdigest()  # Parquet has no checksums of its own
        self._storage.write(f"{self._folder}/{name}.parquet", data.getvalue())

    def _load(self) -> dict[str, FileListing]:
        listings: dict[str, FileListing] = {}
        if self._storage is None:
            return listings
        try:
            names = self._storage.below(self._folder).files()
        except FileNotFoundError:
            return {}
        for name in names:
            try:
                data = self._storage.read(f"{self._folder}/{name}")
                if hashlib.sha256(data).hexdigest() != name.removesuffix(".parquet"):
                    continue
                table = open_parquet(pa.BufferReader(data)).read()
                start = 0
                for key, rows, facts in json.loads(table.schema.metadata[_FACTS]):
                    listing = FileListing(table.slice(start, rows), facts)
                    start += rows
                    listings[key] = max(listings.get(key, listing), listing, key=_saved_at)
            except (*READ_ERRORS, DamageError):
                continue
        return listings


def _saved_at(listing: FileListing) -> float:
    return float(listing.facts.get("saved", 0))


def list_files(
    files: Sequence[SourceFile],
    task: ListingTask,
    saved: SavedListings | None = None,
    *,
    in_processes: bool = True,
) -> Iterator[FileListing]:
    """Yield the listing of each file, in order.

    The first file is listed here. By its rows, the others are listed in processes, unless `in_processes` is
    False since a row takes no time; in threads if they are remote, or here. Listings go to `saved`, and come
    from there for files that are as they were.
    """
    keys = [_key(file, task) if saved is not None else "" for file in files]
    known = {number: saved.get(key) for number, key in enumerate(keys) if saved is not None and key}
    missing = [number for number in range(len(files)) if known.get(number) is None]
    made = _listed([files[number] for number in missing], task, in_processes)
    try:
        for number, file in enumerate(files):
            listing = known.pop(number, None)
            if listing is None:
                listing = next(made)
                if saved is not None and keys[number]:
                    saved.put(keys[number], listing, slow=file.is_remote)
            yield listing
    finally:
        made.close()
        if saved is not None:
            saved.flush()


def _key(file: SourceFile, task: ListingTask) -> str:
    """Return what identifies the listing of a file as it is now; "" where its version is not known."""
    if not file.version:
        return ""
    facts = __version__, repr(task), file.key, file.nbytes, file.version
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _listed(files: Sequence[SourceFile], task: ListingTask, in_processes: bool) -> Generator[FileListing]:
    """Yield the listing of each file, in order, with as many workers as it is worth."""
    if not files:
        return
    first = task(files[0])
    yield first
    others = files[1:]
    remote = files[0].is_remote
    is_long = in_processes and len(first.table) * len(others) >= _ROWS_FOR_PROCESSES
    workers = _processes(len(others)) if is_long else 1
    if workers > 1:
        yield from _in_order(_processes_for(workers), workers, others, task)
    elif remote and others:
        yield from _in_order(ThreadPoolExecutor(_THREADS, "tokenstore-listing"), _THREADS, others, task)
    else:
        yield from map(task, others)


def _in_order(
    executor: Executor, workers: int, files: Sequence[SourceFile], task: ListingTask
) -> Iterator[FileListing]:
    """Yield the listing of each file, in order; so many as keep the workers busy wait for the caller.

    Nobody waits for listings that are under way when an error, or Ctrl-C, ends it.
    """
    from tokenstore.sources.decode_processes import interrupts_held

    running: deque[tuple[SourceFile, Future[FileListing]]] = deque()
    waiting, file = iter(files), files[0]
    try:
        while True:
            for each in islice(waiting, 2 * workers - len(running)):
                with interrupts_held():  # a process starts with a task
                    running.append((each, executor.submit(task, each)))
            if not running:
                return
            file, future = running.popleft()
            yield future.result()
    except BrokenProcessPool:  # out of memory, or a script that a process must not begin again
        yield task(file)
        yield from (task(each) for each, _ in running)
        yield from (task(each) for each in waiting)
    except BaseException:
        if isinstance(executor, _Processes):
            executor.terminate()
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _processes(files: int) -> int:
    from tokenstore.machine import available_cores  # imports numba

    return min(files, available_cores())


def _processes_for(workers: int) -> Executor:
    return _Processes(workers)


class _Processes(ProcessPoolExecutor):
    """Processes that can be ended while they are listing files."""

    def __init__(self, workers: int) -> None:
        from tokenstore.sources.decode_processes import EndableContext  # imports the decoders of images

        self._context = EndableContext()
        super().__init__(workers, mp_context=self._context, initializer=_leave_interrupts)

    def terminate(self) -> None:
        """End all processes at once."""
        self._context.terminate()


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the parent of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

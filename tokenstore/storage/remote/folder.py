"""The files below a URL on object storage or a web server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from tokenstore.errors import DamageError, StorageError
from tokenstore.storage.base import Range, Storage, too_long
from tokenstore.storage.redaction import Secrets, public_url
from tokenstore.storage.remote.access import Files
from tokenstore.storage.remote.connection import ClosedError, Connection
from tokenstore.storage.remote.entries import Entry, Page, plain_version
from tokenstore.storage.remote.faults import (
    LongAnswerError,
    ReplacedError,
    ShortAnswerError,
    is_past_end,
    is_taken,
)
from tokenstore.storage.remote.retries import Retries
from tokenstore.storage.remote.retrying import retried

__all__ = ["RemoteFolder"]

_BLOCK_NBYTES = (2**18, 2**23)
"""The bytes of the first request for a whole file, and of each further one."""
_T = TypeVar("_T")

_inherited: list[Connection] = []
"""Connections of the process that this one was forked from: freeing one could write to its sockets."""


class RemoteFolder(Storage):
    """The files below an fsspec URL.

    No message shows a value of `storage_options`, nor a URL's password or query. Raises StoreError for a kind
    of storage that is not known, or options that do not fit it.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.url = public_url(url)
        self.storage_options = dict(storage_options or {})
        self.retries = retries or Retries()
        self._true_url = url
        self._secrets = Secrets(url, self.storage_options)
        self._connections: dict[int, Connection] = {}
        """The connection of each process, by its id: of this one, and of those it was forked from."""
        self._closing = weakref.finalize(self, _close, self._connections)
        _ = self._connection

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._true_url, self.storage_options, self.retries)

    @property
    def _connection(self) -> Connection:
        """The connection of this process, opened on first use."""
        # subtle: no lock here, since a fork could happen while another thread holds it
        connection = self._connections.get(os.getpid())
        if connection is None:
            opened = Connection(self._true_url, self.storage_options, self.retries)
            connection = self._connections.setdefault(opened.pid, opened)
            if connection is not opened:
                opened.close()
        return connection

    @override
    def below(self, folder: str) -> Storage:
        base, mark, query = self._true_url.partition("?")
        url = f"{base.rstrip('/')}/{folder}{mark}{query}"
        return RemoteFolder(url, self.storage_options, self.retries)

    def _run(self, coroutine: Callable[[Connection], Coroutine[Any, Any, _T]]) -> _T:
        connection = self._connection
        with self._closing_told():
            return connection.run(coroutine(connection))

    @contextlib.contextmanager
    def _closing_told(self) -> Iterator[None]:
        """Raise StorageError for a connection that closes as the process ends."""
        try:
            yield
        except ClosedError:
            raise StorageError(f"{self.url}: not read, for the process is about to end") from None

    async def _retried(
        self,
        connection: Connection,
        path: str,
        attempt: Callable[[Files, str], Coroutine[Any, Any, _T]],
        *,
        nbytes: int = 0,
        long: bool = False,
    ) -> _T:
        key = connection.files.key(connection.prefix, path)
        where = f"{self.url.rstrip('/')}/{path}" if path else self.url
        return await retried(
            lambda: attempt(connection.files, key),
            self.retries,
            where,
            self._secrets,
            connection.jitter,
            nbytes=nbytes,
            long=long,
        )

    @property
    @override
    def changes(self) -> int:
        return self._connection.files.changes

    @override
    def read(self, path: str, limit: int | None = None) -> bytes:
        return self._run(lambda connection: self._read(connection, path, limit))

    async def _read(self, connection: Connection, path: str, limit: int | None) -> bytes:
        end = sys.maxsize if limit is None else limit + 1
        first, others = _BLOCK_NBYTES
        blocks: list[bytes] = []
        start, stop = 0, min(first, end)
        while sum(map(len, blocks)) == start < end:
            attempt = partial(_block, start=start, stop=stop)
            blocks.append(await self._retried(connection, path, attempt, nbytes=stop - start))
            start, stop = stop, min(stop + others, end)
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        if limit is not None and len(data) > limit:
            raise too_long(f"{self.url.rstrip('/')}/{path}", limit)
        return data

    @override
    def read_files(
        self, paths: Sequence[str], limit: int | None = None, concurrency: int = 16
    ) -> list[bytes | FileNotFoundError | DamageError]:
        async def read_one(connection: Connection, path: str) -> bytes | FileNotFoundError | DamageError:
            try:
                return await self._read(connection, path, limit)
            except (FileNotFoundError, DamageError) as error:
                return error

        return self._run_many([partial(read_one, path=path) for path in paths], concurrency)

    @override
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self._run(lambda connection: self._read_range(connection, path, start, stop))

    async def _read_range(
        self, connection: Connection, path: str, start: int, stop: int, version: str = ""
    ) -> bytes:
        if start == stop:
            return b""
        attempt = partial(_exactly, start=int(start), stop=int(stop), version=version)
        return await self._retried(connection, path, attempt, nbytes=stop - start)

    @override
    def read_ranges(
        self, requests: Sequence[Range], concurrency: int = 16, *, version: str = ""
    ) -> list[bytes]:
        """Return the bytes of many ranges, `concurrency` of them read at a time.

        Raises ReplacedError for an answer that tells another version of its file than `version`.
        """
        jobs = [
            partial(self._read_range, path=path, start=start, stop=stop, version=version)
            for path, start, stop in requests
        ]
        return self._run_many(jobs, concurrency)

    @override
    def ranges_in_turn(
        self, requests: Iterable[Range], concurrency: int = 16
    ) -> Generator[bytes, None, None]:
        connection = self._connection
        under_way: deque[Future[bytes]] = deque()
        try:
            for request in requests:
                if len(under_way) >= concurrency:
                    with self._closing_told():
                        data = connection.result(under_way.popleft())
                    yield data
                with self._closing_told():
                    under_way.append(connection.begin(self._read_range(connection, *request)))
            while under_way:
                with self._closing_told():
                    data = connection.result(under_way.popleft())
                yield data
        finally:
            for future in under_way:
                future.cancel()

    def _run_many(
        self, jobs: Sequence[Callable[[Connection], Coroutine[Any, Any, _T]]], concurrency: int
    ) -> list[_T]:
        """Run many requests, `concurrency` of them at a time, and return their results in order."""

        async def run(connection: Connection) -> list[_T]:
            answers: dict[int, _T] = {}
            waiting = iter(enumerate(jobs))

            async def work() -> None:
                for number, job in waiting:
                    answers[number] = await job(connection)

            workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(jobs)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
            return [answers[number] for number in range(len(jobs))]

        return self._run(run)

    @override
    def size(self, path: str = "") -> int:
        return self._run(
            lambda connection: self._retried(connection, path, lambda files, key: files.size(key))
        )

    def entry(self, path: str) -> Entry:
        """Return a file's size and version; raise FileNotFoundError if no file is at `path`."""
        return self._run(
            lambda connection: self._retried(connection, path, lambda files, key: files.entry(key))
        )

    def entries(self, path: str = "") -> list[Entry]:
        """Return the files and folders directly below a folder, sorted by name; none for a missing folder.

        Raises StorageError for a plain web server, which cannot list its files.
        """
        return sorted(entry for page in self.entry_pages(path) for entry in page)

    def entry_pages(self, path: str = "") -> Iterator[list[Entry]]:
        """Yield the files and folders directly below a folder, a page at a time.

        Raises StorageError for a plain web server, which cannot list its files.
        """
        return self._pages(path, lambda files, key, token: files.page(key, token))

    def _pages(
        self, path: str, ask: Callable[[Files, str, str | None], Coroutine[Any, Any, Page]]
    ) -> Iterator[list[Entry]]:
        async def attempt(files: Files, key: str) -> Page:
            return await ask(files, key, token)

        token: str | None = None
        while True:
            try:
                page = self._run(lambda connection: self._retried(connection, path, attempt, long=True))
            except FileNotFoundError:
                return
            yield page.entries
            if page.token is None:
                return
            token = page.token

    @override
    def exists(self, path: str = "") -> bool:
        return self._run(
            lambda connection: self._retried(connection, path, lambda files, key: files.exists(key))
        )

    @override
    def files(self) -> list[str]:
        return sorted(entry.name for entry in self._tree())

    @override
    def sizes(self) -> dict[str, int]:
        return {entry.name: entry.nbytes for entry in self._tree() if entry.nbytes >= 0}

    def _tree(self) -> Iterator[Entry]:
        """Yield all files below the root, named by their paths."""
        for page in self._pages("", lambda files, key, token: files.tree(key, token)):
            yield from (entry for entry in page if not entry.is_folder)

    @override
    def write(self, path: str, data: bytes) -> None:
        # object storage has no half objects; another kind of storage may show one
        self._write(path, len(data), lambda files, key: files.write(key, data))

    @override
    def create(self, path: str, data: bytes) -> None:
        async def attempt(files: Files, key: str) -> bool:
            # subtle: some kinds of storage ignore the precondition; what is there afterwards decides
            if not await files.exists(key):
                try:
                    await files.create(key, data)
                except Exception as error:
                    if not is_taken(error):
                        raise
            try:
                return await files.read_range(key, 0, len(data) + 1) == data
            except FileNotFoundError:  # another's, which has gone since
                return False

        if not self._written(path, len(data), attempt):
            raise FileExistsError(f"{self.url}/{path}: the file exists")

    @override
    def move_into_place(self, finished: Path, path: str) -> None:
        nbytes = finished.stat().st_size
        self._write(path, nbytes, lambda files, key: files.put(str(finished), key))
        finished.unlink()

    def _write(
        self, path: str, nbytes: int, write: Callable[[Files, str], Coroutine[Any, Any, None]]
    ) -> None:
        async def attempt(files: Files, key: str) -> None:
            await write(files, key)
            actual = await files.size(key)
            if actual != nbytes:
                raise OSError(f"wrote {nbytes} bytes, then found {actual}")

        self._written(path, nbytes, attempt)

    def _written(
        self, path: str, nbytes: int, attempt: Callable[[Files, str], Coroutine[Any, Any, _T]]
    ) -> _T:
        """Run a request that writes, and return its result."""
        with contextlib.suppress(FileNotFoundError):
            return self._run(lambda connection: self._retried(connection, path, attempt, nbytes=nbytes))
        raise StorageError(f"{self.url}/{path}: cannot be written, for there is no such place. Check the URL")

    @override
    def remove(self, path: str = "") -> None:
        async def attempt(files: Files, key: str) -> str | None:
            with contextlib.suppress(FileNotFoundError):
                return await files.remove(key, token)
            return None

        token: str | None = None
        while True:
            token = self._run(lambda connection: self._retried(connection, path, attempt, long=True))
            if token is None:
                return


async def _block(files: Files, key: str, *, start: int, stop: int) -> bytes:
    try:
        return await files.read_range(key, start, stop)
    except Exception as error:
        if is_past_end(error):
            return b""
        raise


async def _exactly(files: Files, key: str, *, start: int, stop: int, version: str) -> bytes:
    try:
        data, answered = await files.read_version(key, start, stop)
    except Exception as error:
        if not is_past_end(error):
            raise
        data, answered = b"", ""
    if version and answered and plain_version(answered) != plain_version(version):
        raise ReplacedError(f"expected version {version}, found {answered}")
    if len(data) > stop - start:
        raise LongAnswerError(f"expected {stop - start} bytes at {start}, found {len(data)}")
    if len(data) < stop - start:
        raise ShortAnswerError(
            f"expected {stop - start} bytes at {start}, found {len(data)}: the file is too short"
        )
    return data


def _close(connections: dict[int, Connection]) -> None:
    for connection in connections.values():
        if connection.pid == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)

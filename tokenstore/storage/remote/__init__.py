"""Files on remote storage: read and written with retries, deadlines and no secrets in errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tokenstore.errors import StorageError
from tokenstore.storage.remote.access import Files
from tokenstore.storage.remote.connection import ClosedError, Connection
from tokenstore.storage.remote.faults import ShortAnswerError, is_past_end
from tokenstore.storage.remote.redaction import Secrets, shown
from tokenstore.storage.remote.retrying import Retries, retried

__all__ = ["Range", "Remote", "Retries"]

_BLOCK_NBYTES = (2**18, 2**23)
"""What a whole file is read by: its first block and the others."""
_T = TypeVar("_T")
Range = tuple[str, int, int]
"""A file's path, the first byte, and the one after the last."""

_inherited: list[Connection] = []
"""Connections of the process that this one was forked from: freeing one could write to its sockets."""


class Remote:
    """Files by their path relative to an fsspec URL; for many threads, and for forked processes too.

    All methods raise StorageError where storage does not answer in time or refuses, and FileNotFoundError.
    No message shows what is in `storage_options`, nor a URL's password or query.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.url = shown(url)
        self.retries = retries or Retries()
        self._true_url = url
        self._options = dict(storage_options or {})
        self._secrets = Secrets(url, self._options)
        self._connections: dict[int, Connection] = {}
        weakref.finalize(self, _close, self._connections)
        _ = self._connection

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    @property
    def _connection(self) -> Connection:
        """This process's connection; without a lock, which a fork could catch in another thread's hands."""
        found = self._connections.get(os.getpid())
        if found is None:
            made = Connection(self._true_url, self._options, self.retries)
            found = self._connections.setdefault(made.pid, made)
            if found is not made:
                made.close()
        return found

    def _run(self, coroutine: Callable[[Connection], Coroutine[Any, Any, _T]]) -> _T:
        connection = self._connection
        with contextlib.suppress(ClosedError):
            return connection.run(coroutine(connection))
        raise StorageError(f"{self.url}: not read, for the process is about to end")

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

    def read(self, path: str) -> bytes:
        """A whole file; a large one in several requests."""

        async def read(connection: Connection) -> bytes:
            first, others = _BLOCK_NBYTES
            blocks: list[bytes] = []
            start, stop = 0, first
            while sum(map(len, blocks)) == start:
                attempt = partial(_block, start=start, stop=stop)
                blocks.append(await self._retried(connection, path, attempt, nbytes=stop - start))
                start, stop = stop, stop + others
            return blocks[0] if len(blocks) == 1 else b"".join(blocks)

        return self._run(read)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file. Raises DamageError where the file ends before."""
        return self._run(lambda connection: self._read_range(connection, path, start, stop))

    async def _read_range(self, connection: Connection, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        attempt = partial(_exactly, start=int(start), stop=int(stop))
        return await self._retried(connection, path, attempt, nbytes=stop - start)

    def read_ranges(self, requests: Sequence[Range], concurrency: int = 16) -> list[bytes]:
        """Bytes of many ranges, `concurrency` at a time; the first error ends them all."""

        async def read(connection: Connection) -> list[bytes]:
            found = [b""] * len(requests)
            waiting = iter(enumerate(requests))

            async def work() -> None:
                for number, (path, start, stop) in waiting:
                    found[number] = await self._read_range(connection, path, start, stop)

            workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(requests)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
            return found

        return self._run(read)

    def size(self, path: str = "") -> int:
        """Bytes of a file."""
        return self._run(
            lambda connection: self._retried(connection, path, lambda files, key: files.size(key))
        )

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder; on a web server, whether it is served."""
        return self._run(
            lambda connection: self._retried(connection, path, lambda files, key: files.exists(key))
        )

    def files(self) -> list[str]:
        """Paths of all files, sorted."""

        async def find(connection: Connection) -> list[str]:
            keys = await self._retried(connection, "", lambda files, key: files.find(key), long=True)
            prefix = connection.prefix.strip("/")
            return sorted(key.strip("/")[len(prefix) :].lstrip("/") for key in keys if not key.endswith("/"))

        return self._run(find)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, which is seen whole or not at all where the storage knows no half objects."""
        self._write(path, len(data), lambda files, key: files.write(key, data))

    def put(self, local_path: str | os.PathLike[str], path: str) -> None:
        """Write a file with what a file of this machine holds."""
        local = os.fspath(local_path)
        nbytes = Path(local).stat().st_size
        self._write(path, nbytes, lambda files, key: files.put(local, key))

    def _write(
        self, path: str, nbytes: int, write: Callable[[Files, str], Coroutine[Any, Any, None]]
    ) -> None:
        async def attempt(files: Files, key: str) -> None:
            await write(files, key)
            found = await files.size(key)
            if found != nbytes:
                raise OSError(f"wrote {nbytes} bytes, then found {found}")

        try:
            self._run(lambda connection: self._retried(connection, path, attempt, nbytes=nbytes))
        except FileNotFoundError:
            missing = True
        else:
            missing = False
        if missing:
            raise StorageError(
                f"{self.url}/{path}: cannot be written, for there is no such place. Check the URL"
            )

    def remove(self, path: str = "") -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none."""

        async def attempt(files: Files, key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                await files.remove(key)

        self._run(lambda connection: self._retried(connection, path, attempt, long=True))


async def _block(files: Files, key: str, *, start: int, stop: int) -> bytes:
    try:
        return await files.read_range(key, start, stop)
    except Exception as error:
        if is_past_end(error):
            return b""
        raise


async def _exactly(files: Files, key: str, *, start: int, stop: int) -> bytes:
    data = await _block(files, key, start=start, stop=stop)
    if len(data) != stop - start:
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

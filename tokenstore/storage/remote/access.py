"""Single requests to a file system: fsspec's async ones, and its blocking ones in threads.

Nothing is tried twice here. All methods raise whatever their library raises, and
`tokenstore.storage.remote.faults` knows what it means. A *key* is the file system's own name for a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from typing_extensions import override

from tokenstore.storage.remote.entries import Entry, Page, entries_of, entry_of, tree_entries


class Files(Protocol):
    """The requests that every kind of remote storage is asked for."""

    changes: int = 0
    """The number of answers that may have come from another version of their file than the answer before."""

    def key(self, prefix: str, path: str) -> str:
        """Return the key of a file below a prefix."""

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a file; fewer if the file ends before."""

    async def read_version(self, key: str, start: int, stop: int) -> tuple[bytes, str]:
        """Return what `read_range` returns, and the file's version; empty where answers tell none."""

    async def size(self, key: str) -> int:
        """Return a file's size in bytes."""

    async def entry(self, key: str) -> Entry:
        """Return a file's size and version; raise FileNotFoundError for a folder."""

    async def page(self, prefix: str, token: str | None) -> Page:
        """Return a part of the files and folders directly below a prefix, in any order.

        Without a token, the part is the first. May raise FileNotFoundError where nothing is there.
        """

    async def exists(self, key: str) -> bool:
        """Return True if the key is a file or a folder."""

    async def tree(self, prefix: str, token: str | None) -> Page:
        """Return a part of the files below a prefix, at any depth and in any order, as `page` does.

        Folders may be among them. A file at the prefix itself has an empty name.
        """

    async def write(self, key: str, data: bytes) -> None:
        """Write a file, replacing one of the same key."""

    async def create(self, key: str, data: bytes) -> None:
        """Write a file unless one of the key exists; raise what the library raises if one does."""

    async def put(self, local_path: str, key: str) -> None:
        """Write a file with the bytes of a local file."""

    async def remove(self, key: str, token: str | None) -> str | None:
        """Remove a file, or a part of the files below a prefix; return the token of the part behind it.

        Without a token, the part is the first; None is returned for the last one. May raise FileNotFoundError
        where nothing is there.
        """

    async def close(self) -> None:
        """Close all sockets and threads."""


class _SlashKeys(Files, Protocol):
    """Keys that are a prefix, a slash and a path, in places whose answers tell no versions."""

    def key(self, prefix: str, path: str) -> str:
        return f"{prefix.rstrip('/')}/{path}" if prefix and path else prefix or path

    async def read_version(self, key: str, start: int, stop: int) -> tuple[bytes, str]:
        return await self.read_range(key, start, stop), ""


class AsyncFiles(_SlashKeys):
    """Requests to object storage: the coroutines of an fsspec file system."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = await self._fs._cat_file(key, start=start, end=stop)
        return data

    @override
    async def size(self, key: str) -> int:
        return (await self.entry(key)).nbytes

    @override
    async def entry(self, key: str) -> Entry:
        self._fs.invalidate_cache()
        return entry_of(await self._fs._info(key), key)

    @override
    async def page(self, prefix: str, token: str | None) -> Page:
        self._fs.invalidate_cache()
        return Page(entries_of(await self._fs._ls(prefix, detail=True), prefix), None)

    @override
    async def exists(self, key: str) -> bool:
        # subtle: fsspec's own exists() answers no where it meets an error
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            await self._fs._info(key)
            return True
        return False

    @override
    async def tree(self, prefix: str, token: str | None) -> Page:
        self._fs.invalidate_cache()
        return Page(tree_entries(await self._fs._find(prefix, detail=True), prefix), None)

    @override
    async def write(self, key: str, data: bytes) -> None:
        await self._fs._pipe_file(key, data)

    @override
    async def create(self, key: str, data: bytes) -> None:
        await self._fs._pipe_file(key, data, mode="create")

    @override
    async def put(self, local_path: str, key: str) -> None:
        await self._fs._put_file(local_path, key)

    @override
    async def remove(self, key: str, token: str | None) -> str | None:
        # subtle: fsspec's own rm() starts tasks that live on when it is cancelled
        keys = await self._find(key)
        for one in keys:
            await self._fs._rm_file(one)
        if left := await self._find(key):
            raise OSError(f"{len(left)} of {len(keys)} files were not removed")
        return None

    async def _find(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        return list(await self._fs._find(prefix))

    @override
    async def close(self) -> None:
        for session in (getattr(self._fs, "_s3", None), getattr(self._fs, "_session", None)):
            if session is not None:
                closing = session.close()
                if inspect.isawaitable(closing):
                    await closing


class ThreadedFiles(_SlashKeys):
    """Requests to an fsspec file system whose calls block; `threads` of them run at a time."""

    def __init__(self, fs: Any, threads: int) -> None:
        self._fs = fs
        self._threads = ThreadPoolExecutor(threads, "tokenstore-remote")

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **options))

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = await self._call(self._fs.cat_file, key, start=start, end=stop)
        return data

    @override
    async def size(self, key: str) -> int:
        return (await self.entry(key)).nbytes

    @override
    async def entry(self, key: str) -> Entry:
        return entry_of(await self._info(key), key)

    @override
    async def page(self, prefix: str, token: str | None) -> Page:
        self._fs.invalidate_cache()
        return Page(entries_of(await self._call(self._fs.ls, prefix, detail=True), prefix), None)

    @override
    async def exists(self, key: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            await self._info(key)
            return True
        return False

    async def _info(self, key: str) -> Any:
        self._fs.invalidate_cache()
        return await self._call(self._fs.info, key)

    @override
    async def tree(self, prefix: str, token: str | None) -> Page:
        self._fs.invalidate_cache()
        return Page(tree_entries(await self._call(self._fs.find, prefix, detail=True), prefix), None)

    @override
    async def write(self, key: str, data: bytes) -> None:
        await self._make_parent(key)
        await self._call(self._fs.pipe_file, key, data)

    @override
    async def create(self, key: str, data: bytes) -> None:
        await self._make_parent(key)
        await self._call(self._fs.pipe_file, key, data, mode="create")

    @override
    async def put(self, local_path: str, key: str) -> None:
        await self._make_parent(key)
        await self._call(self._fs.put_file, local_path, key)

    async def _make_parent(self, key: str) -> None:
        with contextlib.suppress(NotImplementedError):
            await self._call(self._fs.makedirs, key.rpartition("/")[0], exist_ok=True)

    @override
    async def remove(self, key: str, token: str | None) -> str | None:
        await self._call(self._fs.rm, key, recursive=True)
        return None

    @override
    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

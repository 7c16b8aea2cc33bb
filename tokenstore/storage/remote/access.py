"""Requests to one file system, each once: fsspec's async ones, its others in threads, and plain web servers.

All raise whatever their library raises; `tokenstore.storage.remote.faults` knows what it means. Keys are the
file system's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from tokenstore.storage.remote.faults import AnswerError, UnsupportedError

_KEYS_AT_ONCE = 1000
"""Objects that S3 removes in one request."""
_NOT_SERVED = frozenset({401, 403, 404, 410})


class Files(Protocol):
    """What every kind of storage can do."""

    def key(self, prefix: str, path: str) -> str:
        """The key of a file below a prefix."""

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, fewer where it ends before."""

    async def size(self, key: str) -> int: ...

    async def exists(self, key: str) -> bool:
        """Whether there is a file, or a folder."""

    async def find(self, prefix: str) -> list[str]:
        """Keys of all files below a prefix."""

    async def write(self, key: str, data: bytes) -> None: ...

    async def put(self, local_path: str, key: str) -> None:
        """Write a file of this machine."""

    async def remove(self, key: str) -> None:
        """Remove a file or all files below a prefix; FileNotFoundError where there is none, at will."""

    async def close(self) -> None: ...


class _Keyed:
    def key(self, prefix: str, path: str) -> str:
        return f"{prefix.rstrip('/')}/{path}" if prefix and path else prefix or path


class AsyncFiles(_Keyed):
    """Object storage: an fsspec file system whose own coroutines are run."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = await self._fs._cat_file(key, start=start, end=stop)
        return data

    async def size(self, key: str) -> int:
        self._fs.invalidate_cache()
        return _file_size(await self._fs._info(key), key)

    async def exists(self, key: str) -> bool:
        # subtle: fsspec's own exists() takes many an error for a no
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            await self._fs._info(key)
            return True
        return False

    async def find(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        return list(await self._fs._find(prefix))

    async def write(self, key: str, data: bytes) -> None:
        await self._fs._pipe_file(key, data)

    async def put(self, local_path: str, key: str) -> None:
        await self._fs._put_file(local_path, key)

    async def remove(self, key: str) -> None:
        # subtle: fsspec's own rm() starts tasks that live on when it is cancelled, and S3's hides errors
        keys = await self.find(key)
        remove_many = getattr(self._fs, "_bulk_delete", None)
        if remove_many is not None:
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                await remove_many(keys[start : start + _KEYS_AT_ONCE])
        else:
            for found in keys:
                await self._fs._rm_file(found)
        if left := await self.find(key):
            raise OSError(f"{len(left)} of {len(keys)} files were not removed")

    async def close(self) -> None:
        for session in (getattr(self._fs, "_s3", None), getattr(self._fs, "_session", None)):
            if session is not None:
                closing = session.close()
                if inspect.isawaitable(closing):
                    await closing


class ThreadedFiles(_Keyed):
    """An fsspec file system that blocks; `threads` calls of it at a time."""

    def __init__(self, fs: Any, threads: int) -> None:
        self._fs = fs
        self._threads = ThreadPoolExecutor(threads, "tokenstore-remote")

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **options))

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = await self._call(self._fs.cat_file, key, start=start, end=stop)
        return data

    async def size(self, key: str) -> int:
        return _file_size(await self._info(key), key)

    async def exists(self, key: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            await self._info(key)
            return True
        return False

    async def _info(self, key: str) -> Any:
        self._fs.invalidate_cache()
        return await self._call(self._fs.info, key)

    async def find(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        return list(await self._call(self._fs.find, prefix))

    async def write(self, key: str, data: bytes) -> None:
        await self._make_parent(key)
        await self._call(self._fs.pipe_file, key, data)

    async def put(self, local_path: str, key: str) -> None:
        await self._make_parent(key)
        await self._call(self._fs.put_file, local_path, key)

    async def _make_parent(self, key: str) -> None:
        with contextlib.suppress(NotImplementedError):
            await self._call(self._fs.makedirs, self._fs._parent(key), exist_ok=True)

    async def remove(self, key: str) -> None:
        await self._call(self._fs.rm, key, recursive=True)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class WebFiles:
    """Files of a plain web server, read by GET requests with a Range; it lists none and takes none."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def key(self, prefix: str, path: str) -> str:
        parts = urlsplit(prefix)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}" if path else parts.path).geturl()

    async def _get(self, key: str, start: int, stop: int) -> Any:
        session = await self._fs.set_session()
        options = dict(self._fs.kwargs)
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        headers["Range"] = f"bytes={start}-{stop - 1}"
        return session.get(self._fs.encode_url(key), headers=headers, **options)

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        async with await self._get(key, start, stop) as answer:
            if answer.status == 200:  # the server ignores Range and sends the whole file
                return await _cut_out(answer, start, stop)
            if answer.status != 206:
                raise AnswerError(answer.status)
            found = answer.headers.get("Content-Range", "")
            if not found.startswith(f"bytes {start}-"):
                raise OSError(f"expected the bytes from {start}, found {found or 'no Content-Range'}")
            data: bytes = await answer.read()
            return data

    async def size(self, key: str) -> int:
        async with await self._get(key, 0, 1) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status in (206, 416) and total.isdigit():
                return int(total)
            if answer.status == 200 and answer.content_length is not None:
                return int(answer.content_length)
            if answer.status in (200, 206):
                raise UnsupportedError("the web server does not tell the size of its files")
            raise AnswerError(answer.status)

    async def exists(self, key: str) -> bool:
        async with await self._get(key, 0, 1) as answer:
            if answer.status >= 400 and answer.status not in _NOT_SERVED | {416}:
                raise AnswerError(answer.status)
            return answer.status not in _NOT_SERVED

    async def find(self, prefix: str) -> list[str]:
        raise UnsupportedError("a plain web server cannot list its files")

    async def write(self, key: str, data: bytes) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    async def put(self, local_path: str, key: str) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    async def remove(self, key: str) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    async def close(self) -> None:
        if self._fs._session is not None:
            await self._fs._session.close()


async def _cut_out(answer: Any, start: int, stop: int) -> bytes:
    found = bytearray()
    position = 0
    async for block in answer.content.iter_any():
        found += block[max(0, start - position) : max(0, stop - position)]
        position += len(block)
        if position >= stop:
            break
    return bytes(found)


def _file_size(info: Any, key: str) -> int:
    if info["type"] == "directory":
        raise FileNotFoundError(key)
    return int(info["size"])

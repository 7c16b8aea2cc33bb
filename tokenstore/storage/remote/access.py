"""Single requests to a file system: fsspec's async ones, its blocking ones in threads, and plain web servers.

Nothing is tried twice here. All methods raise whatever their library raises, and
`tokenstore.storage.remote.faults` knows what it means. A *key* is the file system's own name for a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from typing_extensions import override

from tokenstore.storage.remote.faults import AnswerError, LongAnswerError, UnsupportedError
from tokenstore.storage.remote.versions import Versions

_KEYS_AT_ONCE = 1000
"""The number of objects that S3 removes in one request."""
_NOT_SERVED = frozenset({401, 403, 404, 410})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_NETWORK_OPTIONS = frozenset(
    {
        *("allow_redirects", "connector", "fingerprint", "proxy", "proxy_auth", "proxy_headers", "ssl"),
        *("ssl_context", "timeout", "trust_env", "verify_ssl"),
    }
)
"""The options of requests and sessions that say how to reach hosts, and nothing that only one may know."""
_SIZE = re.compile("[0-9]{1,18}")
_BLOCK_NBYTES = 2**16


class Files(Protocol):
    """The requests that every kind of remote storage is asked for."""

    changes: int = 0
    """The number of answers that may have come from another version of their file than the answer before."""

    def key(self, prefix: str, path: str) -> str:
        """Return the key of a file below a prefix."""

    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a file; fewer if the file ends before."""

    async def size(self, key: str) -> int:
        """Return a file's size in bytes."""

    async def exists(self, key: str) -> bool:
        """Return True if the key is a file or a folder."""

    async def find(self, prefix: str) -> list[str]:
        """Return the keys of all files below a prefix."""

    async def write(self, key: str, data: bytes) -> None:
        """Write a file, replacing one of the same key."""

    async def create(self, key: str, data: bytes) -> None:
        """Write a file unless one of the key exists; raise what the library raises if one does."""

    async def put(self, local_path: str, key: str) -> None:
        """Write a file with the bytes of a local file."""

    async def remove(self, key: str) -> None:
        """Remove a file or all files below a prefix. May raise FileNotFoundError if neither exists."""

    async def close(self) -> None:
        """Close all sockets and threads."""


class _SlashKeys:
    """Keys that are a prefix, a slash and a path."""

    def key(self, prefix: str, path: str) -> str:
        return f"{prefix.rstrip('/')}/{path}" if prefix and path else prefix or path


class AsyncFiles(_SlashKeys, Files):
    """Requests to object storage: the coroutines of an fsspec file system."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        data: bytes = await self._fs._cat_file(key, start=start, end=stop)
        return data

    @override
    async def size(self, key: str) -> int:
        self._fs.invalidate_cache()
        return _file_size(await self._fs._info(key), key)

    @override
    async def exists(self, key: str) -> bool:
        # subtle: fsspec's own exists() answers no where it meets an error
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            await self._fs._info(key)
            return True
        return False

    @override
    async def find(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        return list(await self._fs._find(prefix))

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
    async def remove(self, key: str) -> None:
        # subtle: fsspec's own rm() starts tasks that live on when it is cancelled, and S3's hides errors
        keys = await self.find(key)
        remove_many = getattr(self._fs, "_bulk_delete", None)
        if remove_many is not None:
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                await remove_many(keys[start : start + _KEYS_AT_ONCE])
        else:
            for one in keys:
                await self._fs._rm_file(one)
        if left := await self.find(key):
            raise OSError(f"{len(left)} of {len(keys)} files were not removed")

    @override
    async def close(self) -> None:
        for session in (getattr(self._fs, "_s3", None), getattr(self._fs, "_session", None)):
            if session is not None:
                closing = session.close()
                if inspect.isawaitable(closing):
                    await closing


class ThreadedFiles(_SlashKeys, Files):
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
        return _file_size(await self._info(key), key)

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
    async def find(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        return list(await self._call(self._fs.find, prefix))

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
    async def remove(self, key: str) -> None:
        await self._call(self._fs.rm, key, recursive=True)

    @override
    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class WebFiles(Versions, Files):
    """Requests to a plain web server: GET with a Range. Such a server neither lists files nor takes any."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._elsewhere: Any = None
        self._versions: dict[str, str] = {}

    @override
    def key(self, prefix: str, path: str) -> str:
        parts = urlsplit(prefix)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}" if path else parts.path).geturl()

    @contextlib.asynccontextmanager
    async def _get(self, key: str, start: int, stop: int) -> AsyncIterator[Any]:
        """Request a range, follow redirects, and give the answer, its body unread.

        A redirect to another host gets nothing that was meant for the first: no header, cookie or password.
        """
        session = await self._fs.set_session()
        options = {**self._fs.kwargs, "allow_redirects": False}
        own_headers = options.pop("headers", {})
        url = self._fs.encode_url(key)
        for _ in range(_MOST_REDIRECTS + 1):
            headers = {"Accept-Encoding": "identity", **own_headers, "Range": f"bytes={start}-{stop - 1}"}
            async with session.get(url, headers=headers, **options) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or location is None:
                    yield answer
                    return
            options.pop("params", None)
            before, url = url, url.join(type(url)(location))
            if url.scheme not in ("http", "https"):
                raise UnsupportedError(f"the web server sends its readers on to {url.scheme}://")
            if not _is_same_host(before, url):
                session = self._bare_session()
                own_headers = {}
                options = {name: value for name, value in options.items() if name in _NETWORK_OPTIONS}
        raise UnsupportedError(f"the web server sends its readers on more than {_MOST_REDIRECTS} times")

    def _bare_session(self) -> Any:
        """Return the session for other hosts than the user's: without headers, cookies and passwords."""
        if self._elsewhere is None:
            import aiohttp  # present where fsspec's own file system for the web is

            kept = {
                name: self._fs.client_kwargs[name] for name in _NETWORK_OPTIONS & {*self._fs.client_kwargs}
            }
            if "connector" in kept:
                kept["connector_owner"] = False
            self._elsewhere = aiohttp.ClientSession(**kept, auto_decompress=False)
        return self._elsewhere

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        async with self._get(key, start, stop) as answer:
            if answer.ok:
                self._note_version(key, answer.headers.get("ETag", ""))
            if answer.status == 200:  # the server ignores Range and sends the whole file
                return await _cut_out(_decoded(answer), start, stop)
            if answer.status != 206:
                raise AnswerError(answer.status)
            actual = answer.headers.get("Content-Range", "")
            if not actual.startswith(f"bytes {start}-"):
                raise OSError(f"expected the bytes from {start}, found {actual or 'no Content-Range'}")
            if _coding(answer):
                raise UnsupportedError("the web server compresses parts of its files")
            data = await _cut_out(_decoded(answer), 0, stop - start + 1)
            if len(data) > stop - start:
                raise LongAnswerError(f"expected {stop - start} bytes at {start}, found more")
            return data

    @override
    async def size(self, key: str) -> int:
        async with self._get(key, 0, 1) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status in (206, 416) and _SIZE.fullmatch(total):
                return int(total)
            if answer.status == 200 and answer.content_length is not None and not _coding(answer):
                return int(answer.content_length)
            if answer.status in (200, 206):
                raise UnsupportedError("the web server does not tell the size of its files")
            raise AnswerError(answer.status)

    @override
    async def exists(self, key: str) -> bool:
        async with self._get(key, 0, 1) as answer:
            if answer.status >= 400 and answer.status not in _NOT_SERVED | {416}:
                raise AnswerError(answer.status)
            return answer.status not in _NOT_SERVED

    @override
    async def find(self, prefix: str) -> list[str]:
        raise UnsupportedError("a plain web server cannot list its files")

    @override
    async def write(self, key: str, data: bytes) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    @override
    async def create(self, key: str, data: bytes) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    @override
    async def put(self, local_path: str, key: str) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    @override
    async def remove(self, key: str) -> None:
        raise UnsupportedError("a plain web server can only be read from")

    @override
    async def close(self) -> None:
        for session in (self._fs._session, self._elsewhere):
            if session is not None:
                await session.close()


def _coding(answer: Any) -> str:
    """Return the name of the compression of an answer's body, or "" for none."""
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    return "" if coding == "identity" else str(coding)


async def _decoded(answer: Any) -> AsyncGenerator[bytes, None]:
    """Yield an answer's body, decompressed a little at a time: whoever has enough stops."""
    coding = _coding(answer)
    if coding not in ("", "gzip", "x-gzip"):
        raise UnsupportedError(f"the web server compresses its files by {coding!r}, unasked")
    inflating = zlib.decompressobj(16 + zlib.MAX_WBITS) if coding else None
    async for block in answer.content.iter_any():
        if inflating is None:
            yield block
            continue
        left = block
        try:
            while part := inflating.decompress(left, _BLOCK_NBYTES):
                yield part
                left = inflating.unconsumed_tail
        except zlib.error as error:
            raise OSError(f"an answer that is no gzip: {error}") from error


async def _cut_out(blocks: AsyncGenerator[bytes, None], start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) of a body, and read no further."""
    data = bytearray()
    position = 0
    async with contextlib.aclosing(blocks):
        async for block in blocks:
            data += block[max(0, start - position) : max(0, stop - position)]
            position += len(block)
            if position >= stop:
                break
    return bytes(data)


def _file_size(info: Any, key: str) -> int:
    if info["type"] == "directory":
        raise FileNotFoundError(key)
    return int(info["size"])


def _is_same_host(before: Any, url: Any) -> bool:
    """Return True if a URL has the origin of another, or is the same host's at https instead of http."""
    is_upgrade = (before.scheme, url.scheme) == ("http", "https") and before.host == url.host
    is_plain = before.is_default_port() and url.is_default_port()
    return url.origin() == before.origin() or (is_upgrade and is_plain)

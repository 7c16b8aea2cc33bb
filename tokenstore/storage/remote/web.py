"""Single requests to a plain web server: GET with a Range."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote, urlsplit

from typing_extensions import override

from tokenstore.storage.remote.access import Files
from tokenstore.storage.remote.entries import Entry, Page
from tokenstore.storage.remote.faults import AnswerError, LongAnswerError, UnsupportedError
from tokenstore.storage.remote.versions import Versions

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

            options = {
                name: self._fs.client_kwargs[name] for name in _NETWORK_OPTIONS & {*self._fs.client_kwargs}
            }
            if "connector" in options:
                options["connector_owner"] = False
            self._elsewhere = aiohttp.ClientSession(**options, auto_decompress=False)
        return self._elsewhere

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        return (await self.read_version(key, start, stop))[0]

    @override
    async def read_version(self, key: str, start: int, stop: int) -> tuple[bytes, str]:
        async with self._get(key, start, stop) as answer:
            if answer.ok:
                self._note_version(key, answer.headers.get("ETag", ""))
            if answer.status == 200:  # the server ignores Range and sends the whole file
                return await _cut_out(_decoded(answer), start, stop), _version(answer)
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
            return data, _version(answer)

    @override
    async def size(self, key: str) -> int:
        return (await self.entry(key)).nbytes

    @override
    async def entry(self, key: str) -> Entry:
        async with self._get(key, 0, 1) as answer:
            version = _version(answer)
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status in (206, 416) and _SIZE.fullmatch(total):
                return Entry(key.rpartition("/")[2], False, int(total), version)
            if answer.status == 200 and answer.content_length is not None and not _coding(answer):
                return Entry(key.rpartition("/")[2], False, int(answer.content_length), version)
            if answer.status in (200, 206):
                raise UnsupportedError("the web server does not tell the size of its files")
            raise AnswerError(answer.status)

    @override
    async def page(self, prefix: str, token: str | None) -> Page:
        raise UnsupportedError("a plain web server cannot list its files")

    @override
    async def tree(self, prefix: str, token: str | None) -> Page:
        raise UnsupportedError("a plain web server cannot list its files")

    @override
    async def exists(self, key: str) -> bool:
        async with self._get(key, 0, 1) as answer:
            if answer.status >= 400 and answer.status not in _NOT_SERVED | {416}:
                raise AnswerError(answer.status)
            return answer.status not in _NOT_SERVED

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
    async def remove(self, key: str, token: str | None) -> str | None:
        raise UnsupportedError("a plain web server can only be read from")

    @override
    async def close(self) -> None:
        for session in (self._fs._session, self._elsewhere):
            if session is not None:
                await session.close()


def _version(answer: Any) -> str:
    """Return the version that an answer tells of its file, or ""."""
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified", ""))


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


def _is_same_host(before: Any, url: Any) -> bool:
    """Return True if a URL has the origin of another, or is the same host's at https instead of http."""
    is_upgrade = (before.scheme, url.scheme) == ("http", "https") and before.host == url.host
    is_plain = before.is_default_port() and url.is_default_port()
    return url.origin() == before.origin() or (is_upgrade and is_plain)

"""Web servers that send more than was asked for, without end, compressed, or their readers elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import resource
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from helpers.waiting import HANG
from yarl import URL

import tokenstore
from tokenstore.errors import DamageError, StorageError, TokenstoreError
from tokenstore.storage.remote import RemoteFolder, Retries
from tokenstore.storage.remote.web import _is_same_host

Answer = Callable[[BaseHTTPRequestHandler], None]
HASTY = Retries(deadline=1.5, timeout=0.6, first_delay=0.05)
DATA = bytes(range(256)) * 40


class Servers:
    """Web servers on ports of their own; each answers every request in one way."""

    def __init__(self) -> None:
        self._opened: list[ThreadingHTTPServer] = []

    def serve(self, answer: Answer) -> str:
        """Start a server and return its URL."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    answer(self)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._opened.append(server)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    def close(self) -> None:
        """Stop all servers."""
        for server in self._opened:
            server.shutdown()
            server.server_close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Give a place to start servers, and stop them afterwards."""
    opened = Servers()
    yield opened
    opened.close()


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that takes 100 MB more than the process had at most before, or hangs.

    That a read ends at its deadline is asserted by its error.
    """
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert time.monotonic() - started < HANG


def begin(handler: BaseHTTPRequestHandler, status: int, **headers: Any) -> None:
    """Send a status and headers; underscores in their names stand for hyphens."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def asked_range(handler: BaseHTTPRequestHandler) -> tuple[int, int]:
    first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
    return int(first), int(last) + 1


def ranges(data: bytes) -> Answer:
    """Return the answer of a server that serves one file as it should."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, stop = asked_range(handler)
        part = data[start:stop]
        content_range = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        begin(handler, 206 if part else 416, Content_Range=content_range, Content_Length=len(part))
        handler.wfile.write(part)

    return answer


def without_end(status: int, head: bytes = b"", block: bytes = bytes(2**20), **headers: Any) -> Answer:
    """Return the answer of a server that never stops sending."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, _ = asked_range(handler)
        begin(handler, status, Content_Range=f"bytes {start}-{2**50}/{2**50}", **headers)
        handler.wfile.write(head)
        while True:
            handler.wfile.write(block)

    return answer


def longer(handler: BaseHTTPRequestHandler) -> None:
    """Answer a range with one byte more."""
    start, stop = asked_range(handler)
    begin(handler, 206, Content_Range=f"bytes {start}-{stop}/{2**50}", Content_Length=stop - start + 1)
    handler.wfile.write(bytes(stop - start + 1))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("answer", [longer, without_end(206)], ids=["a byte more", "without end"])
def test_a_part_that_is_longer_than_asked_for_is_not_taken(servers: Servers, answer: Answer) -> None:
    remote = RemoteFolder(servers.serve(answer), retries=HASTY)
    with pytest.raises(DamageError, match="a: expected 1000 bytes at 5, found more"):
        remote.read_range("a", 5, 1005)


@pytest.mark.usefixtures("bounded")
def test_a_whole_file_without_end_is_read_as_far_as_it_is_needed(servers: Servers) -> None:
    remote = RemoteFolder(servers.serve(without_end(200)), retries=HASTY)
    assert remote.read_range("a", 5, 1005) == bytes(1000)
    with pytest.raises(StorageError, match="no answer within"):
        remote.read_range("a", 2**50, 2**50 + 5)


@pytest.mark.usefixtures("bounded")
def test_a_gzip_bomb_is_inflated_as_far_as_it_is_needed(servers: Servers) -> None:
    squeezing = zlib.compressobj(9, wbits=31)
    head = squeezing.compress(bytes(2**20))
    zeros = squeezing.compress(bytes(2**24)) + squeezing.flush(zlib.Z_FULL_FLUSH)
    again = squeezing.compress(bytes(2**24)) + squeezing.flush(zlib.Z_FULL_FLUSH)
    bomb = without_end(200, head + zeros, again * 64, Content_Encoding="gzip")
    remote = RemoteFolder(servers.serve(bomb), retries=HASTY)
    assert remote.read_range("a", 5, 1005) == bytes(1000)
    with pytest.raises(StorageError, match="no answer within"):
        remote.read_range("a", 2**50, 2**50 + 5)


def test_a_whole_file_may_come_as_gzip_and_nothing_else_as_no_other(servers: Servers) -> None:
    def compressed(coding: str, body: bytes) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            begin(handler, 200, Content_Encoding=coding, Content_Length=len(body))
            handler.wfile.write(body)

        return answer

    assert RemoteFolder(servers.serve(compressed("gzip", gzip.compress(DATA)))).read("a") == DATA
    with pytest.raises(StorageError, match="compresses its files by 'br', unasked"):
        RemoteFolder(servers.serve(compressed("br", b"?"))).read("a")
    with pytest.raises(StorageError, match="no gzip"):
        RemoteFolder(servers.serve(compressed("gzip", DATA)), retries=HASTY).read("a")
    with pytest.raises(StorageError, match="compresses parts of its files"):
        RemoteFolder(servers.serve(without_end(206, Content_Encoding="gzip"))).read_range("a", 0, 5)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_host_gets_no_header_cookie_or_password(servers: Servers, status: int) -> None:
    seen: list[dict[str, str]] = []

    def there(handler: BaseHTTPRequestHandler) -> None:
        seen.append({**handler.headers, "path": handler.path})
        ranges(DATA)(handler)

    def here(handler: BaseHTTPRequestHandler) -> None:
        seen.append({**handler.headers, "path": handler.path})
        if handler.path.startswith("/moved"):
            begin(handler, status, Location=f"{elsewhere}/there?own=1", Content_Length=0)
        else:
            begin(handler, status, Location="/moved", Content_Length=0)

    elsewhere = servers.serve(there)
    options = {
        "headers": {"X-Api-Key": "secret-1"},
        "cookies": {"session": "secret-2"},
        "params": {"token": "secret-3"},
        "client_kwargs": {"headers": {"X-Other": "secret-4", "Authorization": "secret-5"}},
    }
    remote = RemoteFolder(f"{servers.serve(here)}/store", options)
    assert remote.read_range("a", 10, 2000) == DATA[10:2000]
    first, second, other = seen
    assert (first["X-Api-Key"], first["X-Other"], first["path"]) == (
        "secret-1",
        "secret-4",
        "/store/a?token=secret-3",
    )
    assert (second["X-Api-Key"], second["path"]) == ("secret-1", "/moved")
    assert "secret" not in str(other)
    assert other["Range"] == "bytes=10-1999"
    assert other["path"] == "/there?own=1"


def test_redirects_end(servers: Servers) -> None:
    def around(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 302, Location="/a", Content_Length=0)

    with pytest.raises(StorageError, match="sends its readers on more than 10 times"):
        RemoteFolder(servers.serve(around)).read("a")

    def to_a_file(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 302, Location="file:///etc/passwd", Content_Length=0)

    with pytest.raises(StorageError, match="sends its readers on to file://"):
        RemoteFolder(servers.serve(to_a_file)).read("a")


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("total", ["1" * 5000, "-1", "x", "9" * 30])
def test_a_size_that_cannot_be_is_refused(servers: Servers, total: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 206, Content_Range=f"bytes 0-0/{total}", Content_Length=1)
        handler.wfile.write(b"x")

    remote = RemoteFolder(servers.serve(answer), retries=HASTY)
    with pytest.raises(StorageError, match="does not tell the size"):
        remote.size("a")
    with pytest.raises(TokenstoreError):
        tokenstore.open(remote.url, retries=HASTY)


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("http://a.example/x", True),
        ("https://a.example/x", True),
        ("https://a.example:8443/x", False),
        ("https://b.example/x", False),
        ("http://a.example:8080/x", False),
    ],
)
def test_headers_go_along_to_the_same_host_at_https_alone(url: str, is_same: bool) -> None:
    assert _is_same_host(URL("http://a.example/data"), URL(url)) is is_same
    assert not _is_same_host(URL("https://a.example/data"), URL("http://a.example/data"))

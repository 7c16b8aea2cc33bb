"""A plain web server as storage: read by ranges, without listing, whether it knows ranges or not."""

from __future__ import annotations

import datetime
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.stores import random_codes, write_store
from helpers.waiting import PATIENT, RESIGNED

import tokenstore
from tokenstore.errors import DamageError, NotAStoreError, StorageError
from tokenstore.storage import open_storage
from tokenstore.storage.remote import RemoteFolder

DATA = bytes(range(256)) * 8


class Server:
    """Files by their path, the requests for them, and how they are answered."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.manner = "ranges"
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(handler.path)
        wanted = handler.headers["Range"]
        self.requests.append((path, wanted))
        data = self.files.get(path)
        if data is None:
            status = {"hidden": 403, "busy": 503}.get(self.manner, 404)
            return self._send(handler, status, b"<html>no such page</html>", {})
        if self.manner == "moved" and not path.startswith("/moved"):
            self.files[f"/moved{path}"] = data
            return self._send(handler, 302, b"", {"Location": f"/moved{handler.path}"})
        if self.manner == "whole":
            return self._send(handler, 200, data, {})
        start, stop = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
        part = data[start : stop + 1]
        if not part:
            return self._send(handler, 416, b"past the end", {"Content-Range": f"bytes */{len(data)}"})
        if self.manner == "elsewhere":
            start += 1
        total = "*" if self.manner == "sizeless" else len(data)
        headers = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{total}"}
        return self._send(handler, 206, part, {} if self.manner == "unsaid" else headers)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if self.manner == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *arguments: object) -> None:
        self._files = server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._files.answer(self)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    yield from served()


def served(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    found = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, found)) as listening:
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        found.url = f"http{'s' * (context is not None)}://127.0.0.1:{listening.server_port}"
        found.files = {"/store/a/data": DATA, "/store/empty": b""}
        threading.Thread(target=listening.serve_forever, args=[0.02], daemon=True).start()
        yield found
        listening.shutdown()


@pytest.mark.parametrize("manner", ["ranges", "whole", "chunked", "moved"])
def test_the_right_bytes_come_however_the_server_sends_them(server: Server, manner: str) -> None:
    server.manner = manner
    remote = RemoteFolder(f"{server.url}/store", retries=PATIENT)
    assert remote.read("a/data") == DATA
    assert remote.read("empty") == b""
    assert remote.read_range("a/data", 100, 2000) == DATA[100:2000]
    assert remote.read_range("a/data", 0, len(DATA)) == DATA
    requests = [("a/data", start, start + 5) for start in range(0, 500, 7)]
    assert remote.read_ranges(requests) == [DATA[start:stop] for _, start, stop in requests]
    if manner != "chunked":
        assert remote.size("a/data") == len(DATA)
        assert remote.size("empty") == 0


@pytest.mark.parametrize("manner", ["ranges", "whole"])
def test_a_file_that_is_too_short_is_damage(server: Server, manner: str) -> None:
    server.manner = manner
    remote = RemoteFolder(f"{server.url}/store", retries=PATIENT)
    for start in (len(DATA) - 5, len(DATA), len(DATA) + 10):
        with pytest.raises(DamageError, match=f"a/data: expected {len(DATA)} bytes at {start}, found [05]:"):
            remote.read_range("a/data", start, start + len(DATA))


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize("manner", ["elsewhere", "unsaid"])
def test_other_bytes_than_were_asked_for_are_not_taken(server: Server, manner: str) -> None:
    server.manner = manner
    with pytest.raises(StorageError, match="the last: expected the bytes from 7, found"):
        RemoteFolder(f"{server.url}/store", retries=RESIGNED).read_range("a/data", 7, 12)


def test_a_file_without_a_size_says_so(server: Server) -> None:
    server.manner = "sizeless"
    remote = RemoteFolder(f"{server.url}/store", retries=PATIENT)
    assert remote.read("a/data") == DATA
    with pytest.raises(StorageError, match="a/data: the web server does not tell the size of its files"):
        remote.size("a/data")


def test_names_are_quoted_and_the_query_is_sent(server: Server) -> None:
    names = ["a b", "50%", "x?y", "ä#1", "a+b&c=d"]
    server.files |= {f"/st ore/{name}?sig=a/b": name.encode() for name in names}
    remote = RemoteFolder(f"{server.url}/st%20ore?sig=a/b", retries=PATIENT)
    for name in names:
        assert remote.read(name) == name.encode()
    assert remote.url == f"{server.url}/st%20ore"
    with pytest.raises(FileNotFoundError) as missing:
        remote.read("c")
    assert str(missing.value) == f"{server.url}/st%20ore/c: no such file"


def test_what_it_cannot_do_is_said(server: Server, tmp_path: Path) -> None:
    remote = RemoteFolder(f"{server.url}/store", retries=PATIENT)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(StorageError, match="store: a plain web server cannot list its files"):
        remote.files()
    for change in (
        lambda: remote.write("x", b""),
        lambda: remote.move_into_place(tmp_path / "x", "x"),
        lambda: remote.remove("x"),
    ):
        with pytest.raises(StorageError, match="store/x: a plain web server can only be read from"):
            change()
    assert server.requests == []


@pytest.mark.usefixtures("no_delays")
def test_what_is_served_exists(server: Server) -> None:
    remote = RemoteFolder(f"{server.url}/store", retries=PATIENT)
    assert [remote.exists(path) for path in ("a/data", "empty", "none")] == [True, True, False]
    server.manner = "hidden"
    assert not remote.exists("none")
    server.manner = "busy"
    with pytest.raises(StorageError, match="the last: 503 Service Unavailable"):
        RemoteFolder(f"{server.url}/store", retries=RESIGNED).exists("none")


def test_a_store_is_opened_and_read_without_a_listing(server: Server, tmp_path: Path) -> None:
    codes = random_codes(20, (4, 4), 391)
    write_store(tmp_path / "s", {"train": (codes,)}, chunk_samples=2, shard_samples=8)
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    server.files = {f"/{path.relative_to(tmp_path)}": path.read_bytes() for path in files}
    store = tokenstore.open(f"{server.url}/s")
    np.testing.assert_array_equal(store["train"].read("tokens", np.arange(20)[::-1]), codes[::-1])
    assert {path for path, _ in server.requests} <= set(server.files)
    with pytest.raises(NotAStoreError, match="nothing: no such file or folder; expected a token store"):
        tokenstore.open(f"{server.url}/nothing")


def test_a_server_that_knows_no_ranges_serves_a_store(
    serve_folder: Callable[[Path], str], tmp_path: Path
) -> None:
    codes = random_codes(20, (4, 4), 391)
    write_store(tmp_path / "s", {"train": (codes,)}, chunk_samples=2, shard_samples=8)
    store = tokenstore.open(f"{serve_folder(tmp_path)}/s")
    np.testing.assert_array_equal(store["train"].read("tokens", [19, 0, 7]), codes[[19, 0, 7]])


def test_blocks_are_a_whole_file(server: Server) -> None:
    assert b"".join(open_storage(f"{server.url}/store").blocks("a/data")) == DATA


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Server]:
    """Serve files with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    yield from served(context)


def test_a_certificate_that_is_not_trusted_is_refused_at_once(
    secure: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tokenstore")
    with pytest.raises(StorageError, match=r"store/empty: .*certificate verify failed"):
        RemoteFolder(f"{secure.url}/store").read("empty")
    assert "attempt 1 failed" not in caplog.text
    assert secure.requests == []
    assert RemoteFolder(f"{secure.url}/store", {"ssl": False}).read("a/data") == DATA

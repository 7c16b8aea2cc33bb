"""The faulty network that other tests rely on: it changes nothing, but for what its plan says."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import fault_proxy, faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Rule
from helpers.http_connection import BLOCK_NBYTES
from helpers.object_storage import S3Server
from helpers.waiting import HANG, wait_until

BODY = bytes(range(256)) * 5000
assert len(BODY) > 2 * BLOCK_NBYTES


class Handler(BaseHTTPRequestHandler):
    """Answers with BODY, and with what it was sent."""

    protocol_version = "HTTP/1.1"
    heard: list[tuple[str, str, bytes]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers["Host"], b""))
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 100_000):
                part = BODY[start : start + 100_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/unbounded":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(BODY)
        else:
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(BODY)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append((self.path, self.headers["Host"], data))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore a reset connection, which is what the tests ask for."""


@pytest.fixture
def upstream() -> Iterator[str]:
    Handler.heard = []
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultProxy]:
    with FaultProxy(upstream) as proxy:
        yield proxy


def connect(url: str, timeout: float = HANG) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout))


def get(url: str, path: str = "/", timeout: float = HANG) -> bytes:
    with connect(url, timeout) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


@pytest.mark.parametrize("path", ["/a%2Fb/./c?x=%20&y", "/chunked", "/unbounded"])
def test_without_a_plan_every_byte_goes_through_and_is_counted(proxy: FaultProxy, path: str) -> None:
    assert get(proxy.url, path) == BODY
    assert Handler.heard == [(path, proxy.url.removeprefix("http://"), b"")]
    (request,) = proxy.requests
    assert (request.method, request.path, request.status, request.range) == ("GET", path, 200, None)
    assert (request.sent, request.received, proxy.sent) == (len(BODY), 0, len(BODY))
    assert (proxy.count(), proxy.count("PUT"), proxy.count("GET", r"^/")) == (1, 0, 1)


def test_one_connection_takes_many_requests_of_all_kinds(proxy: FaultProxy) -> None:
    with connect(proxy.url) as connection:
        connection.connect()
        kept = connection.sock
        for _ in range(3):
            connection.request("GET", "/", headers={"Range": "bytes=0-9"})
            assert connection.getresponse().read() == BODY
            connection.request("HEAD", "/")
            assert connection.getresponse().read() == b""
            connection.request("PUT", "/length", BODY, {"Expect": "100-continue"})
            assert connection.getresponse().read() == b""
            connection.request("PUT", "/chunked", iter([BODY[:5], BODY[5:]]), encode_chunked=True)
            assert connection.getresponse().read() == b""
        assert connection.sock is kept
    assert [request.index for request in proxy.requests] == list(range(12))
    assert proxy.requests[0].range == "bytes=0-9"
    assert proxy.requests[2].received == len(BODY)
    assert [data for path, _, data in Handler.heard if path in ("/length", "/chunked")] == [BODY] * 6


def test_a_rule_names_method_path_first_and_count(proxy: FaultProxy) -> None:
    proxy.clear([Rule(faults.status(503, b"slow down"), "GET", "/x", first=1, count=2)])
    answers = [get(proxy.url, path) for path in ("/x", "/y", "/x1", "/z/x", "/x")]
    assert answers == [BODY, BODY, b"slow down", b"slow down", BODY]
    assert [request.status for request in proxy.requests] == [200, 200, 503, 503, 200]
    assert len(Handler.heard) == 3
    proxy.clear([Rule(faults.status(500))])
    assert [get(proxy.url) for _ in range(3)] == [b""] * 3
    assert proxy.count() == 3


def test_a_plan_can_be_a_function_of_the_request(proxy: FaultProxy) -> None:
    proxy.clear(lambda request: faults.status(404, b"none") if request.index == 1 else None)
    assert [get(proxy.url) for _ in range(3)] == [BODY, b"none", BODY]


def test_a_status_leaves_the_connection_usable(proxy: FaultProxy) -> None:
    proxy.clear([Rule(faults.status(503, b"no"), count=2)])
    with connect(proxy.url) as connection:
        for method, body in (("PUT", BODY), ("HEAD", None), ("GET", None)):
            connection.request(method, "/", body)
            answer = connection.getresponse()
            found = answer.read()
    assert found == BODY


@pytest.mark.parametrize("after", [None, 0, 1, BLOCK_NBYTES, len(BODY) - 1])
def test_a_reset_is_a_reset(proxy: FaultProxy, after: int | None) -> None:
    proxy.clear([Rule(faults.reset(after))])
    with pytest.raises(ConnectionResetError):
        get(proxy.url)
    assert len(Handler.heard) == (after is not None)
    assert proxy.sent == (after or 0)


def test_an_answer_can_be_lost_after_the_server_has_done_its_work(proxy: FaultProxy) -> None:
    proxy.clear([Rule(faults.lose_answer())])
    with connect(proxy.url) as connection:
        connection.request("PUT", "/", b"kept")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
    assert Handler.heard[0][2] == b"kept"


@pytest.mark.parametrize("path", ["/", "/chunked"])
@pytest.mark.parametrize("after", [0, 1, 100_001, len(BODY) - 1])
def test_a_truncated_body_is_shorter_than_was_announced(proxy: FaultProxy, path: str, after: int) -> None:
    proxy.clear([Rule(faults.truncate(after))])
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(proxy.url, path)
    assert cut.value.partial == BODY[:after]


@pytest.mark.parametrize("after", [None, 0, 70_000])
def test_a_stall_ends_only_with_the_client_s_patience(proxy: FaultProxy, after: int | None) -> None:
    proxy.clear([Rule(faults.stall(after))])
    with pytest.raises(TimeoutError):
        get(proxy.url, timeout=0.2)
    assert proxy.sent == (after or 0)


def test_a_proxy_stops_while_requests_stall_or_drip(upstream: str) -> None:
    with FaultProxy(upstream) as proxy, ThreadPoolExecutor() as pool:
        proxy.clear([Rule(faults.stall(), path="/stall"), Rule(faults.drip(1000), path="/drip")])
        asked = [pool.submit(get, proxy.url, path) for path in ("/stall", "/drip")]
        wait_until(lambda: sum(request.fault is not None for request in proxy.requests) == 2)
        proxy.__exit__()
        ends = [future.exception(HANG) for future in asked]
        assert all(isinstance(end, http.client.HTTPException | OSError) for end in ends)


def test_a_drip_takes_its_time_and_latency_comes_on_top(proxy: FaultProxy) -> None:
    started = time.monotonic()
    proxy.clear([Rule(Fault(rate=len(BODY) * 5, latency=0.1))])
    assert get(proxy.url) == BODY
    assert time.monotonic() - started >= 0.25


@pytest.mark.parametrize("offset", [0, BLOCK_NBYTES, len(BODY) - 1])
def test_one_flipped_bit_is_the_only_difference(proxy: FaultProxy, offset: int) -> None:
    proxy.clear([Rule(faults.flip(offset))])
    spoiled = bytearray(BODY)
    spoiled[offset] ^= 1
    assert get(proxy.url) == bytes(spoiled)


def test_latencies_of_concurrent_requests_pass_at_the_same_time(upstream: str) -> None:
    with FaultProxy(upstream, latency=0.2) as proxy, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(get, [proxy.url] * 16)) == [BODY] * 16
        assert 4 <= proxy.most_under_way <= 16


def test_a_signature_stays_valid_behind_a_proxy(s3_server: S3Server) -> None:
    import s3fs

    bucket = s3_server.new_bucket()
    with FaultProxy(s3_server.endpoint) as proxy:
        fs = s3fs.S3FileSystem(**s3_server.storage_options(proxy.url))
        fs.pipe_file(f"{bucket}/a key with + and %", b"data")
        assert fs.cat_file(f"{bucket}/a key with + and %", start=1, end=3) == b"at"
        assert proxy.count("PUT") == 1
        assert [request.range for request in proxy.requests if request.method == "GET"] == ["bytes=1-2"]


def test_it_runs_as_a_program(upstream: str) -> None:
    command = [sys.executable, str(Path(fault_proxy.__file__)), "--upstream", upstream, "--latency", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        started = time.monotonic()
        assert get(url) == BODY
        assert time.monotonic() - started >= 0.1
        process.terminate()


def test_a_missing_server_is_told_at_once() -> None:
    with pytest.raises(ConnectionRefusedError):
        FaultProxy("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="expected an http:// URL"):
        FaultProxy("https://127.0.0.1")

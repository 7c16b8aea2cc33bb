"""A faulty network: an HTTP/1.1 proxy on loopback between a client and an S3 server.

Requests go on byte for byte, the Host header too, so that signatures stay valid; connections are kept alive
on both sides. Alone it is a slow network:

    PYTHONPATH=tests python tests/helpers/fault_proxy.py --upstream http://127.0.0.1:9000 --latency 0.02
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from helpers.faults import Fault, Plan, Planned, Request
from helpers.http_connection import BLOCK_NBYTES, Connection, headers_of

_DRIPS_PER_SECOND = 50
_GATE_SECONDS = 300.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_EXPECT = re.compile(rb"\r\nexpect:[^\r]*", re.IGNORECASE)


class FaultProxy:
    """A proxy before `upstream`, an http:// URL; use as a context manager.

    `latency` seconds are added to every request. Raises OSError where there is no server.
    """

    def __init__(self, upstream: str, latency: float = 0.0, plan: Plan = (), port: int = 0) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"expected an http:// URL, found {upstream}")
        self.latency = latency
        self._upstream = (parts.hostname, parts.port or 80)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._under_way: set[Request] = set()
        socket.create_connection(self._upstream, 5).close()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.clear(plan)

    def clear(self, plan: Plan = ()) -> None:
        """Forget all requests, and go on with another plan."""
        with self._lock:
            self.requests: list[Request] = []
            self.most_under_way = len(self._under_way)
            """The most requests that were under way at one moment."""
            self._planned = Planned(plan)

    def count(self, method: str | None = None, path: str = "") -> int:
        """Return how many requests have the method, and a path that the regular expression is found in."""
        with self._lock:
            return sum(request.matches(method, path) for request in self.requests)

    @property
    def sent(self) -> int:
        """The bytes of bodies sent to the client."""
        with self._lock:
            return sum(request.sent for request in self.requests)

    def __enter__(self) -> FaultProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        _hang_up(self._listener)
        with self._lock:
            for client in self._clients:
                _hang_up(client)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads = [running for running in self._threads if running.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._stopped.is_set():
                    client.close()
                    return
                self._clients.add(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        conversation = _Conversation(self, client, self._upstream, self._stopped)
        try:
            conversation.run()
        except (OSError, threading.BrokenBarrierError):
            pass
        finally:
            with self._lock:
                self._clients.discard(client)
            conversation.close()

    def begin(self, head: bytes) -> Request:
        """Count a request; its fault is the plan's."""
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        with self._lock:
            request = Request(len(self.requests), method, path, headers_of(head).get("range"))
            self.requests.append(request)
            self._under_way.add(request)
            self.most_under_way = max(self.most_under_way, len(self._under_way))
            request.fault = self._planned.fault(request)
        return request

    def end(self, request: Request) -> None:
        """Count a request as answered or lost; called before the last byte, which lets the client go on."""
        with self._lock:
            self._under_way.discard(request)


class _Conversation:
    """A client's connection, and the connection to the server that carries its requests."""

    def __init__(
        self, proxy: FaultProxy, client: socket.socket, upstream: tuple[str, int], stopped: threading.Event
    ) -> None:
        self._proxy = proxy
        self._client = Connection(client)
        self._server: Connection | None = None
        self._upstream = upstream
        self._stopped = stopped

    def run(self) -> None:
        """Answer requests until one side hangs up."""
        going_on = True
        while going_on and (head := self._client.read_head()):
            request = self._proxy.begin(head)
            try:
                going_on = self._answer(request, request.fault or Fault(), head)
            finally:
                self._proxy.end(request)

    def close(self) -> None:
        """Close both connections."""
        self._client.socket.close()
        if self._server is not None:
            self._server.socket.close()

    def _answer(self, request: Request, fault: Fault, head: bytes) -> bool:
        """Answer a request as its fault says; return whether the connection goes on."""
        if fault.gate is not None:
            fault.gate.wait(_GATE_SECONDS)
        self._wait(self._proxy.latency + fault.latency)
        cut_early = fault.cut is not None and fault.after is None
        if cut_early and not fault.forwarded:
            return self._cut(fault)
        headers = headers_of(head)
        if "expect" in headers:
            self._client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = _EXPECT.sub(b"", head)
        body = b"".join(self._client.read_body(headers, framed=True))
        request.received = len(body)
        if fault.status is not None:
            request.status = fault.status
            body = b"" if request.method == "HEAD" else fault.body
            line = f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: {len(body)}\r\n\r\n"
            self._proxy.end(request)
            self._client.socket.sendall(line.encode() + body)
            request.sent = len(body)
            return True
        answer = self._ask(head + body)
        if cut_early:
            return self._cut(fault)
        request.status = int(answer.split(b" ", 2)[1])
        return self._send(request, fault, answer)

    def _ask(self, data: bytes) -> bytes:
        """Return the head of the server's answer; a reused connection may have been closed meanwhile."""
        for kept in (self._server is not None, False):
            if self._server is None:
                self._server = Connection(socket.create_connection(self._upstream))
            with contextlib.suppress(ConnectionError):
                self._server.socket.sendall(data)
                answer = self._server.read_head()
                while answer.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
                    answer = self._server.read_head()
                if answer:
                    return answer
            self._server.socket.close()
            self._server = None
            if not kept:
                break
        raise ConnectionError("the server hung up")

    def _send(self, request: Request, fault: Fault, answer: bytes) -> bool:
        """Send an answer on to the client; return whether both connections can be used again."""
        assert self._server is not None
        headers = headers_of(answer)
        bodiless = request.method == "HEAD" or request.status in (204, 304)
        chunked = "chunked" in headers.get("transfer-encoding", "")
        unsent = answer
        for block in () if bodiless else self._server.read_body(headers, answers=True):
            left = _spoiled(block, request.sent, fault)
            for piece in self._pieces(left, fault):
                framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                if request.sent:
                    self._client.socket.sendall(unsent)
                    unsent = b""
                unsent += framed
                request.sent += len(piece)
            if len(left) < len(block):
                self._client.socket.sendall(unsent)
                return self._cut(fault)
        self._proxy.end(request)
        self._client.socket.sendall(unsent + (b"0\r\n\r\n" if chunked and not bodiless else b""))
        closes = "close" in headers.get("connection", "").lower() or answer.startswith(b"HTTP/1.0")
        return not closes and (bodiless or chunked or "content-length" in headers)

    def _pieces(self, block: bytes, fault: Fault) -> Iterator[bytes]:
        if fault.rate is None:
            yield from (block,) if block else ()
            return
        step = max(1, round(fault.rate / _DRIPS_PER_SECOND))
        for start in range(0, len(block), step):
            self._wait(step / fault.rate)
            yield block[start : start + step]

    def _cut(self, fault: Fault) -> bool:
        if fault.cut == "stall":
            while self._client.socket.recv(BLOCK_NBYTES):  # until the client, or the proxy, hangs up
                pass
        elif fault.cut == "reset":
            self._client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        return False

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._stopped.wait(seconds):
            raise ConnectionError("the proxy was stopped")


def _spoiled(block: bytes, start: int, fault: Fault) -> bytes:
    """Return the part of a block of a body that goes on, `start` bytes of the body having been sent."""
    if fault.flip is not None and start <= fault.flip < start + len(block):
        spoiled = bytearray(block)
        spoiled[fault.flip - start] ^= 1
        block = bytes(spoiled)
    return block if fault.after is None else block[: max(0, fault.after - start)]


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve a slow network before a server, until the process is killed."""
    parser = argparse.ArgumentParser(description="A slow network before a server; its URL is printed.")
    parser.add_argument("--upstream", required=True, help="http:// URL of the server")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    arguments = parser.parse_args()
    with FaultProxy(arguments.upstream, arguments.latency, port=arguments.port) as proxy:
        print(proxy.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()

"""HTTP/1.1 messages out of a socket, for the proxy that hands them on."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

BLOCK_NBYTES = 2**18
_HEADER = re.compile(rb"\r\n(content-length|transfer-encoding|connection|range|expect):[ \t]*([^\r]*)", re.I)


def headers_of(head: bytes) -> dict[str, str]:
    """Return the headers that matter to the proxy, by their names in lower case."""
    return {name.decode().lower(): value.decode("latin-1") for name, value in _HEADER.findall(head)}


class Connection:
    """A socket that HTTP messages are read from."""

    def __init__(self, socket_: socket.socket) -> None:
        self.socket = socket_
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def read_head(self) -> bytes:
        """Read a message's first line and headers with the empty line; b"" if the other side has hung up."""
        return self._read_through(b"\r\n\r\n")

    def read_body(
        self, headers: dict[str, str], *, answers: bool = False, framed: bool = False
    ) -> Iterator[bytes]:
        """Yield the body after a head, in blocks; without its chunks' framing unless `framed`.

        Without a length a request has no body, and an answer ends with the connection.
        """
        if "chunked" in headers.get("transfer-encoding", ""):
            yield from self._chunks(framed)
        elif "content-length" in headers:
            yield from self._blocks(int(headers["content-length"]))
        elif answers:
            while block := self._read_some(BLOCK_NBYTES):
                yield block

    def _chunks(self, framed: bool) -> Iterator[bytes]:
        size = -1
        while size:
            line = self._read_line()
            size = int(line.split(b";")[0], 16)
            if framed:
                yield line
            yield from self._blocks(size)
            # after the last, empty chunk there may be trailers
            while (line := self._read_line()) != b"\r\n":
                if framed:
                    yield line
            if framed:
                yield line

    def _blocks(self, nbytes: int) -> Iterator[bytes]:
        while nbytes:
            block = self._read_some(min(nbytes, BLOCK_NBYTES))
            if not block:
                raise ConnectionError("the connection ended within a message")
            nbytes -= len(block)
            yield block

    def _read_some(self, limit: int) -> bytes:
        if not self._unread:
            return self.socket.recv(limit)
        block, self._unread = self._unread[:limit], self._unread[limit:]
        return block

    def _read_line(self) -> bytes:
        line = self._read_through(b"\r\n")
        if not line:
            raise ConnectionError("the connection ended within a message")
        return line

    def _read_through(self, end: bytes) -> bytes:
        while (found := self._unread.find(end)) < 0:
            block = self.socket.recv(BLOCK_NBYTES)
            if not block:
                return b""
            self._unread += block
        line, self._unread = self._unread[: found + len(end)], self._unread[found + len(end) :]
        return line

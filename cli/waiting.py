"""A line that says that a command works, for as long as nothing else is on the terminal.

Libraries take seconds to load on a busy machine, and so do tokenizers and networks. The line is on stderr,
only if that is a terminal, and goes when anything else is printed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

FIRST_SECONDS = 1.5
"""The seconds of silence before the line is shown."""
_ERASE = "\r\x1b[K"


class _Line:
    """A line that a thread writes each second until `settle` is called."""

    def __init__(self, words: str, stream: TextIO) -> None:
        self._words, self._stream = words, stream
        self._settled = threading.Event()
        self._writing = threading.Lock()
        self._is_shown = False
        threading.Thread(target=self._show, daemon=True).start()

    def settle(self) -> None:
        """Erase the line, and write no more."""
        self._settled.set()
        with self._writing:
            if self._is_shown:
                self._stream.write(_ERASE)
                self._stream.flush()
                self._is_shown = False

    def _show(self) -> None:
        started, pause = time.monotonic(), FIRST_SECONDS
        while not self._settled.wait(pause):
            pause = 1.0
            with self._writing:
                if not self._settled.is_set():
                    # the cursor goes back, for a library may print something itself
                    self._stream.write(f"{_ERASE}{self._words} ... {time.monotonic() - started:.0f} s\r")
                    self._stream.flush()
                    self._is_shown = True


_lines: list[_Line] = []


@contextmanager
def waiting(words: str) -> Iterator[None]:
    """Show that `words` are being done, until something else is printed or the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    line = _Line(words, sys.stderr)
    _lines.append(line)
    try:
        yield
    finally:
        _lines.remove(line)
        line.settle()


def settle() -> None:
    """Erase the line; called before anything else is printed."""
    for line in _lines:
        line.settle()

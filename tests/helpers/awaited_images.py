"""A split whose images are numbers, and a decoder that waits for requests to be read before it decodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.waiting import wait_until
from tokenstore.errors import StorageError


@dataclass(frozen=True)
class NumberRequest:
    """A request for numbers; `folder` has an empty file for each that was read."""

    folder: Path
    start: int
    stop: int
    is_remote: bool = True
    is_shared: bool = False
    fails_at: int | None = None

    def read(self) -> list[bytes]:
        """Return the numbers, and note that they were read; raise StorageError at the one that fails."""
        if self.fails_at in range(self.start, self.stop):
            raise StorageError("no answer within 30 s")
        for number in range(self.start, self.stop):
            (self.folder / f"read-{number}").touch()
        return [b"%d" % number for number in range(self.start, self.stop)]


@dataclass(frozen=True)
class NumberSplit:
    """A split of numbers."""

    folder: Path
    count: int
    fails_at: int | None = None
    is_remote: bool = True

    def __len__(self) -> int:
        return self.count

    def request(self, start: int, stop: int) -> NumberRequest:
        """Return the request for some numbers."""
        return NumberRequest(self.folder, start, stop, self.is_remote, fails_at=self.fails_at)


@dataclass(frozen=True)
class WaitingDecoder:
    """A decoder that decodes a number only when a later one has been read, `ahead` numbers on."""

    folder: Path
    ahead: int
    count: int
    shape: tuple[int, ...] = (1,)
    dtype: Any = np.int64

    def decode(self, data: bytes, out: Any) -> tuple[int, int]:
        """Write the number to `out`."""
        awaited = self.folder / f"read-{min(int(data) + self.ahead, self.count - 1)}"
        wait_until(awaited.exists)
        out[:] = int(data)
        return 1, 1

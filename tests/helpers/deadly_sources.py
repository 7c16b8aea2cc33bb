"""Sources of which one sample kills the process that reads it; light, since decode processes import this."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any


class DeadlySplit:
    """A split like another, of which the sample at `position` kills the process that reads it."""

    def __init__(self, split: Any, position: int) -> None:
        self._split, self._position = split, position

    def __len__(self) -> int:
        return len(self._split)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._split, name)

    def request(self, start: int, stop: int) -> DeadlyRequest:
        return DeadlyRequest(self._split.request(start, stop), self._position - start)


class DeadlyRequest:
    """A request that kills its process before it gives the sample `row`."""

    def __init__(self, request: Any, row: int) -> None:
        self.request, self.row = request, row

    def read(self) -> Iterator[Any]:
        for row, data in enumerate(self.request.read()):
            if row == self.row:
                os.kill(os.getpid(), signal.SIGKILL)
            yield data

"""The threads of PyTorch on a CPU, for as long as a call takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Let torch compute in `count` threads on a CPU until the block ends, then in as many as before.

    With None, the block begins with the threads that torch has. A change inside the block ends with it, too.
    """
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

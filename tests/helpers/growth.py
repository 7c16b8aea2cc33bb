"""The peak of a call's memory: Python's and numpy's, as tracemalloc sees them, and Arrow's."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pyarrow as pa


def peak_nbytes(action: Callable[[], object]) -> int:
    """Return the bytes by which memory grew, at most, while an action ran."""
    gc.collect()
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] + int(pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)

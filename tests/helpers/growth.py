"""The peak of a call's memory: Python's and numpy's, as tracemalloc sees them, and Arrow's."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

_pools: list[pa.MemoryPool] = []
"""The pools of all measurements: Arrow crashes where an array, which some cache keeps, outlives its pool."""


def peak_nbytes(action: Callable[[], object]) -> int:
    """Return the bytes by which memory grew, at most, while an action ran."""
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    _pools.append(pool)
    pa.set_memory_pool(pool)
    start_tracing()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] + int(pool.max_memory() or 0)
    finally:
        stop_tracing()
        pa.set_memory_pool(usual)


def start_tracing() -> None:
    """Start tracemalloc, when no thread is about to end."""
    _let_threads_end()
    tracemalloc.start()


def stop_tracing() -> None:
    """Stop tracemalloc, when no thread is about to end."""
    _let_threads_end()
    tracemalloc.stop()


def _let_threads_end() -> None:
    """Collect executors that nobody has any more, and wait until their threads are gone, for two seconds.

    subtle: Python 3.11 exchanges its allocator's functions one after another, and a thread that begins or
    ends calls them without the GIL. It crashed there once in some thousand tests. Threads of executors are no
    daemons; where there is none, there is nothing to collect, which takes a tenth of a second.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        gc.collect()
    threads = -1
    for _ in range(100):
        before, threads = threads, _native_threads()
        if before == threads:
            return
        time.sleep(0.02)


def _native_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()

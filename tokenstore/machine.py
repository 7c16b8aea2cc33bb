"""The machine's processor: the cores this process may use, threads and compiled functions for them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, Protocol, TypeVar

__all__ = [
    "at_end",
    "available_cores",
    "closed_at_end",
    "compiled",
    "importing_kernels",
    "in_order",
    "one_blas_thread",
]

_Item = TypeVar("_Item")
_Live = TypeVar("_Live", bound="_Closable")
_Result = TypeVar("_Result")

importing_kernels: Final = threading.RLock()
"""The lock to hold while a function imports a module of kernels on their first use.

Importing numba takes a third of a second, which only a process that decodes should pay. A fork waits for the
lock: a fork amid another thread's import would leave the child waiting for that thread for ever.
"""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing_kernels.acquire,
        after_in_parent=importing_kernels.release,
        after_in_child=importing_kernels.release,
    )


class _Closable(Protocol):
    def close(self) -> object: ...


_live: weakref.WeakKeyDictionary[_Closable, int] = weakref.WeakKeyDictionary()
"""The generators and the like that the end of a process closes, each with the number of its process."""


def at_end(function: Callable[[], object]) -> None:
    """Call `function` when the process ends, before its executors wait for what their threads do."""
    # subtle: executors wait for their threads before atexit's functions run
    getattr(threading, "_register_atexit", atexit.register)(function)


def closed_at_end(live: _Live) -> _Live:
    """Return a generator, or what else can be closed; it is closed at the latest when this process ends.

    So what it has asked threads for is not computed then, and no code of it runs without its modules.
    """
    _close_live_at_end()
    _live[live] = os.getpid()
    return live


@functools.cache
def _close_live_at_end() -> None:
    import concurrent.futures.thread  # noqa: F401  subtle: its own end comes after ours only if it is first

    at_end(_close_live)


def _close_live() -> None:
    for live, process in list(_live.items()):
        if process == os.getpid():
            with contextlib.suppress(ValueError):  # another thread is running the generator
                live.close()


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], jobs: int, ahead: int = 2
) -> Generator[_Result, None, None]:
    """Yield `function(item)` of each item, in their order, computed by `jobs` threads at a time.

    At most `ahead * jobs` items are taken before their results are. One job needs no thread. The first
    error, in the order of the items, is raised; what is under way then ends first.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # not above, for a fast start

    pool = ThreadPoolExecutor(jobs)
    begun: deque[Future[_Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) >= ahead * jobs:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def one_blas_thread() -> Generator[None, None, None]:
    """Have numpy compute products of matrices in the thread that asks, in the whole process, for a while.

    Then their sums do not depend on the number of threads, and callers may compute parts in threads of their
    own. Nested and concurrent uses count: the last that ends restores the threads.
    """
    import threadpoolctl  # not above, for a fast start

    with _blas.lock:
        if not _blas.users:
            _blas.limits = threadpoolctl.threadpool_limits(1, user_api="blas")
        _blas.users += 1
    try:
        yield
    finally:
        with _blas.lock:
            _blas.users -= 1
            if not _blas.users:
                _blas.limits.restore_original_limits()


class _Blas:
    """The present uses of `one_blas_thread`."""

    lock = threading.Lock()
    users = 0
    limits: Any = None
    """The limit on the library's threads, which restores what was before it."""


_blas = _Blas()


def compiled(function: Callable[..., Any], *, fastmath: bool = False) -> Any:
    """Compile a function to run without the GIL, and cache it on disk where a folder for it can be written.

    `fastmath` lets floats be added in any order.
    """
    from numba import njit  # not above, since modules that compile nothing import this one

    _guard_forks()
    to_compiled = functools.partial(njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        return to_compiled(cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return to_compiled()(function)


@functools.cache
def _guard_forks() -> None:
    """Let forks wait for numba's compiler.

    A fork while another thread compiles would leave the child waiting for that thread for ever.
    """
    from numba.core.compiler_lock import global_compiler_lock

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=global_compiler_lock.acquire,
            after_in_parent=global_compiler_lock.release,
            after_in_child=global_compiler_lock.release,
        )

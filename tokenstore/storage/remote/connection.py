"""An open file system of one process, and the event loop that its requests run on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import threading
import weakref
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import fsspec

from tokenstore.errors import StoreError
from tokenstore.machine import at_end
from tokenstore.storage.redaction import Secrets, public_url
from tokenstore.storage.remote.access import AsyncFiles, Files, ThreadedFiles
from tokenstore.storage.remote.retries import Retries
from tokenstore.storage.remote.s3 import S3Files
from tokenstore.storage.remote.web import WebFiles
from tokenstore.version import __version__

_MAX_CONNECTIONS = 64
_CLOSING_SECONDS = 1.0
_T = TypeVar("_T")
_open: weakref.WeakSet[Connection] = weakref.WeakSet()


class ClosedError(Exception):
    """The connection is closed because the process is about to end."""


class Connection:
    """A file system of this process, and its event loop in a thread of its own; a fork must not use it.

    Raises StoreError for a kind of storage that is not known, or options that do not fit it.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any], retries: Retries) -> None:
        self.pid = os.getpid()
        self.files, self.prefix = _opened(url, storage_options, retries)
        self.jitter = random.Random()
        # subtle: an epoll selector would be shared with forked processes, which could unregister sockets
        selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._loop = asyncio.SelectorEventLoop(selector)
        self._thread = threading.Thread(target=self._serve, name="tokenstore-remote", daemon=True)
        self._thread.start()
        _open.add(self)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the loop and return its result; an interrupt cancels it.

        Raises ClosedError where the connection is closed, and what the coroutine raises.
        """
        return self.result(self.begin(coroutine))

    def begin(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin to run a coroutine on the loop; raises ClosedError where the connection is closed."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise ClosedError from None

    def result(self, future: Future[_T]) -> _T:
        """Wait for what was begun and return its result, as `run` does."""
        try:
            return future.result()
        except CancelledError:
            raise ClosedError from None
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel the requests under way and close all sockets."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * _CLOSING_SECONDS)

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.files.close()
                await asyncio.sleep(0)  # subtle: sockets are let go of in the loop's next turn


def _close_all() -> None:
    for connection in list(_open):
        if connection.pid == os.getpid():
            connection.close()


at_end(_close_all)  # a thread may be fetching


def _opened(url: str, storage_options: Mapping[str, Any], retries: Retries) -> tuple[Files, str]:
    protocol = url.split("://", 1)[0] if "://" in url and "::" not in url else ""
    options = dict(storage_options)
    try:
        is_async = bool(protocol) and fsspec.get_filesystem_class(protocol).async_impl
        if protocol in ("s3", "s3a"):
            options["config_kwargs"] = {
                "connect_timeout": retries.timeout,
                "read_timeout": retries.timeout,
                "max_pool_connections": _MAX_CONNECTIONS,
                "retries": {"total_max_attempts": 1},
                "user_agent": f"tokenstore/{__version__}",  # botocore makes its own anew for each request
                **options.get("config_kwargs", {}),
            }
        if protocol in ("http", "https"):
            # subtle: a body of a kilobyte could become a gigabyte before anybody has looked at it
            options["client_kwargs"] = {**options.get("client_kwargs", {}), "auto_decompress": False}
        if is_async:
            options |= {"asynchronous": True, "skip_instance_cache": True}
        fs, prefix = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError, TypeError, KeyError) as error:
        reason = Secrets(url, storage_options).hide(str(error))
    else:
        if not is_async:
            return ThreadedFiles(fs, 16 if protocol in ("hf", "memory") else 1), prefix
        if protocol in ("http", "https"):
            return WebFiles(fs), url
        if protocol in ("s3", "s3a"):
            fs.retries = 1
            return S3Files(fs), prefix
        return AsyncFiles(fs), prefix
    raise StoreError(
        f"{public_url(url)}: this kind of storage cannot be used: {reason} "
        "(the extras tokenstore[s3] and tokenstore[gcs] install two of them)"
    )

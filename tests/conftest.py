"""Fixtures that several test files use; plain helpers are in `helpers/`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import fsspec
import hypothesis
import pytest
from helpers.object_storage import fault_proxy, rados_gateway, s3_server
from helpers.paths import TESTS
from helpers.waiting import MovingClock, SleeplessClock
from helpers.worker_forks import worker_python

_workers: set[int] = set()
"""The process number of this process, if it is a worker of pytest-xdist."""


def _leave_worker() -> None:
    """End a test worker at once: taking the modules of all tests apart takes it seconds."""
    if os.getpid() in _workers:
        os._exit(0)


atexit.register(_leave_worker)  # before all others, which therefore run earlier


def pytest_configure(config: pytest.Config) -> None:
    """Remember whether this process is a test worker; make workers that it starts forks of one process."""
    if hasattr(config, "workerinput"):
        _workers.add(os.getpid())
    elif sys.platform == "linux" and "popen" in (workers := config.getvalue("tx") or []):
        forks = contextlib.ExitStack()
        config.add_cleanup(forks.close)
        forked = f"popen//python={forks.enter_context(worker_python())}"
        config.option.tx = [forked if worker == "popen" else worker for worker in workers]


# Helpers that tests run as programs import one another.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))

# Test processes share the cores: threads of torch would wait for one another, and compute while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A server of the tests on busy cores may be slower than storage that people would wait for.
os.environ.setdefault("TOKENSTORE_STORAGE_DEADLINE", "600")

# A job in a shell's background begins with Ctrl-C ignored, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collections of the millions of objects that imports and syntax trees leave would take a tenth of the time.
gc.set_threshold(100_000, 20, 20)

# Processes of the start method "forkserver" are forks of a process that has imported torch already.
multiprocessing.set_forkserver_preload(["torch", "tokenstore.loading.dataset", "tokenstore.storage.remote"])

# The first call of anything compiled takes longer than the deadline of an example.
hypothesis.settings.register_profile("tokenstore", deadline=None)
hypothesis.settings.load_profile("tokenstore")

__all__ = ["fault_proxy", "rados_gateway", "s3_server"]

_LONGEST = (
    "writing/test_crash.py",
    "seitpp_models/test_network_training.py",
    "loading/test_frameworks.py",
    "cli/test_cli.py",
    "writing/test_recode.py",
    "loading/test_processes.py",
    "storage/test_remote_processes.py",
    "writing/test_remote_writing.py",
    "writing/test_remote_copy.py",
)
"""The test files that take longest. They begin first, so that no process ends long after the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest test files first; the order is otherwise as collected.

    Raises UsageError for a test whose name has an address in it: two workers would name it differently.
    """
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"give these parametrized tests ids: {unstable[0]}")
    places = {TESTS / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Leave the millions of objects of imports and of the collection out of all collections of garbage."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def _without_fsync() -> Iterator[None]:
    """Skip fsync: what tests write need not survive a power cut, and waiting for disks takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def quick_fits() -> Iterator[None]:
    """Fit models of the context codec in few steps, for tests in which their size does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenstore.codecs.context.fitting.LEAST_STEPS", 40)
        patch.setattr("tokenstore.codecs.context.fitting.EPOCHS", 2)
        yield


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without delays; the delays count for the deadline all the same."""
    monkeypatch.setattr("tokenstore.storage.remote.retrying.Clock", SleeplessClock)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once whether a store's owner lives, on a clock that moves without waiting."""
    monkeypatch.setattr("tokenstore.writing.owner.Clock", MovingClock)


class _QuietHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def serve_folder() -> Iterator[Callable[[Path], str]]:
    """Serve folders by a plain web server, which knows no ranges of bytes.

    Gives a function from a folder to its URL.
    """
    servers = []

    def serve(folder: Path) -> str:
        handler = functools.partial(_QuietHandler, directory=str(folder))
        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def memory_url() -> Iterator[str]:
    """Give a memory:// URL where nothing is, and empty it afterwards."""
    url = f"memory://{uuid.uuid4().hex}/store"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture
def brightness_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `brightness`, and `brightness:other` with another fingerprint, as kinds of tokenizers."""
    from helpers.brightness import BrightnessTokenizer

    from tokenstore.tokenizers import registry

    def load(argument: str | None) -> BrightnessTokenizer:
        tokenizer = BrightnessTokenizer()
        if argument is not None:
            tokenizer.fingerprint = "c" * 64  # type: ignore[misc]
        return tokenizer

    module = "tokenstore.tokenizers.kinds.brightness_of_a_test"
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(load=load))  # type: ignore[misc]
    kind = registry.TokenizerKind(module, "", "", "", "", argument="X", argument_is_optional=True)
    monkeypatch.setitem(registry.TOKENIZERS, "brightness", kind)

"""Remote storage in other processes: opened here and used there, and what is left when a process ends."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule
from helpers.object_storage import S3Server
from helpers.waiting import HANG, PATIENT, wait_until

from tokenstore.storage import Storage, open_storage

DATA = np.random.default_rng(0).bytes(100_000)
WHOLE = [("data", start, start + 5000) for start in range(0, 100_000, 5000)]

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="fork is of POSIX"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def storage(s3_server: S3Server) -> Storage:
    """Open a folder of a bucket and read from it."""
    url = f"s3://{s3_server.new_bucket()}/store"
    found = open_storage(url, s3_server.storage_options(), PATIENT)
    found.write("data", DATA)
    assert found.read("data") == DATA
    return found


@pytest.fixture
def readers(storage: Storage) -> Iterator[list[int]]:
    """Read in threads all the while; count how often they read what they should, and how often not."""
    counts = [0, 0]
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            counts[b"".join(storage.read_ranges(WHOLE[:4])) != DATA[:20_000]] += 1

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield counts
    stopped.set()
    for thread in threads:
        thread.join(HANG)
    assert counts[0] > 0
    assert counts[1] == 0


def reads_rightly(storage: Storage) -> None:
    assert b"".join(storage.read_ranges(WHOLE)) == DATA
    assert storage.size("data") == len(DATA)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.thorough), "forkserver"])
def test_another_process_reads_what_was_opened_here(
    storage: Storage, readers: list[int], method: str
) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=reads_rightly, args=(storage,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(HANG)
        assert child.exitcode == 0
    reads_rightly(storage)


def forked(action: str, storage: Storage) -> int:
    """Return the exit code of a child that reads, or drops what it inherited."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            reads_rightly(storage)
            if action == "drop":
                storage._closing()  # as if the last reference was dropped
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("a forked process hangs")


@pytest.mark.parametrize("forks", [2, pytest.param(8, marks=pytest.mark.thorough)])
def test_a_fork_at_any_moment_hangs_neither_process(storage: Storage, readers: list[int], forks: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for number in range(forks):
            before = readers[0]
            assert forked(["read", "drop"][number % 2], storage) == 0
            wait_until(lambda before=before: readers[0] > before)  # type: ignore[misc]


PROGRAM = """
import os, sys, threading, time
from helpers.waiting import wait_until
from tokenstore.storage import Retries, open_storage

url, options, ending = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
storage = open_storage(url, options, Retries(deadline=3600, timeout=3600))
assert len(storage.read_range("data", 0, 9)) == 9
if ending == "dropped":
    del storage
    wait_until(lambda: threading.active_count() == 1)
elif ending == "under way":
    def read():
        try:
            storage.read("stalls")
        except OSError:
            pass
    threading.Thread(target=read, daemon=True).start()
    time.sleep(0.3)
elif ending == "forked":
    if os.fork() == 0:
        assert len(storage.read_range("data", 0, 9)) == 9
        sys.exit()
    os.wait()
    assert len(storage.read_range("data", 0, 9)) == 9
"""


@pytest.mark.parametrize("ending", ["plain", "dropped", "under way", "forked"])
def test_a_process_ends_soon_and_silently(
    storage: Storage, fault_proxy: FaultProxy, s3_server: S3Server, ending: str
) -> None:
    fault_proxy.clear([Rule(faults.stall(), path="stalls")])
    options = repr(s3_server.storage_options(fault_proxy.url))
    quiet = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    # Without a bound of its own: what waited for the storage would wait longer than HANG.
    ended = subprocess.run(
        [sys.executable, *quiet, "-c", PROGRAM, storage.url, options, ending],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert (ended.returncode, ended.stderr) == (0, "")

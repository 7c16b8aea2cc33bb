"""Reading in several processes: forked in the middle, killed, interrupted, or ended before they are done."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Request
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG, wait_until
from numba.core.compiler_lock import global_compiler_lock
from torch.utils.data import DataLoader

from tokenstore import Retries, TokenDataset, TokenLoader
from tokenstore.storage import open_storage

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and forks are of POSIX"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

SAMPLES = 300
CODES = random_codes(SAMPLES, (4, 6), 391)
LABELS = np.arange(SAMPLES, dtype=np.int32)
SHARDS = {"chunk_samples": 4, "shard_samples": 64}
ENDLESS = Retries(deadline=3600, timeout=3600)
"""Retries with which waiting for storage takes longer than HANG, after which a test fails."""
FORK = multiprocessing.get_context("fork") if os.name == "posix" else multiprocessing.get_context()


@pytest.fixture(scope="module", params=["bitpack", "context"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 300 samples whose labels are their row numbers, in 5 shards of 16 chunks of 4."""
    path = tmp_path_factory.mktemp("processes") / "store"
    write_store(path, {"train": (CODES, LABELS)}, codec=request.param, **SHARDS)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes") / "store"
    write_store(path, {"train": (CODES, LABELS)}, **SHARDS)
    return path


@pytest.fixture(scope="module")
def url(s3_server: S3Server) -> str:
    """Write the same store on object storage."""
    url = f"s3://{s3_server.new_bucket()}/store"
    write_store(open_storage(url, s3_server.storage_options()), {"train": (CODES, LABELS)}, **SHARDS)
    return url


def check_epoch(loader: Any) -> None:
    """Check that every sample comes once, with its own codes."""
    seen = []
    for tokens, labels in loader:
        np.testing.assert_array_equal(tokens, CODES[labels])
        seen += labels.tolist()
    assert sorted(seen) == list(range(SAMPLES))


def read_all(dataset: TokenDataset, loader: TokenLoader) -> None:
    """Read in a child what was opened and read in its parent."""
    for sample in range(0, SAMPLES, 37):
        tokens, label = dataset[sample]
        np.testing.assert_array_equal(tokens, CODES[sample])
        assert label == sample
    check_epoch(loader)
    check_epoch(TokenLoader(dataset, 32, shuffle=True, num_threads=2))


@contextlib.contextmanager
def child(action: Callable[..., None], *arguments: Any, context: BaseContext = FORK) -> Iterator[Any]:
    """Run an action in a process, which must end by itself.

    A process that hangs is killed and fails the test.
    """
    process = context.Process(target=action, args=arguments)  # type: ignore[attr-defined]
    process.start()
    try:
        yield process
        process.join(HANG)
        assert process.exitcode is not None, "the process hangs"
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.thorough), "forkserver"])
def test_what_was_opened_and_read_here_is_read_in_another_process(packed: Path, method: str) -> None:
    dataset = TokenDataset(packed)
    assert dataset[5][1] == 5
    loader = TokenLoader(dataset, 8, shuffle=True, num_threads=2)
    batches = iter(loader)
    next(batches)
    loader.set_epoch(1)
    with child(read_all, dataset, loader, context=multiprocessing.get_context(method)) as process:
        assert len(list(batches)) == len(loader) - 1
    assert process.exitcode == 0


def test_a_fork_in_the_middle_of_an_epoch_hangs_neither_process(store: Path) -> None:
    for moment in range(8):
        dataset = TokenDataset(store)
        loader = TokenLoader(dataset, 2, shuffle=True, num_threads=3, prefetch=4)
        reader = threading.Thread(target=check_epoch, args=[loader])
        reader.start()
        time.sleep(0.0015 * moment)
        with child(read_all, dataset, TokenLoader(dataset, 8, num_threads=3)) as process:
            pass
        assert process.exitcode == 0
        reader.join(HANG)
        assert not reader.is_alive()


def test_workers_are_forked_in_the_middle_of_an_epoch(store: Path) -> None:
    dataset = TokenDataset(store)
    for step, (tokens, labels) in enumerate(TokenLoader(dataset, 8, shuffle=True, num_threads=3)):
        np.testing.assert_array_equal(tokens, CODES[labels])
        if step % 9 == 0:
            check_epoch(DataLoader(dataset, 32, num_workers=2, timeout=HANG))


def test_a_process_forked_while_another_thread_compiles_can_compile() -> None:
    compiles = threading.Event()

    def compile_for_a_while() -> None:
        with global_compiler_lock:
            compiles.set()
            time.sleep(0.5)

    thread = threading.Thread(target=compile_for_a_while)
    thread.start()
    compiles.wait(HANG)
    with child(lambda: numba.njit(lambda number: number + 1)(1)) as process:
        process.join(HANG)
        assert process.exitcode == 0
    thread.join()


def go_on(batches: Iterator[Any]) -> None:
    try:
        for _ in batches:
            pass
    except Exception as error:
        sys.exit(7 if "process" in str(error) else 1)


def test_an_iterator_is_not_gone_on_with_in_a_forked_process(packed: Path) -> None:
    """Refuse to continue where the iterator's threads do not exist, rather than wait for them for ever."""
    batches = iter(TokenLoader(TokenDataset(packed), 2, num_threads=2))
    next(batches)
    with child(go_on, batches) as process:
        process.join(HANG)
        assert process.exitcode == 7
    assert len(list(batches)) == SAMPLES // 2 - 1


def kill_worker(at: int, sample: int) -> int:
    if sample == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample


def lose_a_worker(dataset: TokenDataset, options: dict[str, Any]) -> None:
    """Exit with 7 after torch's own error, with 1 after another."""
    try:
        list(DataLoader(dataset, 8, **options))
    except RuntimeError as error:
        sys.exit(7 if re.search(r"DataLoader worker \(pid", str(error)) else 1)


@pytest.mark.parametrize(("sample", "codes"), [(8, {7}), (100, {1, 7})])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_an_error(packed: Path, sample: int, codes: set[int], persistent: bool) -> None:
    """Kill a worker in a process of its own, for torch may raise at any moment.

    If the worker has sent batches before, its loss may show while they are unpacked, which is another error.
    """
    options = {"num_workers": 2, "persistent_workers": persistent}
    dataset = TokenDataset(packed, target_transform=functools.partial(kill_worker, sample))
    with child(lose_a_worker, dataset, options) as process:
        pass
    assert process.exitcode in codes
    check_epoch(DataLoader(TokenDataset(packed), 8, **options))


def read_for_ever(url: str, options: Any, started: Any) -> None:
    while True:
        for _ in TokenLoader(TokenDataset(url, **options), 8, shuffle=True, num_threads=2):
            started.set()


def killing(batches: Iterable[Any], step: int, process: Any) -> Iterator[Any]:
    """Yield the batches; kill a process at one step."""
    for number, batch in enumerate(batches):
        if number == step:
            process.kill()
        yield batch


@pytest.mark.thorough
def test_who_shares_a_cache_with_a_killed_process_reads_on(
    url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    """Give the cache less room than the store takes, so that there is always something to write."""
    limit = 4_000
    options = {"storage_options": s3_server.storage_options(), "retries": ENDLESS}
    options |= {"cache_dir": tmp_path / "cache", "cache_limit": limit}
    for moment in (0, 9, 20):
        started = FORK.Event()
        with child(read_for_ever, url, options, started) as process:
            assert started.wait(HANG)
            loader = TokenLoader(TokenDataset(url, **options), 8, shuffle=True, num_threads=2)
            check_epoch(killing(loader, moment, process))
        assert process.exitcode == -signal.SIGKILL
    entries = [file for file in (tmp_path / "cache" / "entries").rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in entries) <= limit


def read_until_interrupted(dataset: TokenDataset, started: Any) -> None:
    """Read a long epoch and end with exit code 7 when interrupted; set `started` after each batch."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in TokenLoader(dataset.select(np.arange(10**6) % SAMPLES), 4, num_threads=2):
            started.set()
    except KeyboardInterrupt:
        sys.exit(7)


def test_an_interrupt_ends_an_epoch(packed: Path) -> None:
    for moment in range(20):
        started = FORK.Event()
        with child(read_until_interrupted, TokenDataset(packed), started) as process:
            assert started.wait(HANG)
            time.sleep(0.001 * moment)
            os.kill(process.pid, signal.SIGINT)
            process.join(HANG)
            assert process.exitcode == 7


@pytest.fixture
def stalling(url: str, s3_server: S3Server, fault_proxy: FaultProxy) -> dict[str, Any]:
    """Return a TokenDataset's arguments for a store whose second shard never arrives."""

    def plan(request: Request) -> Fault | None:
        is_chunk = "tokens/c/1/" in request.path and (request.range or "").startswith("bytes=0-")
        return faults.stall() if is_chunk else None

    fault_proxy.clear(plan)
    return {"path": url, "storage_options": s3_server.storage_options(fault_proxy.url)}


def wait_for_a_stall(proxy: FaultProxy) -> None:
    wait_until(lambda: any(request.fault for request in proxy.requests))
    time.sleep(0.2)


def test_an_interrupt_ends_an_epoch_whose_storage_stalls(
    stalling: dict[str, Any], fault_proxy: FaultProxy
) -> None:
    started = FORK.Event()
    dataset = TokenDataset(**stalling, retries=ENDLESS)
    with child(read_until_interrupted, dataset, started) as process:
        assert started.wait(HANG)
        wait_for_a_stall(fault_proxy)
        os.kill(process.pid, signal.SIGINT)
        process.join(HANG)
        assert process.exitcode == 7


def leave_a_loop(dataset: TokenDataset, may_leave: Any) -> None:
    for _ in TokenLoader(dataset, 4, num_threads=2):
        may_leave.wait(HANG)
        break
    sys.exit(7)


def test_a_loop_whose_storage_stalls_is_left_at_once(
    stalling: dict[str, Any], fault_proxy: FaultProxy
) -> None:
    may_leave = FORK.Event()
    with child(leave_a_loop, TokenDataset(**stalling, retries=ENDLESS), may_leave) as process:
        wait_for_a_stall(fault_proxy)
        may_leave.set()
        process.join(HANG)
        assert process.exitcode == 7


UNFINISHED = """
import json, sys, time
from tokenstore import Retries, TokenDataset, TokenLoader

unfinished = []
for arguments in json.loads(sys.argv[1]):
    dataset = TokenDataset(**arguments, retries=Retries(deadline=3600, timeout=3600))
    unfinished.append(iter(TokenLoader(dataset, 4, num_threads=2)))
    next(unfinished[-1])
time.sleep(0.3)
"""


@pytest.mark.thorough
def test_a_program_ends_soon_and_silently_with_unfinished_iterators(
    packed: Path, url: str, s3_server: S3Server, stalling: dict[str, Any]
) -> None:
    """Read locally, remotely, and remotely where storage stalls."""
    remote = {"path": url, "storage_options": s3_server.storage_options()}
    arguments = json.dumps([{"path": str(packed)}, remote, stalling])
    quiet = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *quiet, "-c", UNFINISHED, arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


LEAVING = """
import concurrent.futures.thread, sys, threading

ending, second = threading.Event(), threading.Event()
threading._register_atexit(ending.set)  # called before executors wait for their threads

from tokenstore import TokenDataset, TokenLoader

def transform(tokens, labels, *, generator):
    if labels[0]:
        second.set()
        ending.wait()
    print("computed", labels[0].item(), flush=True)
    return tokens

loader = TokenLoader(TokenDataset(sys.argv[1]), 1, num_threads=1, prefetch=8, batch_transform=transform)
sys.batches = iter(loader)  # which goes when Python does
next(sys.batches)
second.wait()
"""


def test_leaving_a_program_amid_an_epoch_computes_nothing_more_and_prints_nothing(packed: Path) -> None:
    command = [sys.executable, "-c", LEAVING, str(packed)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "computed 0\ncomputed 1\n", "")

"""Two processes that write one remote store: one of them writes it whole, the other gets one error."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes
from helpers.waiting import PATIENT, MovingClock, wait_until

from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ConversionError, StoreExistsError, TokenstoreError
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.sources import open_source
from tokenstore.storage import STAGING, Storage, open_storage
from tokenstore.writing import owner
from tokenstore.writing.owner import OWNER, RemoteOwner

OPTIONS = ConvertOptions(chunk_samples=2, shard_samples=4)
REQUESTS = ("read", "write", "create", "move_into_place", "remove", "files")


class StoppedError(Exception):
    """The end of a conversion in these tests."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write two sources of the same sizes, whose codes are of different tokenizers."""
    folder = tmp_path_factory.mktemp("sources")
    for name, seed in (("a", 1), ("b", 2)):
        np.save(folder / f"{name}.npy", random_codes(6, (2, 2), 391, seed))
    return folder / "a.npy", folder / "b.npy"


def converted(source: Path, target: Storage, resume: bool = False) -> None:
    convert_source(open_source(source), target, options=OPTIONS, resume=resume)


def outcome(source: Path, target: Storage, resume: bool = False) -> TokenstoreError | None:
    """Convert, and return the error."""
    try:
        converted(source, target, resume)
    except TokenstoreError as error:
        return error
    return None


def assert_whole(target: Storage, source: Path, *, stopped: bool = False) -> None:
    """Check that a store has the codes of a source.

    Nothing else is there, but for a file in `.partial` if a process was `stopped` just before it wrote that.
    """
    found = verify(target)
    assert found.problems == []
    assert found.notes == [] or (stopped and "1 files of the finished conversion" in found.notes[0])
    store = TokenStore(StoreFiles(target))
    np.testing.assert_array_equal(store[store.splits[0]][:], np.load(source))


def at_request(storage: Storage, number: int, call: Callable[[], object]) -> Callable[[], int]:
    """Make a storage call a function once, before the request of a number; return the count of requests."""
    done = 0

    def counted(name: str) -> Callable[..., object]:
        plain = getattr(storage, name)

        def request(*arguments: object) -> object:
            nonlocal done
            done += 1
            if done == number:
                call()
            return plain(*arguments)

        return request

    for name in REQUESTS:
        setattr(storage, name, counted(name))
    return lambda: done


@pytest.fixture(params=[5, pytest.param(1, marks=pytest.mark.thorough)])
def moments(request: pytest.FixtureRequest, memory_url: str) -> Iterator[tuple[int, str]]:
    """Give the numbers of requests before which a process is stopped, each with a URL where nothing is."""
    return ((number, f"{memory_url}/{number}") for number in itertools.count(1, request.param))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.usefixtures("no_waiting")
def test_of_two_conversions_of_other_inputs_one_wins_whole_at_every_request(
    sources: tuple[Path, Path], moments: Iterator[tuple[int, str]], resume: bool
) -> None:
    for number, url in moments:
        first = open_storage(url)
        errors: list[TokenstoreError | None] = []
        second = partial(outcome, sources[1], open_storage(url), resume)
        count = at_request(first, number, lambda second=second, errors=errors: errors.append(second()))
        errors.append(outcome(sources[0], first, resume))
        assert_whole(open_storage(url), sources[errors[-1] is not None], stopped=resume)
        if number > count():
            break
        # with `resume`, a store that is complete already is no error
        assert sum(error is None for error in errors) in ((1, 2) if resume else (1,)), (number, errors)
    assert number > 20


@pytest.mark.parametrize("number", [9, *(pytest.param(n, marks=pytest.mark.thorough) for n in (2, 3, 16))])
def test_of_two_conversions_to_one_bucket_one_wins_whole(
    sources: tuple[Path, Path], s3_server: S3Server, number: int
) -> None:
    url, options = f"s3://{s3_server.new_bucket()}/a.zarr", s3_server.storage_options()
    first = open_storage(url, options)
    errors: list[TokenstoreError | None] = []
    second = partial(outcome, sources[1], open_storage(url, options))
    at_request(first, number, lambda: errors.append(second()))
    errors.append(outcome(sources[0], first))
    assert sum(error is None for error in errors) == 1
    assert_whole(open_storage(url, options), sources[errors[-1] is not None])


def test_a_living_owner_is_not_taken_over(
    sources: tuple[Path, Path], memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(_Owned(memory_url)) as first:

        class Counting(MovingClock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                first.owner.beat()

        monkeypatch.setattr(owner, "Clock", Counting)
        with pytest.raises(StoreExistsError, match=r"process \d+ on '.*' is writing this store, or"):
            converted(sources[0], open_storage(memory_url))
        with pytest.raises(ConversionError, match=r"another process is writing this store: process \d+ on"):
            converted(sources[0], open_storage(memory_url), resume=True)
        first.owner.check()
    assert first.storage.files() == []
    converted(sources[0], open_storage(memory_url))


class _Owned:
    """The owner of a place, which does nothing there."""

    def __init__(self, url: str) -> None:
        self.storage = open_storage(url)
        self.owner = RemoteOwner(self.storage, False)

    def close(self) -> None:
        self.owner.release()


def test_an_owner_counts_while_it_lives(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.001)
    with contextlib.closing(_Owned(memory_url)) as first:
        (token,) = [path for path in first.storage.files() if path == OWNER]
        wait_until(lambda: len(first.storage.files()) == 2)
        before = [first.storage.read(path) for path in first.storage.files() if path != token]
        wait_until(lambda: [first.storage.read(p) for p in first.storage.files() if p != token] != before)
    assert first.storage.files() == []


@pytest.mark.usefixtures("no_waiting")
def test_whoever_was_stopped_while_another_went_on_writes_no_more(
    sources: tuple[Path, Path], moments: Iterator[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    for number, url in moments:
        first = open_storage(url)
        ended: list[TokenstoreError | None] = []
        second = partial(outcome, sources[0], open_storage(url), True)
        count = at_request(first, number, lambda second=second, ended=ended: ended.append(second()))
        error = outcome(sources[0], first)
        assert_whole(open_storage(url), sources[0], stopped=True)
        if number > count():
            break
        assert ended == [None]
        # the first may have written all that counts before it was stopped
        assert error is None or isinstance(error, (ConversionError, StoreExistsError))
    assert "waiting for 30 s, to see if process" in caplog.text


def test_after_a_clean_end_the_store_is_gone_on_with_at_once(
    sources: tuple[Path, Path], memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    first = open_storage(memory_url)
    at_request(first, 12, stop)
    with pytest.raises(KeyboardInterrupt):
        converted(sources[0], first)
    assert [path for path in open_storage(memory_url).files() if path.startswith(OWNER)] == []
    with pytest.raises(StoreExistsError, match="an unfinished conversion is there"):
        converted(sources[0], open_storage(memory_url))
    monkeypatch.setattr(owner, "Clock", None)  # nobody waits
    converted(sources[0], open_storage(memory_url), resume=True)
    assert_whole(open_storage(memory_url), sources[0])


def test_a_header_alone_is_an_unfinished_conversion_of_a_remote_place(
    sources: tuple[Path, Path], memory_url: str
) -> None:
    def stop() -> None:
        raise StoppedError

    first = open_storage(memory_url)
    first.write(f"{STAGING}/conversion.json", b"{}")
    with pytest.raises(StoreExistsError, match="an unfinished conversion is there"):
        converted(sources[0], first)
    with pytest.raises(ConversionError, match="cannot resume with other inputs"):
        converted(sources[0], first, resume=True)


@pytest.mark.parametrize("place", ["folder", "memory", "s3"])
def test_a_file_is_created_once(
    place: str, tmp_path: Path, memory_url: str, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    urls = {"folder": str(tmp_path / "a"), "memory": memory_url, "s3": f"s3://{s3_server.new_bucket()}/a"}
    there = open_storage(urls[place], s3_server.storage_options() if place == "s3" else None)
    there.create("b/c", b"mine")
    there.create("b/c", b"mine")
    for other in (b"other", b"min", b"mine too", b""):
        with pytest.raises(FileExistsError):
            there.create("b/c", other)
    assert there.read("b/c") == b"mine"
    assert [path for path in there.files() if path != "b/c"] == []
    if place == "s3":
        options = s3_server.storage_options(fault_proxy.url)
        slow = open_storage(urls[place], options, PATIENT)
        for number, fault in enumerate((faults.lose_answer(), faults.status(503, b"slow down"))):
            fault_proxy.clear([Rule(fault, "PUT", count=1)])
            slow.create(f"lost/{number}", b"mine")
            assert any(request.fault for request in fault_proxy.requests)


def test_storage_that_ignores_the_precondition_is_caught(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fsspec.get_filesystem_class("memory").pipe_file

    def ignoring(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        plain(self, path, value)
        if value == b"mine":  # another process writes at the same time
            plain(self, path, b"other")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", ignoring)
    there = open_storage(memory_url)
    with pytest.raises(FileExistsError):
        there.create("a", b"mine")
    with pytest.raises(FileExistsError):
        there.create("a", b"third")
    assert there.read("a") == b"other"

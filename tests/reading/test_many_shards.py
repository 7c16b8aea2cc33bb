"""Stores of more shards than may be mapped, or than files may be open: the same samples, at the same care."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.errors import DamageError, StoreChangedError
from tokenstore.reading import chunk_array, local_shards, sample_array
from tokenstore.storage import mapping
from tokenstore.storage.local import LocalFolder

SAMPLES, SHARD = 60, 4
CODES = random_codes(SAMPLES, (2, 3), 391)
MASKS = np.arange(SAMPLES * 20, dtype=np.int64).reshape(SAMPLES, 20)
LABELS = np.arange(SAMPLES, dtype=np.int32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the same samples with each codec, in 15 shards of two chunks."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("bitpack", "bitpack.zip", "context", "zstd"):
        rows, codec = (CODES, LABELS, {"masks": MASKS}), name.removesuffix(".zip")
        write_store(folder / name, {"train": rows}, codec=codec, chunk_samples=2, shard_samples=SHARD)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "a", {"train": (CODES, LABELS)}, chunk_samples=2, shard_samples=SHARD)
    return tmp_path / "a"


def allow(monkeypatch: pytest.MonkeyPatch, mappings: int) -> deque[None]:
    """Let the process map only so many shards; return an item for each that it may still map."""
    unused: deque[None] = deque([None] * mappings)
    monkeypatch.setattr(mapping, "_unused", unused)
    return unused


@settings(deadline=None, max_examples=15)
@given(
    mappings=st.integers(0, 20),
    codec=st.sampled_from(["bitpack", "bitpack.zip", "context", "zstd"]),
    batches=st.lists(st.lists(st.integers(0, SAMPLES - 1), max_size=30), min_size=1, max_size=4),
)
def test_samples_are_the_same_however_many_shards_stay_mapped(
    stores: dict[str, Path], mappings: int, codec: str, batches: list[list[int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        allow(patch, mappings)
        split = tokenstore.open(stores[codec])["train"]
        for rows in batches:
            for name, values in (("tokens", CODES), ("masks", MASKS), ("labels", LABELS)):
                np.testing.assert_array_equal(split.read(name, rows), values[rows])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors where Linux lists them")
def test_a_mapped_shard_has_no_open_file(store: Path) -> None:
    split = tokenstore.open(store)["train"]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    np.testing.assert_array_equal(split[:], CODES)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert len(split.arrays["tokens"]._shards._mappings) == SAMPLES // SHARD


@pytest.mark.parametrize("mappings", [0, 5, 100])
def test_an_index_is_read_once_and_a_mapped_shard_opened_once(
    store: Path, monkeypatch: pytest.MonkeyPatch, mappings: int
) -> None:
    allow(monkeypatch, mappings)
    indexes, opened = [], []
    decode, open_file = local_shards.sharding.decode_index, LocalFolder.open_file

    def decoded(*arguments: Any) -> Any:
        indexes.append(arguments[-1])
        return decode(*arguments)

    def open_counted(self: LocalFolder, path: str) -> Any:
        opened.append(path)
        return open_file(self, path)

    split = tokenstore.open(store)["train"]
    monkeypatch.setattr(local_shards.sharding, "decode_index", decoded)
    monkeypatch.setattr(LocalFolder, "open_file", open_counted)
    rng = np.random.default_rng(0)
    for _ in range(10):
        split.read("tokens", rng.permutation(SAMPLES))
    shards = SAMPLES // SHARD
    assert len(indexes) == len(set(indexes)) == shards
    assert len(opened) == shards + 9 * max(0, shards - mappings)


def test_mappings_are_given_back_when_the_last_array_of_them_is_gone(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = allow(monkeypatch, 20)
    split = tokenstore.open(store)["train"]
    payload = split.arrays["tokens"]._shards.payload(0)
    split.read("tokens", np.arange(SAMPLES))
    assert len(unused) == 5
    before = payload.tobytes()
    del split
    gc.collect()
    assert len(unused) == 19
    assert payload.tobytes() == before
    del payload
    gc.collect()
    assert len(unused) == 20


def test_a_system_that_maps_no_more_costs_only_time(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = allow(monkeypatch, 20)

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mapping, "_system", refuse)
    np.testing.assert_array_equal(tokenstore.open(store)["train"][:], CODES)
    assert len(unused) == 20


def test_shards_that_are_not_mapped_are_logged_once(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allow(monkeypatch, 2)
    mapping._warn.cache_clear()
    split = tokenstore.open(store)["train"]
    split.read("tokens", [0, SHARD])
    assert not caplog.messages
    np.testing.assert_array_equal(split[:], CODES)
    (message,) = caplog.messages
    assert "raise its vm.max_map_count" in message


@pytest.mark.parametrize(
    ("allowed", "most"), [(65_530, 49_146), (10_000, 5_000), (2**31 - 6, 2**20), (0, 0), ("none", 2**15)]
)
def test_most_mappings_of_the_system_are_for_shards_but_never_gigabytes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int | str, most: int
) -> None:
    setting = tmp_path / "max_map_count"
    setting.write_text(f"{allowed}\n")
    monkeypatch.setattr(mapping, "_MAX_MAP_COUNT", setting)
    assert mapping.most_mappings() == most


@pytest.mark.parametrize("calls_system", [True, False])
@pytest.mark.parametrize("offset", [0, 1, mmap.ALLOCATIONGRANULARITY, mmap.ALLOCATIONGRANULARITY + 7])
def test_any_part_of_a_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, calls_system: bool
) -> None:
    monkeypatch.setattr(mapping, "_CALLS_SYSTEM", calls_system and mapping._CALLS_SYSTEM)
    data = np.random.default_rng(0).integers(0, 256, 3 * mmap.ALLOCATIONGRANULARITY, np.uint8).tobytes()
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        mapped = mapping.map_file(file.fileno(), offset, 5000)
    assert mapped is not None
    assert mapped.tobytes() == data[offset : offset + 5000]
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


@pytest.mark.parametrize("mappings", [0, 1])
def test_a_store_replaced_between_two_reads_of_a_shard_is_noticed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mappings: int
) -> None:
    allow(monkeypatch, mappings)
    write_store(tmp_path / "b", {"train": (CODES[::-1].copy(), LABELS)}, chunk_samples=2, shard_samples=SHARD)
    split = tokenstore.open(store)["train"]
    np.testing.assert_array_equal(split[:], CODES)
    store.rename(tmp_path / "aside")
    (tmp_path / "b").rename(store)
    for row in range(SAMPLES):
        if row < mappings * SHARD:
            np.testing.assert_array_equal(split[row], CODES[row])
        else:
            with pytest.raises(StoreChangedError, match="Open it again"):
                split[row]


@pytest.mark.parametrize("damage", ["changed", "changed in place", "shortened", "removed"])
def test_a_shard_that_is_damaged_between_two_reads_is_noticed(
    store: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    allow(monkeypatch, 0)
    shard = store / "train/tokens/c/3/0/0"
    os.utime(shard, (1, 1))  # older kernels give two changes at once the same time
    split = tokenstore.open(store)["train"]
    np.testing.assert_array_equal(split[:], CODES)
    data = shard.read_bytes()
    if damage != "changed in place":
        shard.unlink()
    if damage != "removed":
        shard.write_bytes(data[:-1] if damage == "shortened" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DamageError, match=r"shard 3 chunk 0|c/3/0/0"):
        split[3 * SHARD]
    np.testing.assert_array_equal(split[2 * SHARD], CODES[2 * SHARD])


@pytest.mark.parametrize("codec", ["bitpack", "bitpack.zip", "context"])
def test_of_a_shard_that_is_not_mapped_a_chunk_is_verified_once_and_then_samples_are_read_alone(
    stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    allow(monkeypatch, 0)
    monkeypatch.setattr(chunk_array, "CACHE_NBYTES", 0)
    monkeypatch.setattr(sample_array, "CACHE_NBYTES", 0)
    verified, read = [], []
    checked, read_into = local_shards.sharding.checked_payload, local_shards.read_into

    def checked_payload(stored: Any) -> Any:
        verified.append(len(stored))
        return checked(stored)

    def read_counted(descriptor: int, start: int, room: memoryview) -> int:
        read.append(len(room))
        return read_into(descriptor, start, room)

    monkeypatch.setattr(local_shards.sharding, "checked_payload", checked_payload)
    monkeypatch.setattr(local_shards, "read_into", read_counted)
    tokens = tokenstore.open(stores[codec])["train"].arrays["tokens"]
    rows = np.random.default_rng(0).permutation(SAMPLES)
    np.testing.assert_array_equal(tokens.read(rows), CODES[rows])
    chunks = SAMPLES // 2
    assert len(verified) == chunks
    read.clear()
    np.testing.assert_array_equal(tokens.read(rows), CODES[rows])
    np.testing.assert_array_equal(tokens.read([7, 7, 5]), CODES[[7, 7, 5]])
    assert len(verified) == chunks
    sample = 7  # 6 codes of 9 bits
    assert read == [sample] * (SAMPLES + 3) if codec.startswith("bitpack") else min(read) > sample


def test_shards_are_mapped_once_that_is_possible(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = allow(monkeypatch, 0)
    tokens = tokenstore.open(store)["train"].arrays["tokens"]
    tokens.read(np.arange(SAMPLES))
    unused.extend([None] * 2)
    for _ in range(2):
        np.testing.assert_array_equal(tokens.read([0, 50, 59, 3]), CODES[[0, 50, 59, 3]])
    assert len(tokens._shards._mappings) == 2
    assert not unused


def test_a_shard_whose_file_may_have_changed_is_verified_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, 0)
    verified = []
    checked = local_shards.sharding.checked_payload
    monkeypatch.setattr(
        local_shards.sharding, "checked_payload", lambda stored: verified.append(1) or checked(stored)
    )
    split = tokenstore.open(store)["train"]
    for changed, expected in ((False, 2), (False, 0), (True, 2), (False, 0)):
        if changed:
            os.utime(store / "train/tokens/c/0/0/0", (1, 1))
        verified.clear()
        np.testing.assert_array_equal(split.read("tokens", [3, 0, 1, 3]), CODES[[3, 0, 1, 3]])
        assert len(verified) == expected


def test_bytes_that_were_read_anew_never_count_as_mapped(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let another thread map the shard just after this one found no mapping and read a chunk of it."""
    unused = allow(monkeypatch, 0)
    tokens = tokenstore.open(store)["train"].arrays["tokens"]
    plain = local_shards.LocalShards._payloads_of
    first = threading.current_thread()

    def map_after(self: Any, shard: int, *arguments: Any) -> Any:
        result = plain(self, shard, *arguments)
        if threading.current_thread() is first:
            unused.append(None)
            other.submit(tokens.read, [0]).result()
        return result

    monkeypatch.setattr(local_shards.LocalShards, "_payloads_of", map_after)
    with ThreadPoolExecutor(1) as other:
        np.testing.assert_array_equal(tokens.read([0, 1]), CODES[:2])
    assert tokens._address[0] == tokens._shards._mappings[0].ctypes.data


def test_reading_in_turn_maps_nothing(stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    unused = allow(monkeypatch, 100)
    for codec, path in stores.items():
        reader = tokenstore.open(path)["train"].arrays["tokens"]
        chunks = [reader.decode_chunk(chunk, payloads) for chunk, payloads in reader.prefetched_chunks()]
        np.testing.assert_array_equal(np.concatenate(chunks), CODES, err_msg=codec)
        np.testing.assert_array_equal(reader.in_memory().read(np.arange(SAMPLES)), CODES)
    assert len(unused) == 100


def test_labels_that_stay_in_memory_take_no_mapping(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = allow(monkeypatch, 100)
    split = tokenstore.open(store)["train"]
    np.testing.assert_array_equal(split.labels, LABELS)
    assert len(unused) == 100

"""Reading under pressure: little memory, few open files, many loaders of one view, damaged caches."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import struct
import sys
import threading
from collections import deque, namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.errors import DamageError
from tokenstore.reading import chunk_array, decoded, fetching, sample_array, shards
from tokenstore.storage import mapping, open_storage
from tokenstore.storage.local import LocalFolder
from tokenstore.storage.remote import RemoteFolder

CODECS = ("bitpack", "context", "zstd")
SAMPLES = 150
CODES = {codec: random_codes(SAMPLES, (4, 6), 391, seed=seed) for seed, codec in enumerate(CODECS)}
LABELS = np.arange(SAMPLES, dtype=np.int32)
Pair = namedtuple("Pair", "tokens labels")


def written(target: Any, codec: str = "bitpack", **spec: Any) -> None:
    """Write 150 samples whose labels are their row numbers."""
    spec = {"chunk_samples": 4, "shard_samples": 16, **spec}
    columns = {"masks": np.tile(LABELS.astype(np.uint8)[:, None], (1, 20))}
    write_store(target, {"train": (CODES[codec], LABELS, columns)}, codec=codec, **spec)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the files of every call that fetches."""
    calls: list[list[str]] = []
    plain = RemoteFolder.read_ranges

    def read_ranges(self: RemoteFolder, ranges: Any, *arguments: Any) -> list[bytes]:
        calls.append([path for path, _, _ in ranges])
        return plain(self, ranges, *arguments)

    monkeypatch.setattr(RemoteFolder, "read_ranges", read_ranges)
    return calls


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep three shards mapped and next to nothing in memory, and let threads take turns all the time."""
    monkeypatch.setattr(mapping, "_unused", deque([None] * 3))
    monkeypatch.setattr(chunk_array, "CACHE_NBYTES", 2000)
    monkeypatch.setattr(sample_array, "CACHE_NBYTES", 2000)
    monkeypatch.setattr(decoded, "IN_MEMORY_NBYTES", 0)
    monkeypatch.setattr(shards, "RUN_NBYTES", 200)
    monkeypatch.setattr(fetching, "FETCHED_NBYTES", 0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def check_some(view: TokenDataset, known: dict[bytes, int], batches: int, **arguments: Any) -> None:
    """Check codes against labels, also after other batches were read into other buffers."""
    held = []
    for number, (tokens, labels) in enumerate(TokenLoader(view, **arguments)):
        held.append((tokens, tokens.clone(), labels))
        if number == batches:
            break
    for tokens, at_first, labels in held:
        assert torch.equal(tokens, at_first)
        assert [known[codes.tobytes()] for codes in tokens.numpy()] == labels.tolist()


@pytest.mark.filterwarnings("ignore:.*no room for .* of decoded values:UserWarning")  # of three mappings
@pytest.mark.parametrize(("seed", "rounds"), [(0, 6), pytest.param(1, 30, marks=pytest.mark.thorough)])
def test_codes_are_right_however_loaders_of_one_view_interleave(
    tmp_path: Path, memory_url: str, hurried: None, seed: int, rounds: int
) -> None:
    places: dict[tuple[str, bool], str] = {}
    for codec, remote in product(CODECS, (False, True)):
        places[codec, remote] = f"{memory_url}/{codec}" if remote else str(tmp_path / codec)
        written(places[codec, remote], codec)
    known = {row.astype(np.int64).tobytes(): n for codes in CODES.values() for n, row in enumerate(codes)}
    draw = random.Random(seed)
    for _ in range(rounds):
        datasets = []
        for place in draw.sample(sorted(places.values()), draw.randint(1, 3)):
            dataset = TokenDataset(place)
            chosen = [draw.randrange(-SAMPLES, SAMPLES) for _ in range(draw.randint(1, 90))]
            datasets.append(draw.choice([dataset, dataset.select(chosen)]))
        view = draw.choice([tokenstore.concat, tokenstore.mix])(datasets)
        with ThreadPoolExecutor(3) as pool:
            futures = [
                pool.submit(
                    check_some,
                    view,
                    known,
                    batches=draw.choice([2, 10**9]),
                    batch_size=draw.randint(1, 40),
                    shuffle=draw.choice(["full", "block", "lanes", False]),
                    num_threads=draw.randint(0, 4),
                    prefetch=draw.randint(1, 3),
                    shuffle_window=draw.choice([1, 10, 50, 1000]),
                )
                for _ in range(3)
            ]
            for future in futures:
                future.result(timeout=HANG)
    for thread in threading.enumerate():
        if thread.name.startswith(("tokenstore-loader", "tokenstore-fetch")):
            thread.join(timeout=HANG)
            assert not thread.is_alive()


GRIDS: list[tuple[tuple[int, ...], Any]] = [
    ((7,), 391),
    ((1,), 2),
    ((4, 4), 1),
    ((4, 4), 65536),
    ((5,), 65537),
    ((2, 3, 5), 1000),
    ((3, 2, 4), (16, 300, 5)),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("grid", "sizes"), GRIDS)
def test_every_kind_of_grid_is_the_same_from_disk_and_from_memory(
    tmp_path: Path, codec: str, grid: tuple[int, ...], sizes: Any
) -> None:
    codes, labels = random_codes(37, grid, sizes), np.arange(37, dtype=np.int32)
    write_store(
        tmp_path / "a", {"train": (codes, labels)}, sizes, codec=codec, chunk_samples=4, shard_samples=8
    )
    dataset = TokenDataset(tmp_path / "a")
    view = tokenstore.concat([dataset.select([3, 1, 30]), dataset, dataset.filter(labels=[4, 5, 5])])
    for resident in (None, "ram") if codec == "zstd" else (None, "ram", "gpu"):
        found = []
        for tokens, which in TokenLoader(view, 5, "block", resident=resident, device="cpu", shuffle_window=9):
            np.testing.assert_array_equal(tokens, codes[which])
            found += which.tolist()
        assert sorted(found) == sorted([3, 1, 30, *range(37), 4, 5])


@pytest.mark.parametrize("resident", [None, "ram", "gpu"])
@pytest.mark.parametrize("shuffle", ["full", "lanes", False])
def test_a_split_without_samples_is_an_epoch_without_batches(
    tmp_path: Path, shuffle: Any, resident: Any
) -> None:
    empty = (np.zeros((0, 4, 6), np.uint16), np.zeros(0, np.int32))
    some = (CODES["bitpack"][:9], LABELS[:9])
    write_store(tmp_path / "a", {"train": empty, "val": some}, chunk_samples=4)
    nothing, nine = TokenDataset(tmp_path / "a"), TokenDataset(tmp_path / "a", "val")
    assert list(TokenLoader(nothing, 4, shuffle, resident=resident, device="cpu")) == []
    joined = TokenLoader(
        tokenstore.concat([nothing, nine, nothing]), 4, shuffle, resident=resident, device="cpu"
    )
    assert sorted(label for _, labels in joined for label in labels.tolist()) == list(range(9))


@pytest.mark.parametrize("codec", CODECS)
def test_a_cache_whose_files_were_emptied_is_fetched_again(
    memory_url: str, tmp_path: Path, codec: str
) -> None:
    written(memory_url, codec)

    def read() -> None:
        for tokens, labels in TokenLoader(TokenDataset(memory_url, cache_dir=tmp_path), 8):
            np.testing.assert_array_equal(tokens, CODES[codec][labels])

    read()
    for file in (tmp_path / "entries").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    read()


def with_room_for(files: int) -> int:
    """Set the limit of open files so that only so many more can be opened."""
    with contextlib.ExitStack() as opened:
        for _ in range(files):
            last = opened.enter_context(Path(os.devnull).open())
        return last.fileno() + 1


@pytest.mark.parametrize("mappings", [8, 1000])
@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_a_store_has_more_shards_than_the_process_may_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, mappings: int
) -> None:
    written(tmp_path / "a", codec, chunk_samples=1, shard_samples=1)
    monkeypatch.setattr(mapping, "_unused", deque([None] * mappings))
    dataset = TokenDataset(tmp_path / "a", columns=["tokens"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (with_room_for(10), hard))
    try:
        tokens = next(iter(TokenLoader(dataset, SAMPLES, num_threads=1)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(tokens, CODES[codec])


def test_a_chunk_that_is_right_is_read_while_another_thread_meets_a_damaged_one(
    memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(memory_url)
    storage, path = open_storage(memory_url), "train/tokens/c/0/0/0"
    data = bytearray(storage.read(path))
    data[-100] ^= 1  # in the shard's last chunk, the samples 12 to 15
    storage.write(path, bytes(data))
    dataset = TokenDataset(memory_url, columns=["tokens"])
    begun, go_on = threading.Event(), threading.Event()
    plain = fetching.FetchedShards._obtain

    def obtain(self: Any, runs: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return plain(self, runs)

    monkeypatch.setattr(fetching.FetchedShards, "_obtain", obtain)
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(dataset.__getitems__, [0, 14])
        assert begun.wait(60)
        one = pool.submit(dataset.__getitem__, 0)
        go_on.set()
        with pytest.raises(DamageError, match="chunk 3"):
            both.result(60)
        np.testing.assert_array_equal(one.result(60), CODES["bitpack"][0])


def test_tokens_that_nobody_asked_for_are_not_fetched(memory_url: str, requests: list[list[str]]) -> None:
    written(memory_url)
    dataset = TokenDataset(memory_url, columns=["labels"])
    requests.clear()
    assert sorted(torch.cat(list(TokenLoader(dataset, 8, True))).tolist()) == LABELS.tolist()
    assert not [path for paths in requests for path in paths if "/tokens/" in path]


@pytest.mark.parametrize(
    ("codec", "arguments"),
    [
        ("bitpack", {"columns": ["tokens", "masks"]}),
        ("bitpack", {"resident": "gpu"}),
        ("zstd", {"resident": "ram"}),
        ("zstd", {}),
    ],
)
def test_chunks_are_fetched_many_at_a_time(
    memory_url: str,
    requests: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    arguments: dict[str, Any],
) -> None:
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)
    written(memory_url, codec)
    dataset = TokenDataset(memory_url, columns=arguments.pop("columns", None))
    requests.clear()
    for _ in TokenLoader(dataset, SAMPLES, True, device="cpu", **arguments):
        pass
    assert len([paths for paths in requests if paths]) <= 8


def test_views_of_one_split_share_what_is_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a")
    loaded: list[str] = []
    opened = LocalFolder.open_file

    def counted(self: LocalFolder, path: str) -> tuple[int, int, int]:
        loaded.append(path)
        return opened(self, path)

    monkeypatch.setattr(LocalFolder, "open_file", counted)
    dataset = TokenDataset(tmp_path / "a", columns=["tokens"])
    parts = [dataset.select(np.arange(part, SAMPLES, 4)) for part in range(4)]
    list(TokenLoader(tokenstore.mix(parts), 8, True, resident="ram"))
    assert len(loaded) == len(set(loaded)) == 10


def test_filtering_by_name_means_each_stores_own_classes(tmp_path: Path) -> None:
    for name, classes in (("a", ("ant", "bee")), ("b", ("bee", "ant"))):
        labels = LABELS % 2
        write_store(tmp_path / name, {"train": (CODES["bitpack"], labels)}, class_names=classes)
    parts = [TokenDataset(tmp_path / name, columns=["tokens"]) for name in "ab"]
    try:
        bees = tokenstore.concat(parts).filter(labels=["bee"])
    except tokenstore.TokenstoreError:
        return  # a refusal is right too
    expected = [*range(1, SAMPLES, 2), *range(SAMPLES, 2 * SAMPLES, 2)]
    assert bees.indices is not None
    assert bees.indices.tolist() == expected


def test_a_batch_may_be_a_named_tuple_on_every_device(tmp_path: Path) -> None:
    written(tmp_path / "a")

    def collate(samples: list[Any]) -> Pair:
        return Pair(*torch.utils.data.default_collate(samples))

    for device in ("cpu", "meta"):
        batch = next(iter(TokenLoader(TokenDataset(tmp_path / "a"), 4, device=device, collate_fn=collate)))
        assert isinstance(batch, Pair)
        assert batch.tokens.device.type == device


def test_an_epoch_chosen_during_an_epoch_comes_next(tmp_path: Path) -> None:
    written(tmp_path / "a")
    loader = TokenLoader(TokenDataset(tmp_path / "a"), 10, True)
    for number, _ in enumerate(loader):
        if number == 3:
            loader.set_epoch(7)
    assert loader.epoch == 7


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_wrong_codes_under_a_right_checksum_are_an_error_that_names_shard_chunk_and_sample(
    tmp_path: Path, codec: str
) -> None:
    written(tmp_path / "store", codec)
    shard = tmp_path / "store/train/tokens/c/1/0/0"
    data = bytearray(shard.read_bytes())
    offset, length = np.frombuffer(data[-4 - 4 * 16 : -4], np.uint64).reshape(4, 2)[2].tolist()
    data[offset + length - 4 - 10 : offset + length - 4] = b"\xff" * 10  # the end of the last sample, 27
    data[offset + length - 4 : offset + length] = struct.pack(
        "<I", google_crc32c.value(bytes(data[offset : offset + length - 4]))
    )
    shard.write_bytes(data)
    dataset = TokenDataset(tmp_path / "store")
    expected = r"tokens shard 1 chunk 2 \(sample 27\): (position|expected).*Restore the shard"
    for indices in ([27], [3, 27, 26], [149, 20, 27, 27]):
        with pytest.raises(DamageError, match=expected):
            dataset.__getitems__(indices)
    np.testing.assert_array_equal(
        torch.stack([tokens for tokens, _ in dataset.__getitems__([24, 25, 26, 28])]),
        CODES[codec][[24, 25, 26, 28]],
    )

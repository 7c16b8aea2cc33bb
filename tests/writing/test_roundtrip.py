"""Written data is read back the same: any grid, codebooks, chunking, codec and place, in any order."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import tempfile
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from helpers.stores import Samples, random_codes, write_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import verify
from tokenstore.errors import StoreError
from tokenstore.reading import (
    SplitReader,
    TokenStore,
    chunk_array,
    decoded,
    fetching,
    local_shards,
    sample_array,
)
from tokenstore.storage import mapping, open_storage

CODEBOOK_SIZES = (1, 2, 3, 255, 256, 257, 391, 65535, 65536, 2**31)
COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "masks": (np.float32, (2, 3)),
    "is_easy": (np.bool_, ()),
    "flags": (np.bool_, (20,)),
    "scores": (np.uint8, (5,)),
    "ids": (np.int64, ()),
    "views": (np.uint16, (9, 1)),
}


def column(name: str, samples: int) -> npt.NDArray[Any]:
    dtype, shape = COLUMNS[name]
    values = np.random.default_rng(len(name)).integers(0, 2 if dtype is np.bool_ else 200, (samples, *shape))
    return values.astype(dtype)


@st.composite
def stores(
    draw: st.DrawFn, max_samples: int = 40
) -> tuple[dict[str, Samples], tuple[int, ...], dict[str, Any]]:
    """Draw (splits, codebook sizes, the rest of the spec) of any small store."""
    sizes = draw(st.lists(st.sampled_from(CODEBOOK_SIZES), min_size=1, max_size=3).map(tuple))
    grid = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4 - (len(sizes) > 1)).map(tuple))
    grid = (len(sizes), *grid) if len(sizes) > 1 else grid
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, max_size=3))
    chunk = draw(st.integers(1, 12))
    splits = {}
    for split in draw(st.sampled_from([("train",), ("train", "val")])):
        samples = draw(st.integers(0, max_samples))
        codes = random_codes(samples, grid, sizes, draw(st.integers(0, 9)))
        labels = (np.arange(samples) * 7 % 5).astype(np.int32) if draw(st.booleans()) else None
        splits[split] = Samples(codes, labels, {name: column(name, samples) for name in names})
    return (
        splits,
        sizes,
        {
            "codec": draw(st.sampled_from(["bitpack", "context", "zstd"])),
            "chunk_samples": chunk,
            "shard_samples": draw(st.none() | st.integers(1, 4).map(lambda chunks: chunks * chunk)),
        },
    )


def index_lists(samples: int) -> st.SearchStrategy[list[int]]:
    """Draw positions from either end, in any order, also twice, also none."""
    return st.lists(st.integers(-samples, samples - 1), max_size=30) if samples else st.just([])


def arrays_of(samples: Samples) -> dict[str, npt.NDArray[Any]]:
    labels = {} if samples.labels is None else {"labels": samples.labels}
    return {"tokens": samples.codes, **labels, **samples.columns}


def check_split(split: SplitReader, samples: Samples, data: st.DataObject) -> None:
    count = len(samples.codes)
    assert len(split) == count
    arrays = arrays_of(samples)
    assert set(split.columns) == set(arrays)
    indices = data.draw(index_lists(count), "indices")
    for name, values in arrays.items():
        np.testing.assert_array_equal(split.read(name, range(count)), values, strict=True)
        np.testing.assert_array_equal(split.read(name, indices), values[indices], strict=True)
    start, stop = data.draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), "slice")
    step = data.draw(st.sampled_from([1, 2, -1]), "step")
    np.testing.assert_array_equal(split[start:stop:step], samples.codes[start:stop:step], strict=True)
    if indices:
        np.testing.assert_array_equal(split[indices[0]], samples.codes[indices[0]], strict=True)
    widened = np.empty((len(indices), *samples.codes.shape[1:]), np.int64)
    assert split.read("tokens", indices, out=widened) is widened
    np.testing.assert_array_equal(widened, samples.codes[indices])


PLACES = ("{}/store", "{}/store.zip", "memory://{}/store", "file://{}/store")


@given(store=stores(), place=st.sampled_from(PLACES), data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_store_comes_back(store: Any, place: str, data: st.DataObject) -> None:
    check_store(store, place, data)


@pytest.mark.thorough
@given(store=stores(), place=st.sampled_from(PLACES), data=st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_any_of_a_hundred_stores_comes_back(store: Any, place: str, data: st.DataObject) -> None:
    check_store(store, place, data)


def check_store(store: Any, place: str, data: st.DataObject) -> None:
    splits, sizes, spec = store
    folder = tempfile.mkdtemp()
    try:
        url = place.format(folder)
        manifest = write_store(url, splits, sizes, **spec)
        assert manifest.features == (spec["codec"],)
        opened = tokenstore.open(url)
        assert opened.manifest == manifest
        for name, samples in splits.items():
            check_split(opened[name], samples, data)
        found = verify(url)
        assert (found.problems, found.notes) == ([], [])
        if place == PLACES[0]:
            root = zarr.open(url, mode="r")
            for name, samples in splits.items():
                for array, values in arrays_of(samples).items():
                    np.testing.assert_array_equal(root[name][array][:], values, strict=True)
    finally:
        shutil.rmtree(folder)
        if place == PLACES[2]:
            fs, path = fsspec.core.url_to_fs(url)
            fs.rm(path, recursive=True)


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_dataset_gives_the_samples_at_any_indices(
    small_shards: tuple[Path, npt.NDArray[Any]], data: st.DataObject
) -> None:
    path, codes = small_shards
    indices = data.draw(index_lists(len(codes)).filter(bool), "indices")
    dataset = TokenDataset(path, indices=indices)
    assert len(dataset) == len(indices)
    order = data.draw(index_lists(len(indices)), "order")
    for (tokens, label), position in zip(dataset.__getitems__(order), order, strict=True):
        np.testing.assert_array_equal(tokens, codes[indices[position]])
        assert label == indices[position] % len(codes)


SAMPLES = 50


@pytest.fixture(scope="module", params=["bitpack", "zstd"])
def small_shards(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, npt.NDArray[Any]]:
    """Write a store of 13 shards of two chunks, whose labels are row numbers; give its path and codes."""
    codes = random_codes(SAMPLES, (4, 6), 391)
    path = tmp_path_factory.mktemp("shards") / "store"
    columns = {"masks": column("masks", SAMPLES)}
    labels = np.arange(SAMPLES, dtype=np.int32)
    write_store(
        path,
        {"train": (codes, labels, columns)},
        391,
        codec=request.param,
        chunk_samples=2,
        shard_samples=4,
    )
    return path, codes


def hammer(opened: TokenStore, codes: npt.NDArray[Any], threads: int = 8, rounds: int = 40) -> None:
    """Read random samples of one reader in many threads, each of which checks what it gets."""
    masks = column("masks", SAMPLES)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(rounds):
            indices = rng.integers(-SAMPLES, SAMPLES, rng.integers(1, 20))
            split = opened["train"]
            np.testing.assert_array_equal(split.read("tokens", indices), codes[indices])
            np.testing.assert_array_equal(split.read("labels", indices), indices % SAMPLES)
            np.testing.assert_array_equal(split.read("masks", indices), masks[indices])

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, seed) for seed in range(threads)]:
            done.result()


def test_threads_share_a_reader(small_shards: tuple[Path, npt.NDArray[Any]]) -> None:
    path, codes = small_shards
    for _ in range(5):  # a fresh reader has yet to open its shards and verify its chunks
        hammer(tokenstore.open(path), codes, rounds=10)


@pytest.mark.parametrize(
    ("owner", "moment"),
    [
        (local_shards._ShardFile, "__init__"),
        (local_shards._ShardFile, "read"),
        (local_shards._ShardFile, "mapped"),
        (local_shards.sharding, "decode_index"),
        (local_shards.sharding, "checked_payload"),
        (local_shards.LocalShards, "payloads"),
        (local_shards.LocalShards, "_payloads_of"),
    ],
)
def test_a_thread_may_read_whenever_another_was_interrupted(
    small_shards: tuple[Path, npt.NDArray[Any]], monkeypatch: pytest.MonkeyPatch, owner: Any, moment: str
) -> None:
    """Read the first thread's chunk and its shard's other chunk in another thread, after each such call."""
    path, codes = small_shards
    split = tokenstore.open(path)["train"]
    function = getattr(owner, moment)
    busy = threading.Lock()

    def read_meanwhile(*arguments: Any) -> Any:
        result = function(*arguments)
        if busy.acquire(blocking=False):
            for indices in ([1], [2], [7], [4, 49]):
                found = other.submit(split.read, "tokens", indices).result()
                np.testing.assert_array_equal(found, codes[indices])
            busy.release()
        return result

    with ThreadPoolExecutor(1) as other, monkeypatch.context() as patch:
        patch.setattr(owner, moment, read_meanwhile)
        np.testing.assert_array_equal(split.read("tokens", [0, 4, 48]), codes[[0, 4, 48]])
    np.testing.assert_array_equal(split[:], codes)


def test_more_shards_than_may_be_open_are_read(
    small_shards: tuple[Path, npt.NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, codes = small_shards
    monkeypatch.setattr(mapping, "_unused", deque([None] * 2))
    opened = tokenstore.open(path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        indices = rng.integers(0, SAMPLES, 12)
        np.testing.assert_array_equal(opened["train"].read("tokens", indices), codes[indices])
    np.testing.assert_array_equal(opened["train"][::-1], codes[::-1])
    assert not mapping._unused, "both mappings are in use"
    hammer(tokenstore.open(path), codes)


@pytest.mark.parametrize("nbytes", [0, 100, 1000])
@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_a_cache_too_small_for_a_batch_only_costs_time(
    memory_url: str, codec: str, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = random_codes(SAMPLES, (4, 6), 391)
    labels, columns = np.arange(SAMPLES, dtype=np.int32), {"masks": column("masks", SAMPLES)}
    write_store(
        memory_url, {"train": (codes, labels, columns)}, codec=codec, chunk_samples=2, shard_samples=8
    )
    monkeypatch.setattr(chunk_array, "CACHE_NBYTES", nbytes)
    monkeypatch.setattr(sample_array, "CACHE_NBYTES", nbytes)
    monkeypatch.setattr(decoded, "IN_MEMORY_NBYTES", nbytes)
    monkeypatch.setattr(fetching, "FETCHED_NBYTES", nbytes)
    opened = tokenstore.open(memory_url)
    np.testing.assert_array_equal(opened["train"][:], codes)
    np.testing.assert_array_equal(opened["train"][::-3], codes[::-3])
    hammer(opened, codes, rounds=5)
    tokens = opened["train"].arrays["tokens"]
    for kept in (getattr(tokens, "_decoded", {}).values(), tokens._shards._resident.values()):
        assert len(kept) <= 1 or sum(values.nbytes for values in kept) <= nbytes


def test_forgetting_changes_nothing(small_shards: tuple[Path, npt.NDArray[Any]]) -> None:
    path, codes = small_shards
    split = tokenstore.open(path)["train"]
    for _ in range(3):
        np.testing.assert_array_equal(split[:], codes)
        split.arrays["tokens"].forget()


def read_all(thing: TokenStore | SplitReader | TokenDataset) -> npt.NDArray[Any]:
    """Read the training codes, in whatever process this runs."""
    if isinstance(thing, TokenDataset):
        return np.stack([tokens.numpy() for tokens, _ in (thing[i] for i in range(len(thing)))])
    return thing[:] if isinstance(thing, SplitReader) else thing["train"][:]


def test_readers_pickle_to_their_location(small_shards: tuple[Path, npt.NDArray[Any]]) -> None:
    path, codes = small_shards
    store = tokenstore.open(path)
    for thing in (store, store["train"], TokenDataset(path)):
        np.testing.assert_array_equal(read_all(thing), codes)
        pickled = pickle.dumps(thing)
        assert codes[:2].tobytes() not in pickled
        np.testing.assert_array_equal(read_all(pickle.loads(pickled)), codes)


@pytest.mark.parametrize("method", [m for m in multiprocessing.get_all_start_methods() if m != "forkserver"])
@pytest.mark.parametrize("suffix", ["", pytest.param(".zip", marks=pytest.mark.thorough)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_reads_what_its_parent_opened(tmp_path: Path, method: str, suffix: str) -> None:
    codes = random_codes(9, (4, 6), 391)
    path = tmp_path / f"store{suffix}"
    write_store(path, {"train": (codes, np.zeros(9, np.int32))}, chunk_samples=2, shard_samples=4)
    store = tokenstore.open(path)
    np.testing.assert_array_equal(store["train"][:5], codes[:5])  # so that some shards are open already
    with multiprocessing.get_context(method).Pool(1) as pool:
        for found in pool.map(read_all, [store, store["train"]]):
            np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(store["train"][:], codes)


@pytest.mark.parametrize("place", ["memory", "zip"])
def test_a_store_is_the_same_files_wherever_it_is(tmp_path: Path, memory_url: str, place: str) -> None:
    samples = Samples(random_codes(9, (2, 3), 391), np.arange(9, dtype=np.int32))
    urls = (str(tmp_path / "store"), memory_url if place == "memory" else str(tmp_path / "store.zip"))
    for url in urls:
        write_store(url, {"train": samples}, chunk_samples=2, shard_samples=4)
    first, second = (open_storage(url) for url in urls)
    assert list(first.files()) == list(second.files())
    for path in first.files():
        assert first.read(path) == second.read(path), path


INDICES = [[SAMPLES], [-SAMPLES - 1], [0, SAMPLES], [2**63 - 1], [-(2**63)], [2**64 - 1], [2**80]]


@pytest.mark.parametrize("indices", INDICES, ids=repr)
def test_an_index_out_of_range_is_refused(
    small_shards: tuple[Path, npt.NDArray[Any]], indices: list[int]
) -> None:
    split = tokenstore.open(small_shards[0])["train"]
    dataset = TokenDataset(small_shards[0])
    for name in split.columns:
        with pytest.raises(IndexError, match=r"out of range for 50 samples|expected a list of integers"):
            split.read(name, indices)
    with pytest.raises(IndexError):
        split[indices[-1]]
    with pytest.raises(IndexError):
        dataset[indices[-1]]
    with pytest.raises(IndexError):
        dataset.__getitems__(indices)
    with pytest.raises(IndexError):
        TokenDataset(small_shards[0], indices=indices)


@pytest.mark.parametrize("indices", [[0.0], [True], ["0"], [[0]], [None]], ids=repr)
def test_what_is_no_list_of_integers_is_refused(
    small_shards: tuple[Path, npt.NDArray[Any]], indices: Any
) -> None:
    with pytest.raises(IndexError, match="expected a list of integers"):
        tokenstore.open(small_shards[0])["train"].read("tokens", indices)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_indices_may_be_integers_of_any_dtype(
    small_shards: tuple[Path, npt.NDArray[Any]], dtype: Any
) -> None:
    path, codes = small_shards
    split = tokenstore.open(path)["train"]
    indices = np.array([49, 0, 3], dtype)
    np.testing.assert_array_equal(split.read("tokens", indices), codes[[49, 0, 3]])
    np.testing.assert_array_equal(split[indices[0]], codes[49])
    if np.iinfo(dtype).min < 0:
        np.testing.assert_array_equal(split.read("tokens", np.array([-1, -50], dtype)), codes[[49, 0]])


def test_an_unknown_split_or_column_is_answered_with_what_there_is(
    small_shards: tuple[Path, npt.NDArray[Any]],
) -> None:
    store = tokenstore.open(small_shards[0])
    with pytest.raises(StoreError, match=r"no split 'test'; it has train$"):
        store["test"]
    with pytest.raises(StoreError, match=r"no split 'test'; it has train$"):
        TokenDataset(small_shards[0], "test")
    with pytest.raises(StoreError, match=r"no array 'depth'; it has tokens, labels, masks$"):
        store["train"].read("depth", [0])
    with pytest.raises(StoreError, match=r"no array 'depth'; it has tokens, labels, masks$"):
        TokenDataset(small_shards[0], columns=["tokens", "depth"])

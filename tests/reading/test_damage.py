"""Damaged stores: verification names what is wrong, and no reader returns a wrong code.

What a reader checks is each chunk's checksum, each shard's size and index, and the digest of all it reads
whole. Chunks or shards that changed places are valid to it: those are found by verification alone.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damaged_stores import CHUNK, CODES, SAMPLES, SHARD, read_array, samples_read, verified, write
from helpers.stores import edit_root, replace_files, store_files

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, ManifestError, NotAStoreError
from tokenstore.format.sharding import crc32c


@pytest.fixture(scope="module", params=["bitpack", "zstd"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store that tests only read."""
    return write(tmp_path_factory.mktemp("intact") / "store", request.param)


@pytest.fixture
def store(intact: Path, tmp_path: Path) -> Path:
    """Copy the store, to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "store"))


def damaged_chunk(path: str, data: bytes, position: int) -> int | None:
    """Return the chunk of a shard that a byte belongs to; None in the index and in other files."""
    shard = re.fullmatch(r"(\w+)/(tokens|labels|masks)/c/\d+(?:/0)*", path)
    if shard is None:
        return None
    chunks = 1 if shard[2] == "labels" else SHARD // CHUNK
    index = struct.unpack(f"<{2 * chunks}Q", data[-16 * chunks - 4 : -4])
    for chunk, (offset, length) in enumerate(zip(index[::2], index[1::2], strict=True)):
        if offset <= position < offset + length:
            return chunk
    return None


def flips(store: Path, count: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Draw (file, byte, bit), by turns in every file, so that small files get their share."""
    rng = random.Random(seed)
    files = store_files(store)
    for number in range(count):
        path = files[number % len(files)]
        yield path, rng.randrange((store / path).stat().st_size), rng.randrange(8)


def check_flips(store: Path, count: int, seed: int) -> None:
    for path, position, bit in flips(store, count, seed):
        data = (store / path).read_bytes()
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        (store / path).write_bytes(changed)
        problems = verified(store).problems
        where = f"{path}, byte {position}, bit {bit}: {problems}"
        assert any(path in problem for problem in problems), where
        chunk = damaged_chunk(path, data, position)
        if chunk is not None:
            array, shard = path.split("/c/")
            exactly = f"/{array} shard {shard.split('/')[0]} chunk {chunk} (samples "
            assert sum(exactly in problem for problem in problems) == 1, where
            assert len(problems) == 2, where  # the file, and the chunk
        count = samples_read(store)
        if chunk is not None:
            assert count < sum(SAMPLES.values()), where
        (store / path).write_bytes(data)


def test_an_intact_store_has_no_problem_and_is_read_whole(intact: Path) -> None:
    found = verify(intact)
    assert found.problems == []
    assert found.samples == samples_read(intact) == sum(SAMPLES.values())
    assert found.files == len(store_files(intact))


def test_a_flipped_bit_is_found_and_never_gives_a_wrong_code(store: Path) -> None:
    check_flips(store, 40, seed=0)


@pytest.mark.thorough
def test_hundreds_of_flipped_bits_are_found_one_by_one(store: Path) -> None:
    check_flips(store, 250, seed=0)  # 500 with both codecs


@pytest.mark.slow
def test_many_flipped_bits_are_found_one_by_one(store: Path) -> None:
    check_flips(store, 5_000, seed=1)


@pytest.mark.thorough
def test_a_cut_file_is_found_and_never_gives_a_wrong_code(store: Path) -> None:
    for path in store_files(store):
        data = (store / path).read_bytes()
        for length in {0, 1, len(data) // 2, len(data) - 1, max(0, len(data) - 21)}:
            (store / path).write_bytes(data[:length])
            assert any(path in problem for problem in verified(store).problems), (path, length)
            samples_read(store)
        (store / path).write_bytes(data)


def test_a_deleted_file_is_found_and_never_gives_a_wrong_code(store: Path) -> None:
    for path in store_files(store):
        data = (store / path).read_bytes()
        (store / path).unlink()
        assert any(path in problem for problem in verified(store).problems), path
        count = samples_read(store)
        if path == "zarr.json":
            assert count == 0
        if path == "train/tokens/c/1/0/0":
            assert count == sum(SAMPLES.values()) - SHARD
        (store / path).write_bytes(data)


@pytest.mark.parametrize("tail", [b"\0", b"junk" * 1000], ids=["a zero", "junk"])
def test_bytes_after_a_files_end_are_found_and_never_give_a_wrong_code(store: Path, tail: bytes) -> None:
    for path in store_files(store):
        data = (store / path).read_bytes()
        (store / path).write_bytes(data + tail)
        assert any(path in problem for problem in verified(store).problems), path
        samples_read(store)
        (store / path).write_bytes(data)


@pytest.mark.parametrize("filler", [0x00, 0xFF])
def test_a_file_of_zeros_or_ones_is_found_and_never_gives_a_wrong_code(store: Path, filler: int) -> None:
    for path in store_files(store):
        data = (store / path).read_bytes()
        (store / path).write_bytes(bytes([filler]) * len(data))
        assert any(path in problem for problem in verified(store).problems), path
        samples_read(store)
        (store / path).write_bytes(data)


def test_shards_that_changed_places_are_both_found(store: Path) -> None:
    first, second = (f"train/tokens/c/{shard}/0/0" for shard in (0, 1))
    contents = [(store / path).read_bytes() for path in (first, second)]
    (store / first).write_bytes(contents[1])
    (store / second).write_bytes(contents[0])
    problems = verify(store).problems
    assert len(problems) == 2
    assert first in problems[0]
    assert second in problems[1]


def test_a_chunk_that_is_there_twice_is_found(tmp_path: Path) -> None:
    """Bit-packed chunks of the same number of samples have the same size, so one fits over another."""
    store = write(tmp_path / "store")
    path = "train/tokens/c/0/0/0"
    data = (store / path).read_bytes()
    length = struct.unpack("<Q", data[-44:-36])[0]
    (store / path).write_bytes(data[:length] * 2 + data[2 * length :])
    (problem,) = verify(store).problems
    assert path in problem


def index_with(data: bytes, chunk: int, offset: int, length: int) -> bytes:
    """Return a shard with another index entry and a right checksum, as a faulty writer would leave it."""
    entries = bytearray(data[-16 * (SHARD // CHUNK) - 4 : -4])
    entries[16 * chunk : 16 * chunk + 16] = struct.pack("<QQ", offset, length)
    body = data[: -len(entries) - 4]
    return body + bytes(entries) + struct.pack("<I", crc32c(bytes(entries)))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (2**64 - 1, 2**64 - 1, "chunk 1 of the shard is missing"),
        (2**64 - 1, 30, "chunk 1 of the shard is missing"),
        (0, 0, "chunk 1 of the shard is at byte"),
        (0, 3, "chunk 1 of the shard is at byte"),
        (2**64 - 8, 16, "chunk 1 of the shard is at byte"),
        (16, 2**64 - 8, "chunk 1 of the shard is at byte"),
        (2**63, 2**63, "chunk 1 of the shard is at byte"),
        (10**6, 16, "chunk 1 of the shard is at byte"),
        (0, 10**6, "chunk 1 of the shard is at byte"),
        (0, 4, "chunk 1 of the shard is at byte"),
        (1, 38, "chunk 1 of the shard is at byte"),
    ],
)
def test_a_missing_or_wrong_index_entry_is_an_error_and_no_fill_value(
    store: Path, offset: int, length: int, message: str
) -> None:
    path = "train/tokens/c/1/0/0"
    replace_files(store, {path: index_with((store / path).read_bytes(), 1, offset, length)})
    reader = tokenstore.open(store)["train"]
    for indices in ([SHARD + CHUNK], [0, SHARD + CHUNK], range(SAMPLES["train"])):
        with pytest.raises(DamageError, match=message):
            reader.read("tokens", list(indices))
    assert any(re.search(message, problem) for problem in verify(store).problems)
    samples_read(store)


def test_a_shard_that_the_manifest_does_not_list_is_an_error(store: Path) -> None:
    path = "train/tokens/c/1/0/0"

    def forget(root: dict[str, Any]) -> None:
        del root["attributes"]["tokenstore"]["files"][path]

    edit_root(store, forget)
    with pytest.raises(DamageError, match=f"lists no file {path}"):
        tokenstore.open(store)["train"].read("tokens", [SHARD])
    assert any(path in problem for problem in verify(store).problems)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000], ids=len)
def test_metadata_that_is_no_json_is_refused_by_name(store: Path, junk: bytes) -> None:
    root = (store / "zarr.json").read_bytes()
    for array in ("train/tokens", "train/masks", "codebook"):
        data = (store / array / "zarr.json").read_bytes()
        (store / array / "zarr.json").write_bytes(junk)
        record = [len(junk), hashlib.sha256(junk).hexdigest()]

        def enter(root: dict[str, Any], array: str = array, record: list[Any] = record) -> None:
            root["attributes"]["tokenstore"]["files"][f"{array}/zarr.json"] = record

        edit_root(store, enter)
        with pytest.raises(ManifestError, match=array):
            read_array(store, array)
        assert any(array in problem for problem in verify(store).problems)
        samples_read(store)
        (store / array / "zarr.json").write_bytes(data)
        (store / "zarr.json").write_bytes(root)


def test_a_file_that_changes_under_an_open_reader_gives_no_wrong_code(store: Path) -> None:
    """Replace a file as a whole: the open reader keeps the old file."""
    reader = tokenstore.open(store)["train"]
    np.testing.assert_array_equal(reader[0], CODES["train"][0])
    path = store / "train/tokens/c/0/0/0"
    (store / "new").write_bytes(b"\0" * 10)
    (store / "new").replace(path)
    np.testing.assert_array_equal(reader[0], CODES["train"][0])
    with pytest.raises(DamageError, match=r"expected .* bytes, found 10"):
        tokenstore.open(store)["train"][0]


def test_files_that_are_not_the_stores_are_noted_and_are_no_problem(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    found = verify(store)
    assert found.problems == []
    assert found.notes == ["1 files are not the store's, the first is notes.txt"]


def test_what_is_no_store_at_all_is_said_to_be_none(tmp_path: Path) -> None:
    for name in ("nothing", "a.zip", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        for function in (verify, tokenstore.open, TokenDataset):
            with pytest.raises(NotAStoreError, match=name):
                function(tmp_path / name)

"""Damaged stores: verification names what is wrong, and no reader returns a wrong code.

What a reader checks is each chunk's checksum, each shard's size and index, and the digest of all it reads
whole. Chunks or shards that changed places are valid to it: those are found by verification alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import edit_root, random_codes, replace_files, store_files, write_store

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import Verification, verify
from tokenstore.errors import DamageError, ManifestError, NotAStoreError, TokenstoreError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.sharding import crc32c
from tokenstore.format.tables import Skip

pytestmark = pytest.mark.usefixtures("without_fsync")

CHUNK, SHARD = 2, 6
SAMPLES = {"train": 15, "val": 3}
CODES = {split: random_codes(samples, (3, 5), 391, seed=samples) for split, samples in SAMPLES.items()}
LABELS = {split: (np.arange(samples) % 3).astype(np.int32) for split, samples in SAMPLES.items()}
MASKS = np.random.default_rng(3).random((SAMPLES["train"], 5), np.float32)


def write(path: Path, codec: str = "bitpack") -> Path:
    write_store(
        path,
        {
            "train": (CODES["train"], LABELS["train"], {"masks": MASKS}, [Skip(2, "train/2.png", "empty")]),
            "val": (CODES["val"], LABELS["val"]),
        },
        391,
        codec=codec,
        chunk_samples=CHUNK,
        shard_samples=SHARD,
        class_names=("ant", "bee", "cat"),
        codebook=np.random.default_rng(4).standard_normal((391, 2)).astype(np.float32),
        synonyms=np.arange(-1, 390, dtype=np.int32)[:, None],
        tokenizer=TokenizerIdentity("test", "ab" * 32),
    )
    return path


@pytest.fixture(scope="module", params=["bitpack", "zstd"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store that tests only read."""
    return write(tmp_path_factory.mktemp("intact") / "store", request.param)


@pytest.fixture
def store(intact: Path, tmp_path: Path) -> Path:
    """Copy the store, to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "store"))


@pytest.fixture(scope="module")
def intact_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store in a zip file that tests only read."""
    return write(tmp_path_factory.mktemp("intact") / "store.zip")


@pytest.fixture
def packed(intact_zip: Path, tmp_path: Path) -> Path:
    """Copy the store in a zip file, to be damaged."""
    return Path(shutil.copy(intact_zip, tmp_path / "store.zip"))


def samples_read(store: Path) -> int:
    """Count the samples that can be read, one by one and all at once; fail if one of them is wrong."""
    count = 0
    for split, codes in CODES.items():
        columns = [name for name in ("tokens", "labels", "masks") if name != "masks" or split == "train"]
        try:
            dataset = TokenDataset(store, split, columns=columns)
        except TokenstoreError:
            continue
        for i, expected in enumerate(codes):
            try:
                tokens, label, *mask = dataset[i]
            except TokenstoreError:
                continue
            np.testing.assert_array_equal(tokens, expected)
            assert label == LABELS[split][i]
            assert not mask or np.array_equal(mask[0], MASKS[i])
            count += 1
        try:
            batch = TokenDataset(store, split)[:]
        except TokenstoreError:
            continue
        np.testing.assert_array_equal(batch[0], codes)
        np.testing.assert_array_equal(batch[1], LABELS[split])
    return count


def verified(store: Path) -> Verification:
    """Return the report on a store; a missing store is reported too."""
    try:
        return verify(store)
    except NotAStoreError as error:
        return Verification([str(error)], [], 0, 0, 0, 0)


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
    """(file, byte, bit), by turns in every file, so that small ones get their share."""
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
    check_flips(store, 250, seed=0)  # 500 with both codecs


@pytest.mark.slow
def test_many_flipped_bits_are_found_one_by_one(store: Path) -> None:
    check_flips(store, 5_000, seed=1)


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


def test_codes_and_labels_that_cannot_be_are_found_with_their_chunk(tmp_path: Path) -> None:
    """Write impossible values with valid checksums, as only a faulty writer would."""
    store = tmp_path / "store"
    codes, labels = np.full((4, 2, 2), 299, np.uint16), np.array([0, 1, 2, 2], np.int32)
    spec: Mapping[str, Any] = {"codec": "zstd", "chunk_samples": 2, "shard_samples": 4}
    write_store(store, {"train": (codes, labels)}, 300, class_names=("ant", "bee", "cat"), **spec)

    def promise_less(root: dict[str, Any]) -> None:
        root["attributes"]["tokenstore"].update(codebook_sizes=[299], class_names=["ant", "bee"])

    edit_root(store, promise_less)
    assert [problem.removeprefix(f"{store}/") for problem in verify(store).problems] == [
        "train/tokens shard 0 chunk 0 (samples 0 to 1): expected codes from 0 to 298, found 299",
        "train/tokens shard 0 chunk 1 (samples 2 to 3): expected codes from 0 to 298, found 299",
        "train/labels shard 0 chunk 0 (samples 0 to 3): expected labels from 0 to 1, found 2",
    ]


def test_a_codebook_or_synonyms_that_cannot_be_are_found(tmp_path: Path) -> None:
    store = tmp_path / "store"
    codebook = np.array([[1.0], [np.nan], [2.0]], np.float32)
    synonyms = np.array([[1], [3], [0]], np.int32)
    write_store(store, {"train": (CODES["train"] % 3,)}, 3, codebook=codebook, synonyms=synonyms)
    assert [problem.removeprefix(f"{store}/") for problem in verify(store).problems] == [
        "codebook: holds values that are not finite",
        "synonyms: expected codes below 3, or -1, found 3",
    ]
    edit_root(store, lambda root: root["attributes"]["tokenstore"].update(codebook_sizes=[4]))
    problems = [problem.removeprefix(f"{store}/") for problem in verify(store).problems]
    assert "codebook: expected vectors of 4 codes, found shape (3, 1)" in problems
    assert "synonyms: expected a row for each of 4 codes, found shape (3, 1)" in problems


def fields_of(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside JSON values."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from fields_of(value, (*path, key))


def read_array(store: Path, array: str) -> Any:
    """Read an array's first values, or a whole codebook."""
    opened = tokenstore.open(store)
    split, _, name = array.partition("/")
    return opened[split].read(name, [0]) if name else getattr(opened, array)


@pytest.mark.parametrize("array", ["train/tokens", "train/labels", "train/masks", "codebook", "synonyms"])
def test_metadata_that_no_writer_wrote_is_refused_by_name(tmp_path: Path, array: str) -> None:
    """Give each field in turn strange values, with all digests right."""
    store = write(tmp_path / "store")
    path = f"{array}/zarr.json"
    document, root = json.loads((store / path).read_bytes()), (store / "zarr.json").read_bytes()
    rng = random.Random(0)
    for field in list(fields_of(document)):
        if field[0] in ("dimension_names", "attributes") or field[-1] == "level":
            continue  # these have no influence on what is read
        changed = json.loads(json.dumps(document))
        parent = changed
        for key in field[:-1]:
            parent = parent[key]
        parent[field[-1]] = value = rng.choice([None, -1, 2**64, 1.5, "object", "V8", [], [0], {}])
        replace_files(store, {path: json.dumps(changed).encode()})
        assert any(array in problem for problem in verify(store).problems), (field, value)
        samples_read(store)
        with pytest.raises((ManifestError, DamageError), match=array):
            read_array(store, array)
        (store / "zarr.json").write_bytes(root)


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


def test_a_flipped_bit_of_a_zip_file_never_gives_a_wrong_code(packed: Path) -> None:
    """Dates and flags of a zip file say nothing about its files: a change there may go unnoticed."""
    rng = random.Random(0)
    data = packed.read_bytes()
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        if verified(packed).ok:
            assert samples_read(packed) == sum(SAMPLES.values())
        else:
            samples_read(packed)


def test_a_flipped_bit_of_a_file_in_a_zip_file_is_found(packed: Path) -> None:
    rng = random.Random(1)
    data = packed.read_bytes()
    with zipfile.ZipFile(packed) as members:
        infos = members.infolist()
    for info in infos:
        header = data[info.header_offset : info.header_offset + 30]
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        changed = bytearray(data)
        changed[start + rng.randrange(info.file_size)] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        assert any(info.filename in problem for problem in verified(packed).problems), info.filename
        samples_read(packed)


def test_a_cut_zip_file_is_found(packed: Path) -> None:
    data = packed.read_bytes()
    for length in [*range(0, len(data), 499), len(data) - 1]:
        packed.write_bytes(data[:length])
        (problem,) = verify(packed).problems
        assert "not a whole zip file" in problem
        with pytest.raises(DamageError, match="not a whole zip file"):
            tokenstore.open(packed)


def test_a_zip_file_with_deflated_members_is_read_and_its_damage_found(packed: Path) -> None:
    """Not as tokenstore packs it, but as somebody might."""
    with zipfile.ZipFile(packed) as members:
        contents = {name: members.read(name) for name in members.namelist()}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as members:
        for name, data in contents.items():
            members.writestr(name, data)
    assert verify(packed).ok
    assert samples_read(packed) == sum(SAMPLES.values())
    rng = random.Random(2)
    data = packed.read_bytes()
    for _ in range(100):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        verified(packed)
        samples_read(packed)

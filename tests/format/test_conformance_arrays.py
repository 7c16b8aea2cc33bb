"""FORMAT.md's MUSTs on arrays and the codecs `bitpack` and `zstd` (M12 to M20), one test each."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from helpers.conformance import (
    EXAMPLE_CODES,
    EXAMPLE_INDEX,
    EXAMPLE_SHARD_BODY,
    FORMAT,
    FULL_CODES,
    FULL_LABELS,
    FULL_MASKS,
    SHARD,
    crc32c,
    manifest_of,
    read_json,
    refusal_by_zarr,
    run,
    shard_of,
    write_full,
)
from helpers.stores import edit_root, replace_files, write_store
from zarr.storage import ZipStore

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs.zstd import ZSTD_LEVEL
from tokenstore.errors import (
    CodecError,
    DamageError,
    ManifestError,
)
from tokenstore.format import ImplicitCodebook
from tokenstore.format.manifest import TokenizerIdentity


def test_m12_aligned_arrays_are_sharded_along_the_samples_only(full: Path) -> None:
    for name, sample_shape in (("tokens", [3, 4]), ("labels", []), ("masks", [2, 5])):
        document = read_json(full / "train" / name / "zarr.json")
        assert document["shape"] == [21, *sample_shape]
        assert document["chunk_grid"] == {
            "name": "regular",
            "configuration": {"chunk_shape": [8, *sample_shape]},
        }
        assert document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        (codec,) = document["codecs"]
        assert codec["name"] == "sharding_indexed"
        configuration = codec["configuration"]
        assert configuration["chunk_shape"] == [8 if name == "labels" else 2, *sample_shape]
        assert configuration["codecs"][-1] == {"name": "crc32c"}
        assert configuration["index_codecs"] == [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        assert configuration["index_location"] == "end"
    tokens = read_json(full / "train/tokens/zarr.json")["codecs"][0]["configuration"]
    assert tokens["codecs"] == [
        {"name": "tokenstore.bitpack", "configuration": {"codebook_size": 391}},
        {"name": "crc32c"},
    ]


def test_m12_the_worked_example_is_stored_byte_for_byte(example: Path) -> None:
    checksums = [crc32c(bytes.fromhex(payload)).hex() for payload in ("11 23", "08")]
    index = bytes.fromhex(EXAMPLE_INDEX)
    expected = bytes.fromhex(EXAMPLE_SHARD_BODY.format(*checksums)) + index + crc32c(index)
    assert (example / SHARD).read_bytes() == expected
    np.testing.assert_array_equal(zarr.open(example, mode="r")["train/tokens"][:], EXAMPLE_CODES)
    shown = re.search(r"train/tokens/c/0/0\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert shown is not None
    lines = [re.match(r"(?:[0-9a-f]{2} *)*", line)[0] for line in shown[1].splitlines()]  # type: ignore[index]
    assert bytes.fromhex("".join(lines)) == bytes.fromhex("11 23 08" + EXAMPLE_INDEX)


def test_m13_chunks_lie_in_order_without_gaps_and_none_may_be_missing(full: Path, example: Path) -> None:
    for shard, chunks_held in (("0", 4), ("1", 4), ("2", 3)):
        data = (full / "train/tokens/c" / shard / "0/0").read_bytes()
        index = struct.unpack("<8Q", data[-68:-4])
        position = 0
        for offset, length in list(zip(index[::2], index[1::2], strict=True))[:chunks_held]:
            assert offset == position
            position += length
        assert position == len(data) - 68
        assert all(value == 2**64 - 1 for value in index[2 * chunks_held :])

    whole = (example / SHARD).read_bytes()
    index = b"\xff" * 16 + whole[-20:-4]
    replace_files(example, {SHARD: whole[:-36] + index + crc32c(index)})
    with pytest.raises(DamageError, match="chunk 0 of the shard is missing"):
        tokenstore.open(example)["train"].read("tokens", [2])
    (example / SHARD).unlink()
    with pytest.raises(DamageError, match="missing"):
        tokenstore.open(example)["train"].read("tokens", [2])


def test_m14_a_chunk_is_checked_before_its_values_are_returned(example: Path) -> None:
    data = bytearray((example / SHARD).read_bytes())
    data[1] ^= 0x02  # sample 1 becomes [1, 4]: valid codes, but for the checksum
    (example / SHARD).write_bytes(data)
    split = tokenstore.open(example)["train"]
    for sample in (0, 1):
        with pytest.raises(DamageError, match=r"shard 0 chunk 0 \(samples 0 to 1\).*CRC-32C"):
            split.read("tokens", [sample])
    np.testing.assert_array_equal(split.read("tokens", [2]), EXAMPLE_CODES[2:])
    assert "checksum" in refusal_by_zarr(example)


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
@pytest.mark.parametrize(("sizes", "wrong"), [((5,), 5), ((5,), -1), ((5, 3), 3)])
def test_m15_a_code_that_its_codebook_does_not_have_is_not_written(
    tmp_path: Path, codec: str, sizes: tuple[int, ...], wrong: int
) -> None:
    codes = np.zeros((3, 2), np.int16)
    codes[1, 1] = wrong
    with pytest.raises(CodecError, match=rf"sample 1: expected codes from 0 to {sizes[-1] - 1}"):
        write_store(tmp_path / "store", {"train": (codes,)}, sizes, codec=codec)
    assert not (tmp_path / "store/zarr.json").exists()


def test_m16_codes_are_packed_least_significant_bit_first(tmp_path: Path) -> None:
    for size, codes, packed in (
        (391, [1, 2, 390], "01 04 18 06"),
        (5, [1, 2], "11"),
        (1, [0, 0, 0], "00"),
        (2, [1, 0, 1, 1, 0, 0, 0, 0, 1], "0d 01"),
        (256, [0, 127, 255], "00 7f ff"),
        (257, [256, 1], "00 03 00"),
        (65536, [0x1234, 0xFFFF], "34 12 ff ff"),
        (2**31, [2**31 - 1, 1], "ff ff ff ff 00 00 00 00"),
    ):
        store = tmp_path / f"{size}"
        write_store(store, {"train": (np.array([codes], np.uint32),)}, size, chunk_samples=1)
        assert (store / SHARD).read_bytes() == shard_of(bytes.fromhex(packed), chunks_per_shard=1)
        np.testing.assert_array_equal(zarr.open(store, mode="r")["train/tokens"][:], [codes])
    assert "K = 391 (b = 9), the sample [1, 2, 390] is `01 04 18 06`" in FORMAT.read_text()


def test_m17_samples_lie_back_to_back_and_missing_ones_decode_to_the_fill_value(example: Path) -> None:
    document = read_json(example / "train/tokens/zarr.json")
    document["shape"] = [4, 2]  # as if the sample that was left out existed
    replace_files(example, {"train/tokens/zarr.json": json.dumps(document).encode()})
    tokens = zarr.open(example, mode="r")["train/tokens"]
    np.testing.assert_array_equal(tokens[:], [*EXAMPLE_CODES, [255, 255]])
    np.testing.assert_array_equal(tokens[3], [255, 255])
    array = zarr.open(example, mode="r+")["train/tokens"]
    array[2:] = np.array([[0, 1], [255, 255]], np.uint8)
    assert (example / SHARD).read_bytes().startswith(bytes.fromhex("11 23") + crc32c(bytes.fromhex("11 23")))
    assert bytes.fromhex("08") + crc32c(bytes.fromhex("08")) in (example / SHARD).read_bytes()


@pytest.mark.parametrize(
    ("payload", "by_zarr", "by_reader"),
    [
        ("11", None, r"expected 2 (packed )?samples of 1 bytes"),
        ("11 23 11", "up to 2 samples of 1 bytes, found 3", r"expected 2 (packed )?samples of 1 bytes"),
        ("11 25", "sample 1, position 0: .*found 5", r"sample 1\): position 0: .*found 5"),
        ("11 c0", "sample 1: expected zero bits as padding", r"sample 1\): expected zero bits as padding"),
    ],
)
def test_m18_bytes_that_no_encoder_wrote_are_refused(
    example: Path, payload: str, by_zarr: str | None, by_reader: str
) -> None:
    shard = shard_of(bytes.fromhex(payload), bytes.fromhex("08"), chunks_per_shard=2)
    replace_files(example, {SHARD: shard})
    if by_zarr is not None:  # fewer samples than the chunk has are fill values to zarr: M17
        assert re.search(by_zarr, refusal_by_zarr(example))
    with pytest.raises(DamageError, match=by_reader):
        tokenstore.open(example)["train"].read("tokens", [0, 1])


def test_m18_half_a_sample_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_store(store, {"train": (np.array([[1, 2, 390]], np.uint16),)}, 391, chunk_samples=1)
    replace_files(store, {SHARD: shard_of(bytes.fromhex("01 04 18"), chunks_per_shard=1)})
    assert "up to 1 samples of 4 bytes, found 3" in refusal_by_zarr(store)
    with pytest.raises(DamageError, match=r"expected 1 (packed )?samples of 4 bytes, found 3"):
        tokenstore.open(store)["train"].read("tokens", [0])


WITHOUT_TOKENSTORE = """
import sys

class NoTokenstore:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tokenstore":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTokenstore())
try:
    import tokenstore
except ModuleNotFoundError:
    pass
else:
    sys.exit("tokenstore is still there")
import json, zarr
split = zarr.open(sys.argv[1], mode="r")["train"]
print(json.dumps({name: split[name][:].tolist() for name in ("tokens", "labels", "masks")}))
"""


def test_m19_a_zstd_store_is_read_where_there_is_no_tokenstore(tmp_path: Path) -> None:
    store = write_full(tmp_path / "store", codec="zstd")
    assert manifest_of(store)["features"] == ["zstd"]
    values = json.loads(run(WITHOUT_TOKENSTORE, store))
    np.testing.assert_array_equal(values["tokens"], FULL_CODES)
    np.testing.assert_array_equal(values["labels"], FULL_LABELS)
    np.testing.assert_array_equal(np.float32(values["masks"]), FULL_MASKS)


def test_m19_its_codecs_are_those_of_zarr_as_are_those_of_other_arrays(full: Path, tmp_path: Path) -> None:
    store = write_full(tmp_path / "store", codec="zstd")
    expected = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        {"name": "crc32c"},
    ]
    for array in (store / "train/tokens", store / "train/masks", full / "train/labels", full / "train/masks"):
        configuration = read_json(array / "zarr.json")["codecs"][0]["configuration"]
        assert configuration["codecs"] == expected
    data = (store / "val/tokens/c/0/0/0").read_bytes()
    offset, length = struct.unpack("<QQ", data[-68:-52])
    payload = data[offset : offset + length - 4]
    assert data[offset + length - 4 : offset + length] == crc32c(payload)
    chunk = pa.Codec("zstd").decompress(payload, decompressed_size=2 * 3 * 4 * 2)
    assert bytes(chunk) == FULL_CODES[:2].astype("<u2").tobytes()


BY_ZARR_ALONE = """
import sys, zarr
assert "tokenstore" not in sys.modules
tokens = zarr.open(sys.argv[1], mode="r")["train/tokens"]
chunk, last = tokens[2:5], tokens[-1]
print([tokens[:].tolist(), chunk.tolist(), last.tolist(), tokens.oindex[[20, 0, 7], 1, :2].tolist()])
"""


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_a_program_that_knows_only_zarr_reads_codes_and_slices(tmp_path: Path, codec: str) -> None:
    store = write_full(tmp_path / "store", codec=codec)
    everything, part, last, selected = json.loads(run(BY_ZARR_ALONE, store))
    np.testing.assert_array_equal(everything, FULL_CODES)
    np.testing.assert_array_equal(part, FULL_CODES[2:5])
    np.testing.assert_array_equal(last, FULL_CODES[20])  # alone in the last chunk
    np.testing.assert_array_equal(selected, FULL_CODES[[20, 0, 7], 1, :2])


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_zarr_reads_a_zip_file(tmp_path: Path, codec: str) -> None:
    path = write_full(tmp_path / "store.zip", codec=codec)
    with ZipStore(path, mode="r") as packed:
        root = zarr.open(packed, mode="r")
        np.testing.assert_array_equal(root["train/tokens"][:], FULL_CODES)
        np.testing.assert_array_equal(root["train/tokens"][19:], FULL_CODES[19:])
        np.testing.assert_array_equal(root["val/labels"][:], FULL_LABELS[:5])


def test_zarr_reads_an_empty_split(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (FULL_CODES[:0], FULL_LABELS[:0])})
    root = zarr.open(tmp_path / "store", mode="r")
    assert root["train/tokens"][:].shape == (0, 3, 4)
    assert pq.read_table(tmp_path / "store/train/samples.parquet").num_rows == 0


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float64], ids=lambda d: d.__name__
)
def test_zarr_reads_a_column_of_any_dtype_and_its_fill_value_is_valid(
    tmp_path: Path, dtype: Callable[..., Any]
) -> None:
    column = np.arange(6).reshape(3, 2).astype(dtype)
    write_store(tmp_path / "store", {"train": (FULL_CODES[:3], None, {"extra": column})})
    np.testing.assert_array_equal(zarr.open(tmp_path / "store", mode="r")["train/extra"][:], column)
    document = read_json(tmp_path / "store/train/extra/zarr.json")
    assert isinstance(document["fill_value"], bool) == (document["data_type"] == "bool")


def test_m20_codes_that_were_numbered_anew_can_be_led_back(tmp_path: Path) -> None:
    identity = TokenizerIdentity("test", "ab" * 32, kept_codes=((3, 5, 8),))
    codes = np.array([[0, 2], [1, 1]], np.uint8)
    write_store(tmp_path / "store", {"train": (codes,)}, 3, tokenizer=identity)
    root = json.loads((tmp_path / "store" / "zarr.json").read_bytes())
    assert root["attributes"]["tokenstore"]["tokenizer"] == {
        "name": "test",
        "fingerprint": "ab" * 32,
        "kept_codes": [[3, 5, 8]],
    }
    read = tokenstore.open(tmp_path / "store").manifest.tokenizer
    assert read == identity
    assert read != TokenizerIdentity("test", "ab" * 32)


def test_m04_vectors_of_an_implicit_codebook_follow_from_the_digits(tmp_path: Path) -> None:
    expected = {
        ("lfq", (2, 2, 2)): [[-1, -1, -1], [1, -1, -1], [-1, 1, -1], [1, 1, -1]],
        ("bsq", (2, 2, 2, 2)): [[-0.5, -0.5, -0.5, -0.5], [0.5, -0.5, -0.5, -0.5]],
        ("fsq", (4, 3)): [[-1, -1], [-0.5, -1], [0, -1], [0.5, -1], [-1, 0]],
    }
    for (kind, levels), vectors in expected.items():
        implicit = ImplicitCodebook(kind, levels)
        identity = TokenizerIdentity("test", "ab" * 32, implicit_codebook=implicit)
        codes = np.arange(implicit.size, dtype=np.uint8).reshape(1, 2, -1)
        out = tmp_path / kind
        write_store(out, {"train": (codes,)}, implicit.size, tokenizer=identity, codebook=implicit.table())
        tokenizer = json.loads((out / "zarr.json").read_bytes())["attributes"]["tokenstore"]["tokenizer"]
        assert tokenizer["implicit_codebook"] == {"kind": kind, "levels": list(levels)}
        assert not (out / "codebook").exists()
        table = tokenstore.open(out).codebook
        assert table.dtype == np.float32
        assert table.shape == (implicit.size, len(levels))
        np.testing.assert_array_equal(table[: len(vectors)], vectors)
        assert verify(out).problems == []


def test_m04_an_implicit_codebook_of_other_codes_or_rules_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (np.zeros((2, 4), np.uint8),)}, 6)
    for wrong in (
        {"kind": "fsq", "levels": [2, 2]},
        {"kind": "lfq", "levels": [2, 3]},
        {"kind": "vq", "levels": [2, 3]},
        {"kind": "fsq", "levels": [6, 1]},
        {"kind": "fsq", "levels": []},
        {"kind": "fsq", "levels": [2.0, 3]},
        {"kind": "fsq", "levels": [65536] * 65},
        {"kind": "fsq"},
        "fsq",
    ):
        edit_root(
            tmp_path / "store",
            lambda root, wrong=wrong: root["attributes"]["tokenstore"]["tokenizer"].update(
                implicit_codebook=wrong
            ),
        )
        with pytest.raises(ManifestError, match="implicit_codebook"):
            tokenstore.open(tmp_path / "store")


@pytest.mark.parametrize(
    "kept", [[[3, 5]], [[3, 8, 5]], [[3, 3, 5]], [[3, 5, -1]], [[3, 5, "8"]], [], "all", [3, 5, 8]]
)
def test_m20_a_map_that_is_none_is_refused(tmp_path: Path, kept: object) -> None:
    write_store(tmp_path / "store", {"train": (np.array([[0, 2]], np.uint8),)}, 3)
    edit_root(
        tmp_path / "store",
        lambda root: root["attributes"]["tokenstore"]["tokenizer"].update(kept_codes=kept),
    )
    with pytest.raises(ManifestError, match="kept_codes"):
        tokenstore.open(tmp_path / "store")

"""The codec inside Zarr: any reader's `zarr.open` gives codes; edges, shards, damage, wrong metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from tokenstore.codecs import bitpack
from tokenstore.codecs.zarr import BitPackCodec
from tokenstore.errors import CodecError

SHARDED = {"shards": (8, 2, 2), "compressors": [{"name": "crc32c"}]}
BARE: dict[str, Any] = {"compressors": None}


def codec(codebook_size: int) -> dict[str, Any]:
    return {"name": "tokenstore.bitpack", "configuration": {"codebook_size": codebook_size}}


def create(
    store: Any, codebook_size: int = 5, shape: tuple[int, ...] = (7, 2, 2), chunk: int = 4, **keywords: Any
) -> Any:
    """Make an array of 7 samples in two chunks of four; the second chunk has room for one more."""
    dtype = bitpack.code_dtype(codebook_size)
    keywords = {"dtype": dtype, "fill_value": int(np.iinfo(dtype).max), **BARE, **keywords}
    return zarr.create_array(
        store, shape=shape, chunks=(chunk, *shape[1:]), serializer=codec(codebook_size), **keywords
    )


def random_codes(shape: tuple[int, ...], codebook_size: int) -> npt.NDArray[Any]:
    codes = np.random.default_rng(0).integers(0, codebook_size, shape)
    return codes.astype(bitpack.code_dtype(codebook_size))


@pytest.mark.parametrize("layout", [BARE, SHARDED, {"compressors": "auto"}], ids=["bare", "sharded", "zstd"])
def test_codes_come_back_by_any_selection(layout: dict[str, Any]) -> None:
    store = MemoryStore()
    codes = random_codes((7, 2, 2), 5)
    create(store, **layout)[...] = codes
    array = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(array[...], codes)
    np.testing.assert_array_equal(array[5], codes[5])
    np.testing.assert_array_equal(array[2:6, 1], codes[2:6, 1])
    np.testing.assert_array_equal(array.oindex[[0, 3, 6]], codes[[0, 3, 6]])


@given(
    codebook_size=st.sampled_from([1, 2, 255, 256, 391, 65535, 65536, 2**31]),
    grid=st.lists(st.integers(1, 5), max_size=3).map(tuple),
    samples=st.integers(1, 20),
    chunk=st.integers(1, 8),
    chunks_per_shard=st.integers(1, 4),
)
@settings(deadline=None)
def test_any_shape_comes_back_from_shards(
    codebook_size: int, grid: tuple[int, ...], samples: int, chunk: int, chunks_per_shard: int
) -> None:
    store = MemoryStore()
    codes = random_codes((samples, *grid), codebook_size)
    shards = (chunk * chunks_per_shard, *grid)
    array = create(store, codebook_size, codes.shape, chunk, **{**SHARDED, "shards": shards})
    array[...] = codes
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], codes)


def test_a_process_that_never_imports_tokenstore_reads_the_codes(tmp_path: Path) -> None:
    codes = random_codes((7, 2, 2), 391)
    create(tmp_path / "tokens", 391, **SHARDED)[...] = codes
    script = "import sys, zarr; print(zarr.open(sys.argv[1], mode='r')[...].ravel().tolist())"
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "tokens")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == codes.ravel().tolist()


def test_importing_the_codecs_does_not_import_zarr() -> None:
    script = "import sys, tokenstore.codecs; sys.exit('zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_chunk_is_its_samples_back_to_back(tmp_path: Path) -> None:
    """Write the worked example of the packing twice, then zeros; the fourth sample is past the end."""
    array = create(tmp_path / "tokens", shape=(3, 2, 2))
    array[...] = np.array([[[1, 2], [3, 4]], [[1, 2], [3, 4]], [[0, 0], [0, 0]]], np.uint8)
    stored = (tmp_path / "tokens/c/0/0/0").read_bytes()
    assert stored == bytes([0xD1, 0x08, 0xD1, 0x08, 0x00, 0x00])


def test_samples_missing_at_the_end_of_a_chunk_are_fill_value() -> None:
    store = MemoryStore()
    array = create(store)
    array[:2] = 3
    np.testing.assert_array_equal(array[:2], 3)
    np.testing.assert_array_equal(array[2:], 255)


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
def test_a_chunk_of_fill_value_alone_is_an_empty_payload(layout: dict[str, Any]) -> None:
    store = MemoryStore()
    create(store, config={"write_empty_chunks": True}, **layout)[...] = 255
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], 255)


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
def test_fill_value_before_codes_is_refused(layout: dict[str, Any]) -> None:
    array = create(MemoryStore(), **layout)
    with pytest.raises(CodecError, match=r"sample 0, position 0: .* codebook size 5, found 255"):
        array[1] = 0


def test_a_code_out_of_range_is_refused() -> None:
    codes = np.zeros((7, 2, 2), np.uint8)
    codes[5, 1, 0] = 5
    with pytest.raises(CodecError, match=r"sample 1, position 2: .* codebook size 5, found 5"):
        create(MemoryStore())[...] = codes


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([0xD1], "up to 4 samples of 2 bytes, found 1 bytes"),
        ([0xD1, 0x08, 0xD1], "up to 4 samples of 2 bytes, found 3 bytes"),
        ([0xD1, 0x08] * 5, "up to 4 samples of 2 bytes, found 10 bytes"),
        ([0xD1, 0x08, 0xD1, 0x18], "sample 1: expected zero bits as padding"),
        ([0xD5, 0x08], "sample 0, position 0: .* codebook size 5, found 5"),
    ],
)
def test_bytes_that_no_encoder_wrote_are_refused(tmp_path: Path, payload: list[int], message: str) -> None:
    array = create(tmp_path / "tokens")
    array[...] = 0
    (tmp_path / "tokens/c/0/0/0").write_bytes(bytes(payload))
    with pytest.raises(CodecError, match=message):
        array[:4]


def test_a_flipped_bit_fails_the_checksum(tmp_path: Path) -> None:
    array = create(tmp_path / "tokens", **SHARDED)
    array[...] = 0
    shard = tmp_path / "tokens/c/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[0] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match="checksum"):
        array[0]


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
@pytest.mark.parametrize(
    "wrong", [{"fill_value": 0}, {"dtype": "uint16"}, {"dtype": "int8", "fill_value": -1}]
)
def test_an_array_of_another_dtype_or_fill_value_is_refused(
    layout: dict[str, Any], wrong: dict[str, Any]
) -> None:
    with pytest.raises(CodecError, match=r"5 codes need an array .* of uint8 with fill value 255, found"):
        create(MemoryStore(), **{**layout, **wrong})


def test_a_big_endian_array_stores_the_same_bytes(tmp_path: Path) -> None:
    codes = random_codes((7, 2, 2), 391)
    create(tmp_path / "little", 391)[...] = codes
    array = create(tmp_path / "big", 391, dtype=">u2")
    array[...] = codes.astype(">u2")
    np.testing.assert_array_equal(array[...], codes)
    for chunk in ("c/0/0/0", "c/1/0/0"):
        assert (tmp_path / "big" / chunk).read_bytes() == (tmp_path / "little" / chunk).read_bytes()


def test_metadata_round_trips() -> None:
    written = BitPackCodec(391).to_dict()
    assert written == codec(391)
    assert BitPackCodec.from_dict(written) == BitPackCodec(391)


@pytest.mark.parametrize(
    "configuration",
    [None, {}, {"bits": 9}, {"codebook_size": 391, "order": "big"}]
    + [{"codebook_size": wrong} for wrong in (0, -1, 2**31 + 1, "391", 391.0, True, None)],
    ids=str,
)
def test_a_wrong_configuration_is_refused(configuration: Any) -> None:
    with pytest.raises(CodecError, match="expected"):
        BitPackCodec.from_dict({"name": "tokenstore.bitpack", "configuration": configuration})

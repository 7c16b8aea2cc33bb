"""FORMAT.md's MUSTs on the codec `context` (M11 and M21 to M27), one test each, and its worked example."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers import plain_context
from helpers.conformance import FORMAT, crc32c, manifest_of, read_json
from helpers.context_models import codes_of, random_model, worked_model
from helpers.stores import write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import codec_from_zarr
from tokenstore.codecs.context import Context, ContextModel
from tokenstore.codecs.context.streams import Streams
from tokenstore.codecs.context.tree import CodeTree
from tokenstore.codecs.zarr import ContextCodec
from tokenstore.errors import (
    CodecError,
)

WORKED_HEAD = "01 02 0100 03000000 01 00 01 00 05"
WORKED_CHUNK = "01 03000000 00000000 01 05 d1 fb"
WORKED_CODES = np.array([[[1, 2]], [[0, 0]], [[2, 2]]], np.uint8)


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    """Write a store of two chunks: 20 samples coded by the worked model, and a packed chunk."""
    codes = np.zeros((21, 1, 2), np.uint8)
    codes[3], codes[20] = (1, 2), (2, 1)
    write_store(
        tmp_path / "coded", {"train": (codes,)}, 3, codec="context", model=worked_model(), chunk_samples=20
    )
    return tmp_path / "coded"


def context_codec(store: Path) -> Any:
    return codec_from_zarr(
        read_json(store / "train/tokens/zarr.json")["codecs"][0]["configuration"]["codecs"][:-1]
    )


def test_m11_a_context_model_is_in_the_metadata_of_its_array_alone(coded: Path) -> None:
    assert "consolidated_metadata" not in read_json(coded / "zarr.json")
    assert zarr.open(coded, mode="r")["train/tokens"][3].tolist() == [[1, 2]]  # type: ignore[index]
    assert verify(coded).ok


def test_m21_a_chunk_is_packed_or_has_streams_and_their_lengths(coded: Path) -> None:
    shard = (coded / "train/tokens/c/0/0/0").read_bytes()
    streams = "01 14000000 00000000 01 080000 d1"  # 20 lengths of 1 bit: only that of sample 3 is 1
    first, second = bytes.fromhex(streams), bytes.fromhex("00 06")
    assert shard.startswith(first + crc32c(first) + second + crc32c(second))
    codec = context_codec(coded)
    out = np.empty_like(WORKED_CODES)
    codec.decode(np.frombuffer(bytes.fromhex(WORKED_CHUNK), np.uint8), out)
    np.testing.assert_array_equal(out, WORKED_CODES)
    text = FORMAT.read_text()
    assert f"`{WORKED_CHUNK}`" in text.replace("  ", " ")
    streams = [plain_context.encoded(worked_model(), (1, 2), codes.ravel()) for codes in WORKED_CODES]
    assert [stream.hex() for stream in streams] == ["d1", "", "fb"]


def test_m21_missing_samples_decode_to_the_fill_value(coded: Path) -> None:
    tokens = zarr.open(coded, mode="r")["train/tokens"]
    assert tokens.shape == (21, 1, 2)  # type: ignore[union-attr]
    codec = ContextCodec(3, base64.b64encode(worked_model().to_bytes()).decode())
    array = zarr.create_array(
        {},
        shape=(4, 1, 2),
        chunks=(4, 1, 2),
        dtype="uint8",
        fill_value=255,
        serializer=codec,
        compressors=None,
    )
    array[:3] = WORKED_CODES
    np.testing.assert_array_equal(array[:], np.concatenate([WORKED_CODES, [[[255, 255]]]]))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("", "found no bytes"),
        ("02 00", "form 0 or 1, found 2"),
        ("01 01000000 00", "a head of 10 bytes"),
        ("01 00000000 00000000 00", "0 streams"),
        ("01 01000000 02000000 00 d1", "1 streams of at least 2 bytes"),
        ("01 01000000 01000000 00 d1 00", "streams of 1 bytes, found 2"),
        ("01 02000000 00000000 01 03 d1", "streams of 2 bytes, found 1"),
        ("01 04000000 00000000 00", "at most 3 samples, found 4"),
        ("00 01 02 03 04", "at most 3 samples, found 4"),
        ("00 03 00 00", "expected a code below the codebook size 3"),
        ("01 03000000 04000000 00 ffffffff d1000000 00000000", "expected a stream of the context codec"),
    ],
)
def test_m22_bytes_that_no_encoder_wrote_are_refused(payload: str, message: str) -> None:
    codec = Context(3, worked_model())
    data = np.frombuffer(bytes.fromhex(payload), np.uint8)

    def decode() -> None:
        located = codec.spans(data, (1, 2), at_most=3)
        rows = np.arange(len(located.addresses))
        codec.decode_spans([located], np.zeros_like(rows), rows, np.empty((len(rows), 1, 2), np.uint8))

    with pytest.raises(CodecError, match=message):
        decode()


def test_m22_streams_without_a_model_are_refused() -> None:
    codec = Context(3, None)
    with pytest.raises(CodecError, match="has none"):
        codec.decode(np.frombuffer(bytes.fromhex(WORKED_CHUNK), np.uint8), np.empty((3, 1, 2), np.uint8))


def test_m23_the_model_is_a_head_and_compressed_arrays(coded: Path) -> None:
    configuration = read_json(coded / "train/tokens/zarr.json")["codecs"][0]["configuration"]["codecs"][0]
    assert configuration["name"] == "tokenstore.context"
    assert configuration["configuration"].keys() == {"codebook_size", "model"}
    data = base64.b64decode(configuration["configuration"]["model"])
    head = bytes.fromhex(WORKED_HEAD)
    assert data.startswith(head)
    arrays = ["00 ff", "0000 0100 0200", "00" * 64, "00" * 96, "0000 00ff 00fe"]
    assert zlib.decompress(data[len(head) :]) == bytes.fromhex("".join(arrays))
    assert WORKED_HEAD in re.sub(r" +", " ", FORMAT.read_text())


def test_m23_digits_of_a_large_codebook_are_coded_as_codebooks_of_their_own(tmp_path: Path) -> None:
    size, digits = 70_000, (300, 234)
    model = random_model(digits, 2)
    codes = np.array([[0, 69_999, 301], [299, 300, 45_678]], np.uint32)
    planes = np.stack([codes % 300, codes // 300], axis=1).astype(np.uint16)
    write_store(tmp_path / "store", {"train": (codes,)}, size, codec="context", model=model)
    assert manifest_of(tmp_path / "store")["features"] == ["context", "digits"]
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "store")["train"][:], codes)
    streams, lengths = Streams(model, (2, 3)).encode(planes.reshape(2, 6))
    coded = Context(size, model)._coded(codes, (3,))
    assert coded.endswith(streams)
    assert lengths.sum() == len(streams)
    for wrong in ((300, 233), (300, 234, 2), (65_536,)):
        with pytest.raises(CodecError, match="digits of 70000 codes"):
            Context(size, random_model(wrong, 2 if len(wrong) > 1 else 1))


@pytest.mark.parametrize(
    ("size", "levels", "fan"),
    [
        (1, 0, 1),
        (2, 1, 2),
        (32, 1, 32),
        (33, 2, 6),
        (391, 2, 20),
        (1024, 2, 32),
        (1025, 3, 11),
        (65536, 4, 16),
    ],
)
def test_m24_a_code_is_named_by_the_digits_of_its_place(size: int, levels: int, fan: int) -> None:
    tree = CodeTree.of(size)
    assert (tree.levels, tree.fan) == (levels, fan) == plain_context.tree_of(size)
    assert fan**levels >= size
    assert tree.children == sum(-(-size // fan**below) for below in range(levels))


STREAMED = pytest.mark.parametrize(
    ("grid", "sizes"), [((5,), (391,)), ((3, 4), (40,)), ((2, 3, 4), (391, 7)), ((2, 2, 3), (33,))]
)


def assert_streams_are_those_of_the_plain_version(
    model: ContextModel, codes: Any, grid: tuple[int, ...]
) -> None:
    flat = codes.reshape(len(codes), -1)
    streams, lengths = Streams(model, grid).encode(flat)
    for sample, end, length in zip(flat, np.cumsum(lengths), lengths, strict=True):
        stream = streams[end - length : end]
        assert stream == plain_context.encoded(model, grid, sample.tolist())
        assert plain_context.decoded(model, grid, stream) == sample.tolist()


@STREAMED
def test_m25_hidden_lanes_are_those_of_the_plain_version(
    grid: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    """Contexts, mean and trace that matter much: a slip in one of them ends in other bytes."""
    for seed in range(4):
        model = random_model(sizes, len(grid), contexts=6, components=9, logit_shift=5, seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, grid, 4, seed), grid)


def test_m26_frequencies_fall_by_half_for_256() -> None:
    expected = {0: 32768, 1: 32683, 128: 23168, 255: 16427, 256: 16384, 15 * 256: 1, 16 * 256: 1, 10**6: 1}
    assert {below: plain_context.frequency(below) for below in expected} == expected
    for seed in range(4):  # wide logits, and such as wrap
        model = random_model((391,), 2, extreme=True, seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, (3, 3), 3, seed), (3, 3))


@STREAMED
def test_m27_streams_are_those_of_the_plain_version(grid: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    for seed in range(4):
        model = random_model(sizes, len(grid), seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, grid, 9, seed), grid)


def test_m27_a_stream_with_a_number_in_no_interval_is_refused() -> None:
    stream = bytes.fromhex("ffffffff")
    with pytest.raises(plain_context.NoStreamError):
        plain_context.decoded(worked_model(), (1, 2), stream)
    payload = np.frombuffer(bytes.fromhex("01 01000000 04000000 00") + stream, np.uint8)
    with pytest.raises(CodecError, match="sample 0: expected a stream"):
        Context(3, worked_model()).decode(payload, np.empty((1, 1, 2), np.uint8))

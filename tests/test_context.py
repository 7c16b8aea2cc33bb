"""The context codec: literal bytes, the plain version it equals, its model, hostile bytes, threads, Zarr."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plain_context as plain
import pytest
import zarr
from context_models import changed, codes_of, grids, models, random_model, smooth_codes, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from tokenstore.codecs import bitpack
from tokenstore.codecs.context import Context, ContextModel
from tokenstore.codecs.context.codec import Located
from tokenstore.codecs.context.streams import Streams
from tokenstore.codecs.zarr import ContextCodec
from tokenstore.errors import CodecError

Codes = npt.NDArray[Any]
HEAD = struct.Struct("<BIIB")
TINY_STREAMS = {
    (0, 2, 1, 1): "7b",
    (2, 2, 2, 2): "",
    (1, 0, 0, 1): "e8",
    (0, 0, 0, 0): "8b",
    (1, 1, 2, 0): "f5",
}


def payload_of(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def decoded(codec: Context, payload: bytes, samples: int, grid: tuple[int, ...]) -> Codes:
    out = np.empty((samples, *grid), bitpack.code_dtype(codec.codebook_size))
    codec.decode(payload_of(payload), out)
    return out


def coded_payload(codec: Context, codes: Codes) -> bytes:
    """The payload of codes by the model, even where packing takes fewer bytes."""
    streams, lengths = codec.streams(codes.shape[1:]).encode(codes.reshape(len(codes), -1))
    longer = lengths - lengths.min()
    width = int(longer.max()).bit_length()
    head = HEAD.pack(1, len(codes), int(lengths.min()), width)
    return head + plain.packed(longer.tolist(), width) + streams


def agrees_with_the_plain_version(model: ContextModel, grid: tuple[int, ...], codes: Codes) -> None:
    streams = Streams(model, grid)
    flat = codes.reshape(len(codes), -1)
    written, lengths = streams.encode(flat)
    expected = [plain.encoded(model, grid, sample) for sample in flat.tolist()]
    assert written == b"".join(expected)
    assert lengths.tolist() == [len(stream) for stream in expected]
    assert [plain.decoded(model, grid, stream) for stream in expected] == flat.tolist()
    out = np.empty(flat.shape, flat.dtype)
    located = payload_of(written or b"\0")
    assert streams.decode(located.ctypes.data + np.cumsum(lengths) - lengths, lengths, out) == -1
    np.testing.assert_array_equal(out, flat)


# --- literal bytes


def test_the_bytes_of_the_model_are_those_of_the_worked_example() -> None:
    data = tiny_model().to_bytes()
    assert data[:4] == bytes([1, 2, 1, 0])  # version, axes, codebooks
    assert data[4:13] == bytes([3, 0, 0, 0, 1, 1, 8, 1, 1])  # codes, contexts, components, shifts, fade
    assert zlib.decompress(data[13:]) == (
        bytes([0, 255])  # the context (0, -1)
        + bytes([2, 0, 0, 0, 1, 0])  # the order 2, 0, 1
        + bytes([0, 1])  # the gain 256
        + bytes([255, 0, 1, 2])  # the component: -1 for no code
        + bytes([10, *[0] * 31, 0, 64, *[0] * 30, 0, 0, 8, *[0] * 29])  # readers
        + bytes([0, 0, 0, 0, 0, 0, 5, 0, *[0] * 56])  # the bias of lane 3
        + bytes([20, 0, 1, 4, *[0] * 28, 0, 3, 2, 0, *[0] * 28, 256 - 20, 0, 3, 256 - 4, *[0] * 28])
        + bytes([100, 0, 0, 0, 156, 255])  # biases 100, 0, -100
    )


def test_the_first_frequencies_are_those_of_the_worked_example() -> None:
    """No code to the left gives lane 0 -10, the bias lane 3 5. Weighted and halved, with the alternatives'
    biases: (200 - 200 + 20) / 2 = 10, 0 and (-200 + 200 - 20) / 2 = -10. One that is 10 / 256 below the first
    has 2 ** 15 - 10 * (22016 - 220) / 256 = 31917 to its 32768.
    """
    seen = []
    plain.walk(tiny_model(), (2, 2), lambda position, level, found: seen.append(found) or 0)
    assert seen[0] == [32768, 31917, 31083]


@pytest.mark.parametrize(("codes", "stream"), TINY_STREAMS.items(), ids=str)
def test_the_bytes_of_a_stream_are_those_of_the_worked_example(codes: tuple[int, ...], stream: str) -> None:
    model, streams = tiny_model(), Streams(tiny_model(), (2, 2))
    assert plain.encoded(model, (2, 2), codes).hex() == stream
    assert streams.encode(np.array([codes], np.uint8))[0].hex() == stream
    assert plain.decoded(model, (2, 2), bytes.fromhex(stream)) == list(codes)
    data, out = payload_of(bytes.fromhex(stream) + b"\xff"), np.empty((1, 4), np.uint8)
    assert streams.decode(np.array([data.ctypes.data]), np.array([len(stream) // 2]), out) == -1
    assert out.tolist() == [list(codes)]


def test_the_bytes_of_a_chunk_are_those_of_the_worked_example() -> None:
    """Sixty samples of two codes in turn: form 1, 60 samples, the shortest of 0 bytes, one bit a length."""
    codes = np.array([[[2, 2], [2, 2]], [[0, 2], [1, 1]]] * 30, np.uint8)
    written = Context(3, tiny_model()).encode(codes, 60, 255)
    assert written == (
        bytes([1, 60, 0, 0, 0, 0, 0, 0, 0, 1]) + bytes([0b10101010] * 7 + [0b1010]) + bytes([0x7B]) * 30
    )
    np.testing.assert_array_equal(decoded(Context(3, tiny_model()), written, 60, (2, 2)), codes)


def test_a_chunk_that_the_model_makes_no_shorter_is_packed() -> None:
    codes = np.array([[[0, 2], [1, 1]]], np.uint8)
    assert Context(3, tiny_model()).encode(codes, 1, 255) == bytes([0, 0b01011000])
    assert Context(3, None).encode(codes, 1, 255) == bytes([0, 0b01011000])


# --- the plain version


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=120)
def test_streams_equal_the_plain_version(data: Any, seed: int) -> None:
    model = data.draw(models())
    grid = data.draw(grids(model))
    agrees_with_the_plain_version(model, grid, codes_of(model, grid, 2, seed))


@pytest.mark.parametrize("logit_shift", range(16))
def test_extreme_models_equal_the_plain_version(logit_shift: int) -> None:
    """All integers take any value of theirs: rows saturate, hidden lanes wrap, alternatives are at 1."""
    model = random_model((391,), extreme=True, logit_shift=logit_shift, row_shift=20, seed=logit_shift)
    rows = model.rows(0)
    assert rows.min() == -127
    assert rows.max() == 127
    agrees_with_the_plain_version(model, (4, 4), codes_of(model, (4, 4), 9))


def test_hidden_lanes_wrap_as_the_plain_version_does() -> None:
    bias = np.tile(np.array([2**15 - 1, -(2**15)], np.int16), 32)
    model = changed(random_model((40,), components=3, row_shift=1, logit_shift=15), bias=bias)
    agrees_with_the_plain_version(model, (4, 4), codes_of(model, (4, 4), 3))


@pytest.mark.parametrize("fade", [1, 2, 8, 15, 16])
@pytest.mark.parametrize("row_shift", [1, 13, 40])
def test_every_fade_and_row_shift_equals_the_plain_version(fade: int, row_shift: int) -> None:
    model = random_model((33,), 1, fade=fade, row_shift=row_shift, extreme=row_shift > 1)
    agrees_with_the_plain_version(model, (40,), codes_of(model, (40,), 1))


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 257, 391, 1024, 1025, 32768, 32769, 40000, 65536])
def test_every_depth_of_the_tree_equals_the_plain_version(size: int) -> None:
    model = random_model((size,), contexts=2, components=2, extreme=size == 40000, row_shift=20)
    agrees_with_the_plain_version(model, (3, 3), codes_of(model, (3, 3), 3))


@pytest.mark.parametrize(
    ("sizes", "grid"),
    [
        ((391, 3, 1, 33), (4, 2, 2)),
        ((2, 1025), (2, 3)),
        ((1, 1), (2, 2, 2)),
        ((32, 16, 8), (3, 2, 2, 2)),
        ((1, 65536), (2, 2)),
    ],
)
def test_codebooks_of_different_sizes_equal_the_plain_version(
    sizes: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    model = random_model(sizes, len(grid), contexts=3, components=2)
    agrees_with_the_plain_version(model, grid, codes_of(model, grid, 3))


def test_many_contexts_and_components_equal_the_plain_version() -> None:
    model = random_model((70,), contexts=16, components=64, extreme=True, row_shift=34)
    agrees_with_the_plain_version(model, (5, 5), codes_of(model, (5, 5), 2))


def test_carries_run_through_many_bytes_as_in_the_plain_version() -> None:
    """Two alternatives, the second of which is likeliest: its streams begin high, and carries are common."""
    model = changed(
        random_model((2,), 1, components=0, logit_shift=0), biases=np.array([-3000, 3000], np.int16)
    )
    random = np.random.default_rng(0)
    codes = (random.random((200, 64)) < 0.03).astype(np.uint8)
    agrees_with_the_plain_version(model, (64,), model.planes[0].order.astype(np.uint8)[1 - codes])


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_stream_decodes_as_in_the_plain_version_or_is_refused(data: Any) -> None:
    model = data.draw(models())
    grid = data.draw(grids(model))
    stream = data.draw(st.binary(max_size=24))
    streams, out = Streams(model, grid), np.full((1, np.prod(grid)), -1, np.int64)
    held = payload_of(stream + b"\xff")
    wrong = streams.decode(np.array([held.ctypes.data]), np.array([len(stream)]), out)
    try:
        expected = plain.decoded(model, grid, stream)
    except plain.NoStreamError:
        assert wrong == 0
        assert in_range(model, out)
    else:
        assert wrong == -1
        assert out[0].tolist() == expected


@given(data=st.data(), samples=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_chunks_equal_the_plain_version(data: Any, samples: int, seed: int) -> None:
    model = data.draw(models((1, 2, 3, 33)))
    grid = data.draw(grids(model, longest=3))
    codes = codes_of(model, grid, samples, seed)
    codec = Context(model.codebook_size, model)
    assert codec.encode(codes, samples, 0) == plain.chunk(model, model.codebook_size, codes)


# --- round trips


@given(
    data=st.data(),
    samples=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.int32, np.int64]),
)
@settings(deadline=None, max_examples=80)
def test_any_codes_come_back_in_any_order(data: Any, samples: int, seed: int, dtype: type) -> None:
    sizes = (1, 2, 3, 33) if dtype == np.uint8 else (2, 33, 391)
    model = data.draw(models(sizes))
    grid = data.draw(grids(model))
    codes = codes_of(model, grid, samples, seed)
    codec = Context(model.codebook_size, model)
    rows = np.array(data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=25)))
    for payload in (codec.encode(codes, samples, 0), coded_payload(codec, codes)):
        whole, some = np.empty(codes.shape, dtype), np.empty((len(rows), *grid), dtype)
        codec.decode(payload_of(payload), whole)
        np.testing.assert_array_equal(whole, codes)
        codec.decode_rows(payload_of(payload), rows, some)
        np.testing.assert_array_equal(some, codes[rows])


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 16, 17])
def test_samples_beside_one_another_do_not_touch(samples: int) -> None:
    """A sample's codes are the same alone and in whichever place among those decoded side by side."""
    codec = Context(391, random_model())
    codes = codes_of(codec.model, (5, 6), samples, seed=samples)  # type: ignore[arg-type]
    payload = payload_of(coded_payload(codec, codes))
    for row in range(samples):
        out = np.empty((1, 5, 6), np.uint16)
        codec.decode_rows(payload, np.array([row]), out)
        np.testing.assert_array_equal(out[0], codes[row])
    streams = [coded_payload(codec, codes[row : row + 1])[HEAD.size :] for row in range(samples)]
    assert payload.tobytes().endswith(b"".join(streams))


def test_samples_come_from_several_chunks_packed_and_coded() -> None:
    codec = Context(391, random_model())
    codes = codes_of(codec.model, (4, 4), 12)  # type: ignore[arg-type]
    chunks = [
        codec.locate(payload_of(coded_payload(codec, codes[:5])), (4, 4)),
        codec.locate(payload_of(Context(391, None).encode(codes[5:], 7, 0)), (4, 4)),
    ]
    assert [located.packed for located in chunks] == [False, True]
    chunk, row = np.array([1, 0, 0, 1, 1, 0]), np.array([6, 4, 0, 0, 6, 4])
    out = np.empty((6, 4, 4), np.int64)
    codec.decode_at(chunks, chunk, row, out)
    np.testing.assert_array_equal(out, codes[5 * chunk + row])


def test_a_code_of_another_codebooks_size_is_refused() -> None:
    codec = Context(33, random_model((33, 3), 3))
    codes = np.zeros((4, 2, 2, 2), np.uint8)
    codes[2, 1, 1, 0] = 3
    with pytest.raises(CodecError, match="sample 2, codebook 1: expected codes below 3, found 3"):
        codec.encode(codes, 4, 255)


def test_a_code_out_of_range_is_refused() -> None:
    codes = np.zeros((4, 2, 2), np.uint8)
    codes[1, 1, 0] = 3
    with pytest.raises(CodecError, match=r"sample 1, position 2: .* codebook size 3, found 3"):
        Context(3, tiny_model()).encode(codes, 4, 255)


@pytest.mark.parametrize("grid", [(4,), (2, 2, 2)])
def test_a_grid_of_other_axes_is_refused(grid: tuple[int, ...]) -> None:
    codec = Context(3, tiny_model())
    with pytest.raises(CodecError, match=rf"expected a grid of 2 axes, .* found \({grid[0]}"):
        codec.encode(np.zeros((2, *grid), np.uint8), 2, 255)


def test_a_grid_of_another_number_of_codebooks_is_refused() -> None:
    codec = Context(3, random_model((3, 3), 2))
    with pytest.raises(CodecError, match=r"a grid of 2 axes whose first has 2, .* found"):
        codec.encode(np.zeros((2, 3, 2), np.uint8), 2, 255)


@pytest.mark.parametrize("rows", [[-1], [0, 4]])
def test_rows_that_the_chunk_has_not_are_refused(rows: list[int]) -> None:
    codec = Context(3, tiny_model())
    payload = codec.encode(np.zeros((4, 2, 2), np.uint8), 4, 255)
    with pytest.raises(CodecError, match="expected rows below 4"):
        codec.decode_rows(payload_of(payload), np.array(rows), np.empty((len(rows), 2, 2), np.uint8))


def test_a_codec_without_a_model_refuses_coded_chunks() -> None:
    payload = coded_payload(Context(3, tiny_model()), np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(CodecError, match="coded by a context model, and the codec has none"):
        decoded(Context(3, None), payload, 4, (2, 2))


def test_a_model_of_another_codebook_is_refused() -> None:
    with pytest.raises(CodecError, match="a context model of 4 codes, found one of 3"):
        Context(4, tiny_model())


# --- the model


@given(model=models())
@settings(deadline=None, max_examples=40)
def test_a_model_comes_back_from_its_bytes(model: ContextModel) -> None:
    again = ContextModel.from_bytes(model.to_bytes())
    assert again.to_bytes() == model.to_bytes()
    assert (again.rank, again.codebook_size, again.lanes) == (model.rank, model.codebook_size, model.lanes)
    for plane, other in zip(model.planes, again.planes, strict=True):
        for name, value in vars(plane).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)


def test_a_model_cut_anywhere_is_refused() -> None:
    for model in (tiny_model(), random_model((33, 2), 3, contexts=2, components=1)):
        data = model.to_bytes()
        for length in range(len(data)):
            with pytest.raises(CodecError, match="expected a context model of version 1"):
                ContextModel.from_bytes(data[:length])


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Some bits flipped, bytes set, cut out, or put in."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, len(changed) + 1))
        match int(random.integers(0, 5)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(random.integers(0, 8))
            case 1 if at < len(changed):
                changed[at] = int(random.choice([0, 1, 127, 128, 255]))
            case 2:
                del changed[at : at + int(random.integers(1, 9))]
            case 3:
                changed[at:at] = random.bytes(int(random.integers(1, 9)))
            case 4:
                del changed[at:]
    return bytes(changed)


def recompressed(data: bytes, heads: int, random: np.random.Generator) -> bytes:
    """A model whose arrays are mutated, and its head left."""
    return data[:heads] + zlib.compress(mutated(zlib.decompress(data[heads:]), random))


@pytest.mark.parametrize(
    ("model", "grid"),
    [(tiny_model(), (3, 3)), (random_model((33, 5), 3, components=2), (2, 3, 3))],
    ids=["one", "two"],
)
def test_a_mutated_model_is_refused_or_decodes_in_range(model: ContextModel, grid: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    data = model.to_bytes()
    heads = 4 + 9 * len(model.planes)
    held = payload_of(random.bytes(64))
    survived = 0
    for attempt in range(500):
        body_only = attempt % 2
        changed = (
            recompressed(data, heads, random) if body_only else mutated(data[:heads], random) + data[heads:]
        )
        if attempt % 10 == 0:
            changed = mutated(data, random)
        try:
            found = ContextModel.from_bytes(changed)
        except CodecError:
            continue
        survived += 1
        out = np.full((2, np.prod(grid)), -1, np.int64)
        try:
            Streams(found, grid).decode(held.ctypes.data + np.array([0, 30]), np.array([30, 34]), out)
        except CodecError:
            continue
        assert in_range(found, out)
    assert 20 < survived < 480


def in_range(model: ContextModel, out: Codes) -> bool:
    planes = out.reshape(len(out), len(model.planes), -1)
    return all(
        bool((planes[:, at] >= 0).all() and (planes[:, at] < plane.size).all())
        for at, plane in enumerate(model.planes)
    )


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 2, "found version 2"),
        (1, 0, "1 codebooks of grids of 0 axes"),
        (1, 17, "1 codebooks of grids of 17 axes"),
        (2, 0, "0 codebooks of grids of 2 axes"),
        (3, 2, "513 codebooks of grids of 2 axes"),
        (4, 0, "0 codes with 1 contexts"),
        (6, 2, "131075 codes with 1 contexts"),
        (8, 0, "3 codes with 0 contexts"),
        (8, 17, "3 codes with 17 contexts"),
        (9, 65, "65 components, shifts of 8, 1 and 1"),
        (10, 0, "1 components, shifts of 0, 1 and 1"),
        (10, 41, "1 components, shifts of 41, 1 and 1"),
        (11, 16, "1 components, shifts of 8, 16 and 1"),
        (12, 0, "1 components, shifts of 8, 1 and 0"),
        (12, 17, "1 components, shifts of 8, 1 and 17"),
    ],
)
def test_a_head_out_of_range_is_refused(at: int, value: int, message: str) -> None:
    data = bytearray(tiny_model().to_bytes())
    data[at] = value
    with pytest.raises(CodecError, match=message):
        ContextModel.from_bytes(bytes(data))


def test_a_model_of_huge_tables_is_refused_before_they_are_made() -> None:
    head = struct.pack("<BBH", 1, 2, 256) + struct.pack("<IBBBBB", 65536, 16, 64, 8, 8, 8) * 256
    with pytest.raises(CodecError, match="tables of 19327647744 bytes"):
        ContextModel.from_bytes(head + zlib.compress(bytes(1000)))


@pytest.mark.parametrize("offset", [(0, 0), (0, 1), (1, 0), (1, -1)])
def test_a_context_that_is_not_earlier_is_refused(offset: tuple[int, int]) -> None:
    model = changed(tiny_model(), contexts=np.array([offset], np.int8))
    with pytest.raises(CodecError, match=rf"the context \[{offset[0]}, {offset[1]}\], which is not earlier"):
        ContextModel.from_bytes(model.to_bytes())


@pytest.mark.parametrize("offset", [(-1, 0, 0), (-2, 1, 0)])
def test_a_context_in_a_codebook_that_is_not_there_is_refused(offset: tuple[int, ...]) -> None:
    model = random_model((3, 3), 3, contexts=1)
    data = model.to_bytes()
    body = zlib.decompress(data[22:])
    contexts = np.array(offset, np.int8).tobytes()
    with pytest.raises(CodecError, match=rf"the context \[{offset[0]}, {offset[1]}, 0\] of codebook 0"):
        ContextModel.from_bytes(data[:22] + zlib.compress(contexts + body[3:]))


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1, 3], [65535, 0, 1]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    model = changed(tiny_model(), order=np.array(order, np.uint32))
    with pytest.raises(CodecError, match="an order of codes that is no permutation"):
        ContextModel.from_bytes(model.to_bytes())


def test_bytes_after_the_model_are_refused() -> None:
    data = tiny_model().to_bytes()
    longer = data[:13] + zlib.compress(zlib.decompress(data[13:]) + b"\0")
    for wrong in (data + b"\0", longer):
        with pytest.raises(CodecError, match="bytes after its last array"):
            ContextModel.from_bytes(wrong)


def test_arrays_that_end_early_are_refused() -> None:
    data = tiny_model().to_bytes()
    shorter = data[:13] + zlib.compress(zlib.decompress(data[13:])[:-1])
    with pytest.raises(CodecError, match="end after 5 of 6 bytes"):
        ContextModel.from_bytes(shorter)


# --- any bytes


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "found no bytes"),
        (b"\2", "form 0 or 1, found 2"),
        (b"\1\0\0", "a head of 10 bytes, found 3"),
        (HEAD.pack(1, 0, 0, 0), "the lengths of 0 streams"),
        (HEAD.pack(1, 1, 0, 32) + bytes(8), "the lengths of 1 streams"),
        (HEAD.pack(1, 1, 2, 0) + bytes(1), "of at least 2 bytes, found 11 bytes"),
        (HEAD.pack(1, 1, 0, 0) + bytes(1), "expected streams of 0 bytes, found 1"),
        (HEAD.pack(1, 1, 0, 1) + bytes([1]), "expected streams of 1 bytes, found 0"),
        (HEAD.pack(1, 1, 0, 1) + bytes([2]), "sample 0: expected zero bits as padding"),
        (HEAD.pack(1, 2, 0, 0), "expected at most 1 samples, found 2"),
        (HEAD.pack(1, 1, 4, 0) + b"\xff" * 4, "sample 0: expected a stream of the context codec"),
        (b"\0\0\0", "expected at most 1 samples, found 2"),
        (b"\0\3", "sample 0, position 0: .* codebook size 3, found 3"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_a_payload_that_no_encoder_wrote_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decoded(Context(3, tiny_model()), payload, 1, (2, 2))


def hostile_payloads(valid: list[bytes], count: int, random: np.random.Generator) -> Iterator[bytes]:
    for attempt in range(count):
        payload = valid[attempt % len(valid)]
        match attempt % 4:
            case 0:
                yield bytes([attempt // 4 % 3]) * (attempt % 8 > 0) + random.bytes(
                    int(random.integers(0, 200))
                )
            case 1:
                count_, shortest, width = random.choice([0, 1, 2, 3, 5, 31, 40, 255, 1000, 65535], 3)
                yield HEAD.pack(1, count_, shortest, width % 256) + payload[HEAD.size :]
            case 2:
                yield payload[: HEAD.size] + random.bytes(max(0, len(payload) - HEAD.size))
            case _:
                yield mutated(payload, random)


@pytest.mark.parametrize(
    ("sizes", "grid", "attempts", "seed"),
    [
        ((391,), (8, 8), 9000, 0),
        ((3,), (8, 8), 5000, 1),
        ((40, 1, 3), (3, 5, 5), 5000, 2),
        ((391,), (32, 32), 1000, 3),
    ],
)
def test_any_bytes_are_refused_or_decode_in_range(
    sizes: tuple[int, ...], grid: tuple[int, ...], attempts: int, seed: int
) -> None:
    """Nothing outside the buffer is written, and no payload takes long."""
    random = np.random.default_rng(seed)
    codec = Context(max(sizes), random_model(sizes, len(grid)))
    assert codec.model is not None
    codes = codes_of(codec.model, grid, 3)
    valid = [coded_payload(codec, codes), Context(codec.codebook_size, None).encode(codes, 3, 0)]
    around = np.full((5, *grid), 61680, np.uint16)
    refused = 0
    for payload in hostile_payloads(valid, attempts, random):
        data = payload_of(payload)
        for _ in range(4):  # again where it took long, which may be another process's doing
            out = around[1:4]
            out[:] = 0
            start = time.perf_counter()
            try:
                codec.decode(data, out)
            except CodecError:
                wrong = True
            else:
                wrong = False
            taken = time.perf_counter() - start
            if taken < 0.01:
                break
        assert taken < 0.01, f"{payload.hex()} took {taken:.3f} s"
        refused += wrong
        assert (around[[0, 4]] == 61680).all()
        assert wrong or in_range(codec.model, out) or payload[0] == 0
        assert wrong or out.max() < codec.codebook_size
    assert 0 < refused < attempts


@pytest.mark.skipif(sys.platform != "linux", reason="maps a page that may not be read, by Linux's mmap")
def test_decoding_reads_no_byte_past_the_last_stream() -> None:
    """The stream ends where its page does; the next page may not be read, so doing so kills the process."""
    script = """
        import ctypes, mmap, sys
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        from context_models import codes_of, random_model
        from tokenstore.codecs.context.streams import Streams

        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(whole.ctypes.data + page)
        assert libc.mprotect(guard, ctypes.c_size_t(page), 0) == 0
        end = whole.ctypes.data + page
        random = np.random.default_rng(0)
        for sizes, grid in (((391,), (8, 8)), ((3,), (4, 4)), ((40, 1, 3), (3, 4, 4)), ((2,), (1,))):
            model = random_model(sizes, len(grid))
            streams = Streams(model, grid)
            codes = codes_of(model, grid, 9).reshape(9, -1)
            out = np.empty(codes.shape, np.uint16)
            for sample in codes:
                stream, _ = streams.encode(sample[None])
                whole[page - len(stream) : page] = np.frombuffer(stream, np.uint8)
                one = np.empty((1, len(sample)), np.uint16)
                assert streams.decode(np.array([end - len(stream)]), np.array([len(stream)]), one) == -1
                assert (one == sample).all()
            for length in range(40):  # also streams that end long before their codes do
                whole[page - length : page] = np.frombuffer(random.bytes(length), np.uint8)
                lengths = np.minimum(np.arange(9), length)
                streams.decode(end - lengths, lengths, out)
        print("all read", flush=True)
        whole[page]
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "all read\n", done.stderr
    assert done.returncode < 0, "the guard page could be read, so the test shows nothing"


# --- threads


def test_threads_that_decode_one_payload_get_the_same_codes() -> None:
    codec = Context(391, random_model())
    codes = codes_of(codec.model, (16, 16), 24)  # type: ignore[arg-type]
    payload = coded_payload(codec, codes)
    fresh = Context(391, codec.model)  # whose tables are made by whichever thread comes first
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: decoded(fresh, payload, 24, (16, 16)), range(12)):
            np.testing.assert_array_equal(out, codes)


def test_other_threads_run_while_one_decodes() -> None:
    codec = Context(391, random_model())
    codes = codes_of(codec.model, (32, 32), 16)  # type: ignore[arg-type]
    payload = payload_of(coded_payload(codec, codes))
    codec.decode(payload, np.empty((16, 32, 32), np.uint16))
    start = time.perf_counter()
    codec.decode(payload, np.empty((16, 32, 32), np.uint16))
    repeats = int(0.3 / (time.perf_counter() - start)) + 1
    rows, out = np.tile(np.arange(16), repeats), np.empty((16 * repeats, 32, 32), np.uint16)
    times = []

    def decode() -> None:
        times.append(time.perf_counter())
        codec.decode_rows(payload, rows, out)
        times.append(time.perf_counter())

    thread = threading.Thread(target=decode)
    ticks = []
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
    begun, ended = times
    middle = [tick for tick in ticks if begun + (ended - begun) / 4 < tick < ended - (ended - begun) / 4]
    assert ended - begun > 0.05
    assert len(middle) > 100


# --- Zarr


SHARDED = {"shards": (8, 4, 4), "compressors": [{"name": "crc32c"}]}
BARE: dict[str, Any] = {"compressors": None}


def fitting_model() -> ContextModel:
    """Constant codes are all that it takes for granted: their streams are shorter than packing."""
    biases = np.zeros(40, np.int16)
    model = random_model((33,), components=0)
    biases = np.where(np.arange(len(model.planes[0].biases)) % 6 == 0, 2000, 0).astype(np.int16)
    return changed(model, biases=biases, weights=np.zeros_like(model.planes[0].weights))


def serializer(model: ContextModel | None, codebook_size: int = 33) -> dict[str, Any]:
    text = None if model is None else base64.b64encode(model.to_bytes()).decode("ascii")
    return {"name": "tokenstore.context", "configuration": {"codebook_size": codebook_size, "model": text}}


def create(store: Any, model: ContextModel | None, samples: int = 7, **keywords: Any) -> Any:
    keywords = {"dtype": "uint8", "fill_value": 255, **BARE, **keywords}
    return zarr.create_array(
        store, shape=(samples, 4, 4), chunks=(4, 4, 4), serializer=serializer(model), **keywords
    )


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
@pytest.mark.parametrize("kind", ["packed", "coded", "without"])
def test_codes_come_back_from_disk_by_any_selection(
    tmp_path: Path, layout: dict[str, Any], kind: str
) -> None:
    model = {"packed": random_model((33,)), "coded": fitting_model(), "without": None}[kind]
    codes = np.random.default_rng(0).integers(0, 33, (7, 4, 4)).astype(np.uint8)
    if kind == "coded":
        assert model is not None
        codes[...] = model.planes[0].order[0]
        codes[3, 1, 2] = 5
    create(tmp_path / "tokens", model, **layout)[...] = codes
    array = zarr.open_array(tmp_path / "tokens", mode="r")
    np.testing.assert_array_equal(array[...], codes)
    np.testing.assert_array_equal(array[5], codes[5])
    np.testing.assert_array_equal(array[2:6, 1], codes[2:6, 1])
    np.testing.assert_array_equal(array.oindex[[0, 3, 6]], codes[[0, 3, 6]])
    if layout is BARE:
        assert (tmp_path / "tokens/c/0/0/0").read_bytes()[0] == (kind == "coded")
        assert len((tmp_path / "tokens/c/1/0/0").read_bytes()) < 4 * 12 + 1  # three samples, not four


def test_a_process_that_never_imports_tokenstore_reads_the_codes(tmp_path: Path) -> None:
    model = fitting_model()
    create(tmp_path / "tokens", model)[...] = model.planes[0].order[0]
    script = "import sys, zarr; print(set(zarr.open(sys.argv[1], mode='r')[...].ravel().tolist()))"
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "tokens")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{{{model.planes[0].order[0]}}}\n"


def test_samples_missing_at_the_end_of_a_chunk_are_fill_value() -> None:
    array = create(MemoryStore(), fitting_model())
    array[:2] = 3
    np.testing.assert_array_equal(array[:2], 3)
    np.testing.assert_array_equal(array[2:], 255)


def test_codes_out_of_range_are_refused_by_zarr() -> None:
    codes = np.zeros((7, 4, 4), np.uint8)
    codes[5, 1, 0] = 33
    with pytest.raises(CodecError, match=r"sample 1, position 4: .* codebook size 33, found 33"):
        create(MemoryStore(), fitting_model())[...] = codes


@pytest.mark.parametrize("kind", ["coded", "packed"])
def test_a_chunk_with_more_samples_than_it_has_room_for_is_refused(tmp_path: Path, kind: str) -> None:
    model = fitting_model()
    array = create(tmp_path / "tokens", model)
    array[...] = 0
    codec = Context(33, model)
    codes = np.full((5, 4, 4), model.planes[0].order[0], np.uint8)
    payload = coded_payload(codec, codes) if kind == "coded" else Context(33, None).encode(codes, 5, 255)
    (tmp_path / "tokens/c/0/0/0").write_bytes(payload)
    with pytest.raises(CodecError, match="expected at most 4 samples, found 5"):
        array[:4]


@pytest.mark.parametrize("wrong", [{"fill_value": 0}, {"dtype": "uint16"}])
def test_an_array_of_another_dtype_or_fill_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match=r"33 codes need an array .* of uint8 with fill value 255, found"):
        create(MemoryStore(), fitting_model(), **wrong)


def test_zarr_metadata_round_trips() -> None:
    written = serializer(tiny_model(), 3)
    assert ContextCodec.from_dict(written).to_dict() == written
    assert ContextCodec.from_dict(written) == ContextCodec.from_dict(written)
    assert Context(3, tiny_model()).zarr == [written]
    assert Context(3, None).zarr == [serializer(None, 3)]
    assert Context(3, tiny_model()).table_nbytes == len(written["configuration"]["model"])
    assert Context(3, None).table_nbytes == 0


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (None, "a configuration of codebook_size and model, found None"),
        ({"codebook_size": 3}, "a configuration of codebook_size and model, found"),
        ({"codebook_size": 3, "model": None, "bits": 2}, "a configuration of codebook_size and model, found"),
        ({"codebook_size": "3", "model": None}, "an integer codebook_size and a base64 model, found '3'"),
        ({"codebook_size": True, "model": None}, "an integer codebook_size and a base64 model, found True"),
        ({"codebook_size": 3, "model": 7}, "an integer codebook_size and a base64 model, found 3 and 7"),
        ({"codebook_size": 0, "model": None}, "codebook size in 1..2147483648, found 0"),
        ({"codebook_size": 3, "model": "a-b"}, "a model in base64"),
        ({"codebook_size": 3, "model": "é"}, "a model in base64"),
        ({"codebook_size": 3, "model": "AQID"}, "a context model of version 1"),
        ({"codebook_size": 3, "model": ""}, "a context model of version 1"),
        ({**serializer(tiny_model(), 4)["configuration"]}, "a context model of 4 codes, found one of 3"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(configuration: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ContextCodec.from_dict({"name": "tokenstore.context", "configuration": configuration})


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process, by Linux's setrlimit")
def test_a_head_that_promises_billions_of_samples_takes_no_memory() -> None:
    script = """
        import resource, struct, sys
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        from context_models import tiny_model
        from tokenstore.codecs.context import Context
        from tokenstore.errors import CodecError

        codec, out = Context(3, tiny_model()), np.empty((1, 2, 2), np.uint8)
        resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
        try:
            codec.decode(np.frombuffer(struct.pack("<BIIB", 1, 2**32 - 1, 0, 0), np.uint8), out)
        except CodecError:
            print("refused")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr[-300:]


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_no_samples_are_an_empty_payload_and_no_rows_none(form: str) -> None:
    codec = Context(3, tiny_model() if form == "coded" else None)
    codes = np.zeros((4, 2, 2), np.uint8)
    assert codec.encode(codes[:0], 4, 255) == b"\0"
    payload = coded_payload(codec, codes) if form == "coded" else codec.encode(codes, 4, 255)
    codec.decode_rows(payload_of(payload), np.empty(0, np.int64), np.empty((0, 2, 2), np.uint8))


@pytest.mark.parametrize("layout", [BARE, SHARDED], ids=["bare", "sharded"])
def test_a_chunk_of_fill_value_alone_holds_no_samples(layout: dict[str, Any]) -> None:
    store = MemoryStore()
    create(store, fitting_model(), config={"write_empty_chunks": True}, **layout)[...] = 255
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_a_buffer_that_does_not_hold_the_codes_is_refused(dtype: type) -> None:
    codec = Context(391, random_model())
    payload = coded_payload(codec, np.full((2, 2, 2), 390, np.uint16))
    with pytest.raises(CodecError, match="expected"):
        codec.decode(payload_of(payload), np.empty((2, 2, 2), dtype))


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_a_buffer_that_is_not_contiguous_is_refused_or_filled(form: str) -> None:
    codec = Context(3, tiny_model())
    codes = np.full((2, 2, 2), 2, np.uint8)
    payload = coded_payload(codec, codes) if form == "coded" else Context(3, None).encode(codes, 2, 255)
    out = np.zeros((2, 2, 2), np.uint8).T
    try:
        codec.decode(payload_of(payload), out)
    except CodecError:
        return
    np.testing.assert_array_equal(out, codes)


@pytest.mark.parametrize("which", ["read-only", "big-endian"])
def test_a_buffer_that_cannot_be_written_is_refused(which: str) -> None:
    codec = Context(3, tiny_model())
    out = np.zeros((2, 2, 2), ">u2" if which == "big-endian" else np.uint8)
    out.flags.writeable = which != "read-only"
    with pytest.raises(CodecError, match="expected"):
        codec.decode(payload_of(coded_payload(codec, np.zeros((2, 2, 2), np.uint8))), out)


def test_damage_is_named_by_its_place_among_all_samples() -> None:
    codec = Context(3, tiny_model())
    codes = np.zeros((3, 2, 2), np.uint8)
    damaged = HEAD.pack(1, 1, 4, 0) + b"\xff" * 4
    chunks: list[Located] = [
        codec.locate(payload_of(data), (2, 2)) for data in (Context(3, None).encode(codes, 3, 255), damaged)
    ]
    with pytest.raises(CodecError, match="sample 3: expected a stream"):
        codec.decode_at(chunks, np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]), np.empty((4, 2, 2), np.uint8))


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_fewer_samples_than_the_buffer_has_room_for_are_refused(form: str) -> None:
    codec, codes = Context(3, tiny_model()), np.zeros((2, 2, 2), np.uint8)
    payload = coded_payload(codec, codes) if form == "coded" else Context(3, None).encode(codes, 2, 255)
    with pytest.raises(CodecError, match="expected 3 samples, found 2"):
        decoded(codec, payload, 3, (2, 2))


def test_mixed_chunks_are_refused_where_there_is_no_model() -> None:
    codes = np.zeros((2, 2, 2), np.uint8)
    payloads = Context(3, None).encode(codes, 2, 255), coded_payload(Context(3, tiny_model()), codes)
    codec = Context(3, None)
    chunks = [codec.locate(payload_of(payload), (2, 2)) for payload in payloads]
    with pytest.raises(CodecError, match="coded by a context model, and the codec has none"):
        codec.decode_at(chunks, np.array([0, 1]), np.array([0, 0]), np.empty((2, 2, 2), np.uint8))


def test_structured_codes_take_fewer_bytes_than_bits_alone() -> None:
    """A hand-made model that expects a code's left neighbour again, against one bit a code."""
    weights = np.zeros((2, 32), np.int8)
    weights[:, 0] = -40, 40
    model = changed(
        random_model((2,), contexts=1, components=1, logit_shift=0),
        contexts=np.array([[0, -1]], np.int8),
        order=np.array([0, 1], np.uint32),
        gains=np.array([1], np.uint16),
        components=np.array([[0, -1, 1]], np.int8),
        readers=np.array([[[16] + [0] * 31, [0] * 32, [0] * 32]], np.int8),
        row_shift=1,
        bias=np.zeros(32, np.int16),
        weights=weights,
        biases=np.zeros(2, np.int16),
    )
    codes = smooth_codes(40, (16, 16), 2)
    codec = Context(2, model)
    written = codec.encode(codes, 40, 255)
    assert len(written) < 0.8 * 40 * 16 * 16 / 8
    np.testing.assert_array_equal(decoded(codec, written, 40, (16, 16)), codes)

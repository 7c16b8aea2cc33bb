"""The context codec: literal bytes, the plain version it equals, round trips, threads."""

from __future__ import annotations

import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import plain_context as plain
from helpers.context_models import (
    HEAD,
    changed,
    coded_payload,
    codes_of,
    decoded,
    grids,
    in_range,
    models,
    payload_of,
    random_model,
    smooth_codes,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs.context import Context, ContextModel
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError

Codes = npt.NDArray[Any]
TINY_STREAMS = {
    (0, 2, 1, 1): "7b",
    (2, 2, 2, 2): "",
    (1, 0, 0, 1): "e8",
    (0, 0, 0, 0): "8b",
    (1, 1, 2, 0): "f5",
}


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
    """Compute the worked example by hand.

    Without a code to the left lane 0 gets -10; the bias gives lane 3 5. Weighted and halved, with the
    alternatives' biases, the logits are (200 - 200 + 20) / 2 = 10, 0 and (-200 + 200 - 20) / 2 = -10. An
    alternative 10 / 256 below the first has 2 ** 15 - 10 * (22016 - 220) / 256 = 31917 to the first's 32768.
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
    """Let all integers take any value: rows saturate, hidden lanes wrap, alternatives are at 1."""
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
    """Make the second of two alternatives the likeliest: streams begin high, and carries are common."""
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
    """Decode a sample alone and in every place among samples decoded side by side: its codes are the same."""
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
        codec.spans(payload_of(coded_payload(codec, codes[:5])), (4, 4)),
        codec.spans(payload_of(Context(391, None).encode(codes[5:], 7, 0)), (4, 4)),
    ]
    assert [located.packed for located in chunks] == [False, True]
    chunk, row = np.array([1, 0, 0, 1, 1, 0]), np.array([6, 4, 0, 0, 6, 4])
    out = np.empty((6, 4, 4), np.int64)
    codec.decode_spans(chunks, chunk, row, out)
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


def test_structured_codes_take_fewer_bytes_than_bits_alone() -> None:
    """Compare a hand-made model, which expects a code to equal its left neighbour, with one bit a code."""
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


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_no_samples_are_an_empty_payload_and_no_rows_none(form: str) -> None:
    codec = Context(3, tiny_model() if form == "coded" else None)
    codes = np.zeros((4, 2, 2), np.uint8)
    assert codec.encode(codes[:0], 4, 255) == b"\0"
    payload = coded_payload(codec, codes) if form == "coded" else codec.encode(codes, 4, 255)
    codec.decode_rows(payload_of(payload), np.empty(0, np.int64), np.empty((0, 2, 2), np.uint8))


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
    repeats, most = 1, 0
    while most <= 100:
        assert repeats < 10_000, "no other thread runs, however long decoding takes"
        most = max(most, ticks_while_decoding(codec, payload, repeats))
        repeats *= 2


def ticks_while_decoding(codec: Context, payload: npt.NDArray[np.uint8], repeats: int) -> int:
    """Count how often this thread ran in the middle half of the time that another one decoded."""
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
    return sum(begun + (ended - begun) / 4 < tick < ended - (ended - begun) / 4 for tick in ticks)

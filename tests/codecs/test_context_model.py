"""The model of the context codec: its bytes, and those that no model has."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from helpers.context_models import changed, in_range, models, mutated, payload_of, random_model, tiny_model
from hypothesis import given, settings

from tokenstore.codecs.context import ContextModel
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError


@given(model=models())
@settings(deadline=None, max_examples=40)
def test_a_model_comes_back_from_its_bytes(model: ContextModel) -> None:
    again = ContextModel.from_bytes(model.to_bytes())
    assert again.to_bytes() == model.to_bytes()
    assert (again.rank, again.codebook_size, again.lanes) == (model.rank, model.codebook_size, model.lanes)
    for plane, other in zip(model.planes, again.planes, strict=True):
        for name, value in vars(plane).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)


def test_a_models_arrays_are_one_zlib_stream_and_shorter_than_deflate_as_a_whole() -> None:
    """Draw bell-shaped integers as a fit gives: deflate's matches of three bytes by chance cost bytes."""
    random = np.random.default_rng(0)
    model = random_model((700,), 2, contexts=10, components=24)
    plane = model.planes[0]
    drawn = {
        name: np.rint(random.normal(0, width, getattr(plane, name).shape)).astype(np.int8)
        for name, width in (("components", 6), ("readers", 12), ("weights", 3))
    }
    fitted = ContextModel(2, (dataclasses.replace(plane, **drawn),))
    data = fitted.to_bytes()
    arrays = zlib.decompress(data[13:])
    assert len(data) < 0.95 * len(zlib.compress(arrays, 9))
    again = ContextModel.from_bytes(data).planes[0]
    for name, values in drawn.items():
        np.testing.assert_array_equal(getattr(again, name), values, err_msg=name)


def test_a_model_cut_anywhere_is_refused() -> None:
    for model in (tiny_model(), random_model((33, 2), 3, contexts=2, components=1)):
        data = model.to_bytes()
        for length in range(len(data)):
            with pytest.raises(CodecError, match="expected a context model of version 1"):
                ContextModel.from_bytes(data[:length])


def recompressed(data: bytes, heads: int, random: np.random.Generator) -> bytes:
    """Mutate the arrays of a model and leave its head."""
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

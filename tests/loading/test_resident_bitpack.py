"""Bit-packed samples unpacked on a device: the same codes and refusals as on the processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.resident_models import CASES, decoder_of, needs_cuda
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs import bitpack
from tokenstore.errors import CodecError
from tokenstore.loading.resident import unpack


@pytest.mark.parametrize("width", range(1, 32))
def test_every_width_unpacks_as_on_the_processor(width: int) -> None:
    for size in {2 ** (width - 1) + 1, 2**width}:
        for length in (1, 3, 7, 8, 9, 31, 64, 197):
            codes = np.random.default_rng(width).integers(0, size, (6, length))
            codes[:, -1] = size - 1
            packed = bitpack.pack(codes.astype(bitpack.code_dtype(size)), size)
            pool = torch.from_numpy(np.concatenate([np.full(3, 255, np.uint8), packed.ravel()]))
            chosen = torch.tensor([5, 0, 5, 2])
            unpacked = unpack(pool, 3 + chosen * packed.shape[1], length, size)
            assert unpacked.dtype == torch.int64
            np.testing.assert_array_equal(unpacked, codes[chosen])


@given(data=st.data(), width=st.sampled_from([1, 6, 9, 10, 17, 25, 26, 31]), length=st.integers(1, 40))
@settings(deadline=None)
def test_any_bytes_unpack_or_are_refused_as_on_the_processor(data: Any, width: int, length: int) -> None:
    size = data.draw(st.integers(2 ** (width - 1) + (width > 1), 2**width))
    nbytes = bitpack.sample_nbytes(length, size)
    packed = np.frombuffer(data.draw(st.binary(min_size=2 * nbytes, max_size=2 * nbytes)), np.uint8).copy()
    here = np.empty((2, length), np.int64)

    def outcome(unpacking: Callable[[], Any]) -> list[list[int]] | str:
        try:
            found = unpacking()
        except CodecError as error:
            return str(error)
        return (here if found is None else found).tolist()

    expected = outcome(lambda: bitpack.unpack(packed, length, size, here))
    offsets = torch.tensor([0, nbytes])
    assert outcome(lambda: unpack(torch.from_numpy(packed), offsets, length, size)) == expected


def test_no_samples_unpack_to_none() -> None:
    none = unpack(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), 7, 391)
    assert none.shape == (0, 7)


@pytest.mark.parametrize("offset", [-1, 7, 2**62])
def test_a_packed_sample_outside_the_bytes_is_refused(offset: int) -> None:
    """Ten bytes hold a sample of four from 0 to 6."""
    pool = torch.zeros(10, dtype=torch.uint8)
    assert unpack(pool, torch.tensor([6]), 3, 391).tolist() == [[0, 0, 0]]
    with pytest.raises(CodecError, match=f"sample 1: expected an offset in 0..6, found {offset}"):
        unpack(pool, torch.tensor([0, offset]), 3, 391)
    with pytest.raises(CodecError, match="samples of 4 bytes, found 3 bytes"):
        unpack(pool[:3], torch.tensor([0]), 3, 391)


@pytest.mark.parametrize(
    ("pool", "offsets"),
    [
        (torch.zeros(8, dtype=torch.int8), torch.tensor([0])),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.tensor([0])),
        (torch.zeros(16, dtype=torch.uint8)[::2], torch.tensor([0])),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([0], dtype=torch.int32)),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([[0]])),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([0], device="meta")),
    ],
    ids=["int8", "2-D", "strided", "int32 offsets", "2-D offsets", "another device"],
)
def test_unsuitable_tensors_are_refused(pool: torch.Tensor, offsets: torch.Tensor) -> None:
    with pytest.raises(CodecError, match=r"expected (contiguous bytes|offsets and lengths)"):
        unpack(pool, offsets, 3, 391)
    with pytest.raises(CodecError, match=r"expected (contiguous bytes|offsets and lengths)"):
        decoder_of(CASES[1], "torch").decode(pool, offsets, offsets)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("width", range(1, 32))
def test_a_gpu_unpacks_every_width(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 2**width, (300, 197))
    packed = bitpack.pack(codes.astype(bitpack.code_dtype(2**width)), 2**width)
    pool = torch.from_numpy(packed.ravel()).to("cuda")
    offsets = torch.arange(0, packed.size, packed.shape[1], device="cuda")
    np.testing.assert_array_equal(unpack(pool, offsets, 197, 2**width).cpu(), codes)

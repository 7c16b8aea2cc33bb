"""Random models of the context codec, and what the processor and a device make of their streams."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from helpers.stores import random_codes
from tokenstore.codecs.context.model import CodeTree, ContextModel, Plane, lanes_for
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError
from tokenstore.loading.resident import ContextDecoder

Codes = npt.NDArray[Any]
CPU = torch.device("cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@dataclass(frozen=True)
class Case:
    """A random model of codebooks of these sizes, over a grid. Extreme ones overflow wherever they can."""

    sizes: tuple[int, ...]
    grid: tuple[int, ...]
    contexts: int = 4
    logit_shift: int = 8
    extreme: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.grid))
        shift = f", extreme at shift {self.logit_shift}" if self.extreme else ""
        return f"{'+'.join(map(str, self.sizes))} codes, {shape}{shift}"


CASES = [
    Case((1,), (5,)),
    Case((2,), (3, 4)),
    Case((5,), (2, 2, 3)),
    Case((32,), (9,)),
    Case((33,), (3, 4)),
    Case((391,), (4, 5)),
    Case((391,), (4, 5), logit_shift=0, extreme=True),
    Case((391,), (4, 5), logit_shift=24, extreme=True),
    Case((5000,), (2, 3, 2)),
    Case((65536,), (2, 3), contexts=1),
    Case((32, 7), (2, 5)),
    Case((5, 391, 1, 33), (4, 2, 3)),
    Case((5, 391, 1, 33), (4, 2, 3), logit_shift=16, extreme=True),
]


@functools.cache
def model_of(case: Case) -> ContextModel:
    rng = np.random.default_rng(len(case.grid))
    lanes, rank, planes = lanes_for(list(case.sizes)), len(case.grid), len(case.sizes)

    def int8(*shape: int) -> npt.NDArray[np.int8]:
        return np.clip(rng.normal(0, 127 if case.extreme else 40, shape), -127, 127).astype(np.int8)

    def earlier(plane: int) -> npt.NDArray[np.int8]:
        offsets = rng.integers(-2, 3, (case.contexts + plane, rank))
        if planes > 1:
            offsets[:, 0] = -rng.integers(0, plane + 1, len(offsets))
        axis = (offsets != 0).argmax(axis=1)
        first = np.take_along_axis(offsets, axis[:, None], 1)[:, 0]
        offsets[np.arange(len(offsets)), axis] = -np.abs(first)
        offsets[first == 0, -1] = -1
        return offsets.astype(np.int8)

    offsets = [earlier(plane) for plane in range(planes)]
    looked_at = [plane + int(o[0]) if planes > 1 else 0 for plane in range(planes) for o in offsets[plane]]
    made = []
    for plane, size in enumerate(case.sizes):
        tree, readers = CodeTree.of(size), looked_at.count(plane) + 2
        bias = 2**15 - 1 if case.extreme else 300
        furthest = rng.choice([-bias, bias], lanes)
        made.append(
            Plane(
                size,
                order=rng.permutation(size).astype(np.uint32),
                contexts=offsets[plane],
                gains=rng.integers(1, 100, 5).astype(np.uint16),
                components=int8(5, 1 + size),
                readers=int8(5, readers, lanes),
                bias=(furthest if case.extreme else rng.integers(-bias, bias + 1, lanes)).astype(np.int16),
                weights=int8(tree.children, 32),
                biases=rng.integers(-bias, bias + 1, tree.children).astype(np.int16),
                row_shift=10,
                logit_shift=case.logit_shift,
                fade=16 if case.extreme else 3,
            )
        )
    return ContextModel(rank, tuple(made))


@functools.cache
def streams_of(case: Case) -> Streams:
    return Streams(model_of(case), case.grid)


@functools.cache
def decoder_of(case: Case, kernel: Literal["torch", "triton"], device: torch.device = CPU) -> ContextDecoder:
    return ContextDecoder(model_of(case), case.grid, device, kernel=kernel)


def codes_of(case: Case, samples: int) -> Codes:
    codes = random_codes(samples, case.grid, case.sizes)
    return codes.reshape(samples, -1).astype(np.uint32)


def encoded(case: Case, samples: int) -> list[bytes]:
    data, lengths = streams_of(case).encode(codes_of(case, samples))
    stops = np.cumsum(lengths).tolist()
    return [data[stop - length : stop] for stop, length in zip(stops, lengths.tolist(), strict=True)]


def decoded_here(case: Case, stream: bytes) -> Codes | None:
    """Decode a stream by the processor's decoder; None for a stream that it refuses."""
    data = np.frombuffer(stream + b"\0", np.uint8)
    out = np.empty((1, streams_of(case).codes_per_sample), np.uint32)
    wrong = streams_of(case).decode(np.array([data.ctypes.data]), np.array([len(stream)]), out)
    return None if wrong >= 0 else out[0]


def decoded_there(
    case: Case, streams: list[bytes], kernel: Literal["torch", "triton"], device: torch.device = CPU
) -> Codes:
    # Other bytes around and between the streams, and the streams in another order than they lie.
    pool = b"\xee" + b"\xee\xee".join(reversed(streams)) + b"\xee"
    lengths = torch.tensor([len(stream) for stream in streams], dtype=torch.int64)
    stops = (lengths.flip(0) + 2).cumsum(0).flip(0) - 1
    decoder = decoder_of(case, kernel, device)
    held = torch.frombuffer(bytearray(pool), dtype=torch.uint8).to(device)
    codes = decoder.decode(held, (stops - lengths).to(device), lengths.to(device))
    assert codes.dtype == torch.int64
    assert codes.shape == (len(streams), *case.grid)
    return codes.cpu().flatten(1).numpy()


def check_alike(
    case: Case, streams: list[bytes], kernel: Literal["torch", "triton"], device: torch.device = CPU
) -> int:
    """Assert that a kernel decodes and refuses as the processor does; return how many are refused."""
    expected = [decoded_here(case, stream) for stream in streams]
    refused = [at for at, codes in enumerate(expected) if codes is None]
    taken = [at for at in range(len(streams)) if at not in refused]
    if refused:
        some = [streams[at] for at in taken[:1] + refused]
        first = len(taken[:1])
        with pytest.raises(CodecError, match=f"^sample {first}: expected a stream of the context codec"):
            decoded_there(case, some, kernel, device)
    codes = decoded_there(case, [streams[at] for at in taken], kernel, device)
    for at, row in zip(taken, codes, strict=True):
        np.testing.assert_array_equal(row, expected[at], err_msg=f"stream {at}")
    return len(refused)


def any_streams(case: Case, samples: int) -> list[bytes]:
    """Return streams: valid, cut short, of no bytes, of any bytes, and one that no encoder writes."""
    rng = np.random.default_rng(1)
    valid = encoded(case, samples)
    longest = max(map(len, valid)) + 4
    anything = [rng.bytes(int(length)) for length in rng.integers(1, longest + 1, samples)]
    return [*valid, valid[0][: len(valid[0]) // 2], b"", *anything, b"\xff" * longest]

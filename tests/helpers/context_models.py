"""Models and codes for tests of the context codec: random, extreme, hand-made, and codes with structure."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from helpers import plain_context as plain
from tokenstore.codecs import bitpack
from tokenstore.codecs.context import Context
from tokenstore.codecs.context.model import PAST_ROWS, ContextModel, Plane, lanes_for
from tokenstore.codecs.context.tree import CodeTree

Codes = npt.NDArray[Any]
HEAD = struct.Struct("<BIIB")
"""The head of a chunk."""


def random_offsets(
    plane: int, planes: int, rank: int, contexts: int, random: np.random.Generator
) -> npt.NDArray[np.int8]:
    """Draw offsets (contexts, rank) that are earlier in C order; further codebooks also see those before."""
    offsets = random.integers(-2, 3, (contexts, rank))
    if planes > 1:
        offsets[:, 0] = -random.integers(0, plane + 1, contexts)
    spatial = offsets[:, 1:] if planes > 1 else offsets
    for offset, own in zip(offsets, spatial, strict=True):
        if (planes == 1 or not offset[0]) and next((step for step in own if step), 0) >= 0:
            own[0] = -abs(own[0])
            if not own[0]:
                own[-1 if random.random() < 0.5 else 0] = -1
            if next(step for step in own if step) > 0:
                own[0] = -1
    return offsets.astype(np.int8)


def random_model(
    sizes: tuple[int, ...] = (391,),
    rank: int = 2,
    *,
    contexts: int = 3,
    components: int = 4,
    logit_shift: int = 8,
    row_shift: int = 12,
    fade: int = 4,
    extreme: bool = False,
    seed: int = 0,
) -> ContextModel:
    """Draw a model of random integers; extreme ones saturate rows and frequencies, and hidden lanes wrap."""
    random = np.random.default_rng(seed)
    lanes = lanes_for(list(sizes))
    offsets = [random_offsets(at, len(sizes), rank, contexts, random) for at in range(len(sizes))]
    sources = [at + offset[0] if len(sizes) > 1 else 0 for at in range(len(sizes)) for offset in offsets[at]]

    def whole(dtype: type, *shape: int, spread: int) -> Codes:
        limits = np.iinfo(dtype)
        if extreme:
            return random.integers(limits.min, limits.max + 1, shape).astype(dtype)
        return np.clip(np.rint(random.standard_normal(shape) * spread), limits.min, limits.max).astype(dtype)

    planes = []
    for at, size in enumerate(sizes):
        readers = sources.count(at) + PAST_ROWS
        children = CodeTree.of(size).children
        planes.append(
            Plane(
                size=size,
                order=random.permutation(size).astype(np.uint32),
                contexts=offsets[at],
                gains=random.integers(0, 65536 if extreme else 200, components).astype(np.uint16),
                components=whole(np.int8, components, 1 + size, spread=30),
                readers=whole(np.int8, components, readers, lanes, spread=30),
                bias=whole(np.int16, lanes, spread=20),
                weights=whole(np.int8, children, 32, spread=30),
                biases=whole(np.int16, children, spread=200),
                row_shift=row_shift,
                logit_shift=logit_shift,
                fade=fade,
            )
        )
    return ContextModel(rank, tuple(planes))


@st.composite
def models(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 3, 32, 33, 391)) -> ContextModel:
    """Draw models of one to four codebooks on grids of one to three axes."""
    books = draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=4))
    return random_model(
        tuple(books),
        draw(st.integers(1, 3)) if len(books) == 1 else draw(st.integers(2, 3)),
        contexts=draw(st.integers(1, 4)),
        components=draw(st.integers(0, 3)),
        logit_shift=draw(st.integers(0, 15)),
        row_shift=draw(st.sampled_from([1, 8, 16, 24, 40])),
        fade=draw(st.integers(1, 16)),
        extreme=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def grids(draw: st.DrawFn, model: ContextModel, longest: int = 4) -> tuple[int, ...]:
    """Draw a small grid that a model's codes may have."""
    books = (len(model.planes),) if len(model.planes) > 1 else ()
    rest = model.rank - len(books)
    axes = draw(st.lists(st.integers(1, longest), min_size=rest, max_size=rest))
    return (*books, *axes)


def codes_of(model: ContextModel, grid: tuple[int, ...], samples: int, seed: int = 0) -> Codes:
    """Draw codes (samples, *grid), each below its codebook's size; the first sample has the largest codes."""
    random = np.random.default_rng(seed)
    per_plane = math.prod(grid) // len(model.planes)
    sizes = np.repeat([plane.size for plane in model.planes], per_plane)
    codes = random.integers(0, sizes, (samples, len(sizes)))
    codes[:1] = sizes - 1
    return codes.reshape(samples, *grid).astype(bitpack.code_dtype(model.codebook_size))


def smooth_codes(samples: int, grid: tuple[int, ...], size: int, seed: int = 0) -> Codes:
    """Draw codes (samples, *grid) that are levels of smooth fields, so that neighbours are alike."""
    random = np.random.default_rng(seed)
    fields = random.standard_normal((samples, *grid))
    for axis in range(1, len(grid) + 1):
        for _ in range(3):
            fields = fields + np.roll(fields, 1, axis) + np.roll(fields, -1, axis)
    spread = (fields - fields.min()) / (fields.max() - fields.min())
    return np.minimum((spread * size).astype(np.int64), size - 1).astype(bitpack.code_dtype(size))


def entropy_nbytes(codes: Codes) -> float:
    """Return the bytes that codes take by their own frequencies alone."""
    counts = np.bincount(codes.ravel().astype(np.int64))
    shares = counts[counts > 0] / codes.size
    return float(-(shares * np.log2(shares)).sum() * codes.size / 8)


def tiny_model() -> ContextModel:
    """Return a model of three codes on a 2-D grid, which looks left, at the mean and at the trace.

    Code c adds to lane 0, from the left neighbour, 10 c; to lane 1, from the mean, 64 c; to lane 2, from the
    trace, 8 c. Without a left neighbour lane 0 gets -10. The bias adds 5 to lane 3. The weights of lane 0 are
    positive for code 2 and negative for code 1.
    """
    readers = np.zeros((1, 3, 32), np.int8)
    readers[0, 0, 0], readers[0, 1, 1], readers[0, 2, 2] = 10, 64, 8
    bias = np.zeros(32, np.int16)
    bias[3] = 5
    weights = np.zeros((3, 32), np.int8)
    weights[:, 0] = 20, 0, -20
    weights[:, 1] = 0, 3, 0
    weights[:, 2] = 1, 2, 3
    weights[:, 3] = 4, 0, -4
    return ContextModel(
        2,
        (
            Plane(
                size=3,
                order=np.array([2, 0, 1], np.uint32),
                contexts=np.array([[0, -1]], np.int8),
                gains=np.array([256], np.uint16),
                components=np.array([[-1, 0, 1, 2]], np.int8),
                readers=readers,
                bias=bias,
                weights=weights,
                biases=np.array([100, 0, -100], np.int16),
                row_shift=8,
                logit_shift=1,
                fade=1,
            ),
        ),
    )


def changed(model: ContextModel, **fields: Any) -> ContextModel:
    """Return the model with fields of its first plane replaced."""
    first = dataclasses.replace(model.planes[0], **fields)
    return ContextModel(model.rank, (first, *model.planes[1:]))


def payload_of(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a payload as an array (nbytes,) uint8."""
    return np.frombuffer(data, np.uint8)


def decoded(codec: Context, payload: bytes, samples: int, grid: tuple[int, ...]) -> Codes:
    """Decode a payload to codes (samples, *grid)."""
    out = np.empty((samples, *grid), bitpack.code_dtype(codec.codebook_size))
    codec.decode(payload_of(payload), out)
    return out


def coded_payload(codec: Context, codes: Codes) -> bytes:
    """Encode codes by the model, even where packing takes fewer bytes."""
    streams, lengths = codec.streams(codes.shape[1:]).encode(codes.reshape(len(codes), -1))
    longer = lengths - lengths.min()
    width = int(longer.max()).bit_length()
    head = HEAD.pack(1, len(codes), int(lengths.min()), width)
    return head + plain.packed(longer.tolist(), width) + streams


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, set bytes, cut bytes out, or put bytes in."""
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


def in_range(model: ContextModel, out: Codes) -> bool:
    """Return whether each code is below its codebook's size."""
    planes = out.reshape(len(out), len(model.planes), -1)
    return all(
        bool((planes[:, at] >= 0).all() and (planes[:, at] < plane.size).all())
        for at, plane in enumerate(model.planes)
    )


def worked_model() -> ContextModel:
    """Return the model of the worked example in FORMAT.md, section 7."""
    plane = Plane(
        size=3,
        order=np.arange(3, dtype=np.uint32),
        contexts=np.array([[0, -1]], np.int8),
        gains=np.zeros(0, np.uint16),
        components=np.zeros((0, 4), np.int8),
        readers=np.zeros((0, 3, 32), np.int8),
        bias=np.zeros(32, np.int16),
        weights=np.zeros((3, 32), np.int8),
        biases=np.array([0, -256, -512], np.int16),
        row_shift=1,
        logit_shift=0,
        fade=5,
    )
    return ContextModel(2, (plane,))


def chunk_of(codec: Context, codes: Codes) -> npt.NDArray[np.uint8]:
    """Return the bytes of a chunk of codes."""
    return np.frombuffer(codec.encode(codes, len(codes), 0), np.uint8)


def decoded_like(codec: Context, payload: npt.NDArray[np.uint8], like: Codes) -> Codes:
    """Decode a chunk of codes like others."""
    out = np.empty_like(like)
    codec.decode(payload, out)
    return out


def random_codes(sizes: tuple[int, ...], shape: tuple[int, ...], seed: int = 0) -> Codes:
    """Draw codes (n, *grid), or (n, codebooks, *grid) for several sizes."""
    random = np.random.default_rng(seed)
    dtype = bitpack.code_dtype(max(sizes))
    if len(sizes) == 1:
        return random.integers(0, sizes[0], shape).astype(dtype)
    planes = [random.integers(0, size, (shape[0], *shape[2:])) for size in sizes]
    return np.stack(planes, axis=1).astype(dtype)

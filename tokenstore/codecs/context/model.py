"""The context model: its integers, as a store has them, and the rows that coding needs.

A code is predicted from codes before it in C order: its contexts (neighbours at fixed offsets, of its own and
of earlier codebooks), the mean over the sample so far, and a trace of the last codes that fades. Each of
them adds a row of small integers to the hidden lanes, and each decision of the code tree is log-linear in
the hidden lanes. So a code's probability is a product of experts, one for each context. A row is the product
of a few components of its code with weights of its reader. README.md draws the model; FORMAT.md, section 7,
has the arithmetic.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import LANES, MAX_CONTEXTS
from tokenstore.codecs.context.tree import MAX_CODEBOOK_SIZE, CodeTree
from tokenstore.errors import CodecError

VERSION = 1
PAST_ROWS = 2
"""The rows of a preceding code: one for the mean, one for the trace."""
MAX_COMPONENTS = 64
MAX_PLANES = 256
MAX_TABLE_NBYTES = 2**30

_HEAD = struct.Struct("<BBH")
_PLANE = struct.Struct("<IBBBBB")

_DEFLATE = [
    (zlib.Z_DEFAULT_STRATEGY, zlib.DEF_MEM_LEVEL),
    *((zlib.Z_HUFFMAN_ONLY, memory) for memory in (9, 8, 7, 6)),
]
"""The strategies that are tried on each array, with the memory that bounds the size of their blocks."""
_ZLIB_HEAD = b"\x78\xda"
"""The head of a zlib stream with a window of 32 kB (RFC 1950)."""
_LAST_BLOCK = b"\x03\x00"
"""An empty last block of a deflate stream (RFC 1951)."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plane:
    """The model of one codebook's codes: how they are predicted, and how they predict others."""

    size: int
    order: npt.NDArray[np.uint32]
    """The codes by rank in the tree (K,)."""
    contexts: npt.NDArray[np.int8]
    """The offsets of the contexts along the grid's axes, each earlier in C order (m, rank)."""
    gains: npt.NDArray[np.uint16]
    """The scale of each component (T,)."""
    components: npt.NDArray[np.int8]
    """The components of each code (T, 1 + K); column 0 is that of no code, beyond the grid's edge."""
    readers: npt.NDArray[np.int8]
    """The weights of the components for each reader (T, readers, lanes).

    Readers are all contexts that look at this codebook, then its mean and its trace.
    """
    bias: npt.NDArray[np.int16]
    """The bias of the hidden lanes (lanes,)."""
    weights: npt.NDArray[np.int8]
    """The weights of each child's logit (children, 32)."""
    biases: npt.NDArray[np.int16]
    """The biases of each child's logit (children,), in units of 2 ** -8 of log2."""
    row_shift: int
    """The fraction bits of a row, before it is rounded."""
    logit_shift: int
    """The fraction bits of a logit, before it is rounded."""
    fade: int
    """The shift by which the trace fades: each code leaves 1 - 2 ** -fade of it."""

    @property
    def tree(self) -> CodeTree:
        """The tree of decisions that names a code."""
        return CodeTree.of(self.size)


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The model of one array's codes, a plane a codebook; grids have `rank` axes, the codebooks' included."""

    rank: int
    planes: tuple[Plane, ...]

    @property
    def codebook_size(self) -> int:
        """The size of the largest codebook."""
        return max(plane.size for plane in self.planes)

    @property
    def lanes(self) -> int:
        """The number of hidden lanes."""
        return lanes_for([plane.size for plane in self.planes])

    def sources(self, plane: int) -> list[int]:
        """Return the plane that each context of a plane looks at."""
        offsets = self.planes[plane].contexts
        return [plane + int(o[0]) if len(self.planes) > 1 else 0 for o in offsets]

    def rows(self, source: int) -> npt.NDArray[np.int8]:
        """Return the rows that a plane's codes add to its readers' hidden lanes (readers, 1 + K, lanes)."""
        plane = self.planes[source]
        rows = np.empty((plane.readers.shape[1], 1 + plane.size, self.lanes), np.int8)
        components = plane.components.T.astype(np.float64) * plane.gains
        for reader, table in enumerate(rows):
            # Exact: products and sums of these integers stay far below 2 ** 53.
            sums = components @ plane.readers[:, reader].astype(np.float64)
            sums += 2.0 ** (plane.row_shift - 1)
            sums /= 2.0**plane.row_shift
            np.clip(np.floor(sums, out=sums), -127, 127, out=sums)
            table[...] = sums
        return rows

    @property
    def nbytes(self) -> int:
        """The bytes of the stored model, before base64."""
        return len(self.encoded)

    @cached_property
    def encoded(self) -> bytes:
        """The model's bytes (FORMAT.md, M23). A model that was read keeps those read: compressors differ."""
        head = [_HEAD.pack(VERSION, self.rank, len(self.planes))]
        for plane in self.planes:
            counts = plane.size, len(plane.contexts), len(plane.gains)
            head.append(_PLANE.pack(*counts, plane.row_shift, plane.logit_shift, plane.fade))
        body = [plane.contexts.tobytes() for plane in self.planes]
        for shapes, plane in zip(self._shapes(), self.planes, strict=True):
            for name, (shape, dtype) in shapes.items():
                array = getattr(plane, name)
                if array.shape != shape:
                    raise ValueError(f"{name}: expected {shape}, found {array.shape}")
                body.append(array.astype(dtype).tobytes())
        return b"".join(head) + _deflated(body)

    def _shapes(self) -> list[dict[str, tuple[tuple[int, ...], str]]]:
        sizes = [plane.size for plane in self.planes]
        sources = [self.sources(plane) for plane in range(len(sizes))]
        return _shapes(sizes, sources, [len(plane.gains) for plane in self.planes])

    @classmethod
    def from_bytes(cls, data: bytes) -> ContextModel:
        """Return the model that `to_bytes` wrote; raises CodecError for other bytes."""
        try:
            model = _parsed(data)
        except (struct.error, zlib.error, ValueError, IndexError) as error:
            raise CodecError(f"expected a context model of version {VERSION}: {error}") from error
        model.__dict__["encoded"] = data
        return model

    def to_bytes(self) -> bytes:
        """Return the model's bytes (FORMAT.md, M23)."""
        return self.encoded


def lanes_for(sizes: list[int]) -> int:
    """Return the number of hidden lanes for codebooks of these sizes.

    The first decision sees 32 lanes. All others see 32 more, if a codebook needs a second decision at all.
    """
    return LANES if max(sizes) <= LANES else 2 * LANES


def _deflated(parts: list[bytes]) -> bytes:
    """Return the shortest zlib stream found of parts back to back.

    Small integers of a fit repeat nothing: matches cost a tenth of their bytes against Huffman codes alone,
    whose tables follow each array's, and each stretch of it where blocks are small.
    """
    blocks = (min((_deflated_part(part, *each) for each in _DEFLATE), key=len) for part in parts)
    whole = b"".join(parts)
    checksum = zlib.adler32(whole).to_bytes(4, "big")
    return min(zlib.compress(whole, 9), b"".join([_ZLIB_HEAD, *blocks, _LAST_BLOCK, checksum]), key=len)


def _deflated_part(part: bytes, strategy: int, memory: int) -> bytes:
    """Return a part of a raw deflate stream, which ends at a byte and refers to nothing before it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, memory, strategy)
    return compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _shapes(
    sizes: list[int], sources: list[list[int]], components: list[int]
) -> list[dict[str, tuple[tuple[int, ...], str]]]:
    """Return each plane's arrays in their stored order: name -> (shape, dtype)."""
    lanes = lanes_for(sizes)
    shapes = []
    for number, size in enumerate(sizes):
        readers = sum(source.count(number) for source in sources) + PAST_ROWS
        children = CodeTree.of(size).children
        shapes.append(
            {
                "order": ((size,), "<u2"),
                "gains": ((components[number],), "<u2"),
                "components": ((components[number], 1 + size), "i1"),
                "readers": ((components[number], readers, lanes), "i1"),
                "bias": ((lanes,), "<i2"),
                "weights": ((children, LANES), "i1"),
                "biases": ((children,), "<i2"),
            }
        )
    return shapes


def _parsed(data: bytes) -> ContextModel:
    version, rank, number = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"found version {version}")
    if not 1 <= rank <= 16 or not 1 <= number <= MAX_PLANES:
        raise ValueError(f"{number} codebooks of grids of {rank} axes")
    heads = [_PLANE.unpack_from(data, _HEAD.size + at * _PLANE.size) for at in range(number)]
    for size, contexts, components, row_shift, logit_shift, fade in heads:
        if not 1 <= size <= MAX_CODEBOOK_SIZE or not 1 <= contexts <= MAX_CONTEXTS:
            raise ValueError(f"{size} codes with {contexts} contexts")
        if components > MAX_COMPONENTS or not 1 <= row_shift <= 40 or logit_shift > 15 or not 1 <= fade <= 16:
            raise ValueError(f"{components} components, shifts of {row_shift}, {logit_shift} and {fade}")
    sizes = [head[0] for head in heads]
    table = sum(head[1] + PAST_ROWS for head in heads) * (1 + max(sizes)) * lanes_for(sizes)
    if table > MAX_TABLE_NBYTES:
        raise ValueError(f"tables of {table} bytes")
    # Contexts come first, since they decide how many readers each codebook has.
    stream = _Stream(data[_HEAD.size + number * _PLANE.size :])
    contexts = [stream.take((head[1], rank), "i1") for head in heads]
    sources = [_sources(at, offsets, number, rank) for at, offsets in enumerate(contexts)]
    planes = []
    for at, (head, shapes) in enumerate(
        zip(heads, _shapes(sizes, sources, [head[2] for head in heads]), strict=True)
    ):
        arrays = {name: stream.take(shape, dtype) for name, (shape, dtype) in shapes.items()}
        arrays["order"] = arrays["order"].astype(np.uint32)
        if not np.array_equal(np.sort(arrays["order"]), np.arange(head[0])):
            raise ValueError("an order of codes that is no permutation")
        planes.append(
            Plane(
                head[0], contexts=contexts[at], row_shift=head[3], logit_shift=head[4], fade=head[5], **arrays
            )
        )
    stream.finish()
    return ContextModel(rank, tuple(planes))


def _sources(plane: int, offsets: Array, planes: int, rank: int) -> list[int]:
    for offset in offsets.tolist():
        if next((step for step in offset if step), 0) >= 0:
            raise ValueError(f"the context {offset}, which is not earlier")
        if planes > 1 and not 0 <= plane + offset[0] <= plane:
            raise ValueError(f"the context {offset} of codebook {plane}")
    return [plane + offset[0] if planes > 1 else 0 for offset in offsets.tolist()]


class _Stream:
    """A stream of arrays out of compressed bytes: no more is decompressed than is requested."""

    def __init__(self, data: bytes) -> None:
        self._decompressor, self._data = zlib.decompressobj(), data

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return the next array, in the machine's byte order; raises ValueError if its bytes are missing."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        data = self._decompressor.decompress(self._data, nbytes) if nbytes else b""
        self._data = self._decompressor.unconsumed_tail if nbytes else self._data
        if len(data) != nbytes:
            raise ValueError(f"its arrays end after {len(data)} of {nbytes} bytes")
        array = np.frombuffer(data, dtype)
        return array.astype(array.dtype.newbyteorder("=")).reshape(shape)

    def finish(self) -> None:
        """Raise ValueError unless the stream ends here."""
        more = self._decompressor.decompress(self._data, 1)
        if more or not self._decompressor.eof or self._decompressor.unused_data:
            raise ValueError("bytes after its last array")

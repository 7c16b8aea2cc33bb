"""The streams of a model over a grid: codes to streams and back, and the tables that the kernels read."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.constants import (
    BIAS,
    BIASES,
    CACHE_LINE_NBYTES,
    CONTEXTS,
    FADE,
    FAN,
    LANES,
    LEVELS,
    LONGEST_DECISION,
    MAX_CONTEXTS,
    MAX_LEVELS,
    ORDER,
    PAST,
    PLAN_FIELDS,
    RANKS,
    SHIFT,
    SIZE,
    WEIGHTS,
)
from tokenstore.codecs.context.contexts import neighbours
from tokenstore.codecs.context.model import PAST_ROWS, ContextModel, Plane
from tokenstore.errors import CodecError
from tokenstore.machine import importing_kernels

__all__ = ["Streams", "check_grid"]

Array = npt.NDArray[Any]


class Streams:
    """The coder of samples over one grid, by one model; a sample has L codes, the product of the grid.

    A stream has the codes of a sample but for the first `given_per_plane` of every plane: those are known
    when it is decoded. Raises CodecError for a grid that is none of the model's.
    """

    def __init__(self, model: ContextModel, grid: tuple[int, ...], given_per_plane: int = 0) -> None:
        planes = len(model.planes)
        check_grid(model, grid)
        self.model = model
        self.given_per_plane = given_per_plane
        self.codes_per_sample = math.prod(grid)
        self.codes_per_stream = self.codes_per_sample - planes * given_per_plane
        self._tables: list[Array] = []
        """The memory behind the addresses in `plan` and `tables`."""
        self.neighbours = neighbours([plane.contexts for plane in model.planes], grid)
        self.plan = np.zeros((planes, PLAN_FIELDS), np.int64)
        self.tables = np.zeros((planes, MAX_CONTEXTS), np.int64)
        self.nodes = np.zeros((planes, 2 * MAX_LEVELS), np.int64)
        self._fill()

    def encode(self, codes: Array) -> tuple[bytes, npt.NDArray[np.int64]]:
        """Return the streams of codes (n, L), back to back, and their lengths (n,).

        Given codes may be -1, which stands for no code. Raises CodecError for a code that is not below its
        codebook's size.
        """
        for number, plane in enumerate(self.model.planes):
            per_plane = self.codes_per_sample // len(self.model.planes)
            own = codes[:, number * per_plane : (number + 1) * per_plane]
            if own.size and int(own.max()) >= plane.size:
                sample = int((own >= plane.size).any(axis=1).argmax())
                raise CodecError(
                    f"expected codes below {plane.size}, found {own[sample].max()}",
                    sample=sample,
                    place=f"codebook {number}",
                )
        decisions = sum(plane.tree.levels for plane in self.model.planes)
        decisions *= self.codes_per_stream // len(self.model.planes)
        lengths = np.empty(len(codes), np.int64)
        out = np.empty(len(codes) * (LONGEST_DECISION * decisions + 4), np.uint8)
        encode = _kernels().encoder(self.model.lanes)
        tables = self.plan, self.tables, self.nodes, self.neighbours
        # One type for all codes: to compile the encoder for another one takes seconds.
        one_type = np.ascontiguousarray(codes, np.int32)
        encode(one_type, self.given_per_plane, *tables, out, lengths)
        return out[: lengths.sum()].tobytes(), lengths

    def decode(self, addresses: Array, lengths: Array, out: Array, given: Array | None = None) -> int:
        """Decode the streams at memory addresses (m,) int64 into `out` (m, codes of a stream), C-contiguous.

        `given` (m, g) int32 has the given codes of each sample, plane by plane; -1 stands for no code.
        Returns the first sample whose bytes no encoder wrote, or -1. The codes of such a sample are
        undefined, but each is below its codebook's size. This is one call without the GIL.
        """
        if given is None:
            given = np.empty((len(addresses), 0), np.int32)
        tables = self.plan, self.tables, self.nodes, self.neighbours
        assert out.flags.carray  # bytes are written to its address
        places = out.ctypes.data, out.itemsize
        return int(_decoder(self.model.lanes)(addresses, lengths, given, *tables, *places))

    def _fill(self) -> None:
        model = self.model
        readers = [0] * len(model.planes)
        rows = [model.rows(source) for source in range(len(model.planes))]
        addresses = [self._address(each) for each in rows]
        table_nbytes = [(1 + plane.size) * model.lanes for plane in model.planes]
        for number in range(len(model.planes)):
            for context, source in enumerate(model.sources(number)):
                self.tables[number, context] = addresses[source] + readers[source] * table_nbytes[source]
                readers[source] += 1
        for number, plane in enumerate(model.planes):
            tree = plane.tree
            weights, biases = packed_weights(plane)
            ranks = np.empty(plane.size, np.int32)
            ranks[plane.order] = np.arange(plane.size)
            plan = self.plan[number]
            plan[[SIZE, FAN, LEVELS, CONTEXTS]] = plane.size, tree.fan, tree.levels, len(plane.contexts)
            plan[[SHIFT, FADE]] = plane.logit_shift, plane.fade
            plan[PAST] = self._address(_past(rows[number]))
            plan[BIAS] = self._address(plane.bias)
            plan[WEIGHTS], plan[BIASES] = self._address(weights), self._address(biases)
            plan[ORDER], plan[RANKS] = self._address(plane.order), self._address(ranks)
            self.nodes[number, : tree.levels] = tree.first_nodes()
            for level in range(tree.levels):
                self.nodes[number, MAX_LEVELS + level] = tree.children_at(level)

    def _address(self, array: Array) -> int:
        """Copy an array to the start of a cache line, since loads across two are slow; return its address."""
        room = np.empty(array.nbytes + CACHE_LINE_NBYTES, np.uint8)
        start = -room.ctypes.data % CACHE_LINE_NBYTES
        room[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._tables.append(room)
        return room.ctypes.data + start


def _past(rows: Array) -> Array:
    """Return the rows that each code adds to the mean and to the trace, side by side (K, 2, lanes)."""
    return np.ascontiguousarray(rows[-PAST_ROWS:, 1:].transpose(1, 0, 2))


def packed_weights(plane: Plane) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    """Return weights in pairs of inputs (nodes, 16, 32, 2), and biases in the products' units (nodes, 32)."""
    tree = plane.tree
    node, digit = tree.child_places()
    weights = np.zeros((tree.nodes, LANES // 2, LANES, 2), np.int16)
    weights[node, :, digit] = plane.weights.reshape(-1, LANES // 2, 2)
    biases = np.zeros((tree.nodes, LANES), np.int32)
    biases[node, digit] = plane.biases.astype(np.int32) << plane.logit_shift
    return weights, biases


def check_grid(model: ContextModel, grid: tuple[int, ...]) -> None:
    """Raise CodecError unless a grid is one of the model's."""
    planes = len(model.planes)
    if len(grid) != model.rank or (planes > 1 and grid[0] != planes):
        books = f" whose first has {planes}" if planes > 1 else ""
        raise CodecError(f"expected a grid of {model.rank} axes{books}, as the context model's, found {grid}")


@functools.cache
def _decoder(lanes: int) -> Any:
    return _kernels().decoder(lanes)


@functools.cache
def _kernels() -> ModuleType:
    with importing_kernels:
        from tokenstore.codecs.context import kernels
    return kernels

"""The context codec in plain whole numbers, step by step: the reference for the compiled codec.

Of the codec, only the integers that a model stores are used. Source: FORMAT.md, section 7.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Grid = tuple[int, ...]


class NoStreamError(Exception):
    """The bytes are no stream of any codes."""


# --- The tree: a code's rank, in base `fan`, is what is decided, digit by digit.


@functools.cache
def tree_of(size: int) -> tuple[int, int]:
    """Return levels and fan: the fewest levels of at most 32 alternatives, then the fewest alternatives."""
    levels = next(levels for levels in itertools.count() if 32**levels >= size)
    return levels, next(fan for fan in itertools.count(1) if fan**levels >= size)


def children_at(size: int, level: int) -> int:
    """Return how many children each node at a level has, left to right."""
    levels, fan = tree_of(size)
    ranks_below_a_child = fan ** (levels - 1 - level)
    return (size + ranks_below_a_child - 1) // ranks_below_a_child


def children_of(size: int, level: int, prefix: int) -> int:
    """Return how many alternatives a node has; the last node of a level may have fewer.

    `prefix` are the digits decided before the node.
    """
    _, fan = tree_of(size)
    return min(fan, children_at(size, level) - prefix * fan)


def first_child(size: int, level: int, prefix: int) -> int:
    """Return the place of a node's first child among all children, whose weights lie level by level."""
    _, fan = tree_of(size)
    return sum(children_at(size, above) for above in range(level)) + prefix * fan


# --- The model: each context adds a row to the hidden lanes, each decision is log-linear in them.


class Model:
    """A model's stored integers as Python's, and the rows that follow from them."""

    def __init__(self, model: Any) -> None:
        self.planes = model.planes
        self.lanes = 32 if max(plane.size for plane in model.planes) <= 32 else 64
        self._rows: dict[tuple[int, int, int], list[int]] = {}
        self._weights = [plane.weights.tolist() for plane in model.planes]

    def source(self, plane: int, offset: Sequence[int]) -> int:
        """Return the plane that a context of a plane looks at."""
        return plane + int(offset[0]) if len(self.planes) > 1 else 0

    def reader(self, plane: int, context: int) -> int:
        """Return a context's number among the readers of its source, counted plane by plane, in order."""
        wanted = self.source(plane, self.planes[plane].contexts[context])
        earlier = [(p, offset) for p in range(plane) for offset in self.planes[p].contexts]
        earlier += [(plane, offset) for offset in self.planes[plane].contexts[:context]]
        return sum(self.source(p, offset) == wanted for p, offset in earlier)

    def past_readers(self, plane: int) -> tuple[int, int]:
        """Return a plane's last two readers: the mean over its codes so far, and their fading trace."""
        everywhere = [(p, offset) for p, other in enumerate(self.planes) for offset in other.contexts]
        contexts = sum(self.source(p, offset) == plane for p, offset in everywhere)
        return contexts, contexts + 1

    def row(self, source: int, reader: int, code: int) -> list[int]:
        """Return the row that a code of a plane, or -1 for none, adds to one reader's lanes."""
        if (source, reader, code) not in self._rows:
            self._rows[source, reader, code] = self._row(self.planes[source], reader, code)
        return self._rows[source, reader, code]

    def _row(self, plane: Any, reader: int, code: int) -> list[int]:
        gains, heard = plane.gains.tolist(), plane.components[:, 1 + code].tolist()
        factors = [gain * component for gain, component in zip(gains, heard, strict=True)]
        readers = plane.readers[:, reader, : self.lanes].tolist()
        row = []
        for lane in range(self.lanes):
            total = sum(factor * reads[lane] for factor, reads in zip(factors, readers, strict=True))
            rounded = (total + 2 ** (plane.row_shift - 1)) >> plane.row_shift
            row.append(max(-127, min(127, rounded)))
        return row

    def frequencies(self, plane: int, level: int, prefix: int, hidden: Sequence[int]) -> list[int]:
        """Return the expected frequencies of a node's alternatives; the likeliest has 2 ** 15."""
        stored = self.planes[plane]
        heard = hidden[32:] if level and self.lanes > 32 else hidden[:32]
        first = first_child(stored.size, level, prefix)
        logits = []
        for child in range(first, first + children_of(stored.size, level, prefix)):
            total = int(stored.biases[child]) << stored.logit_shift
            for lane in range(32):
                total += heard[lane] * self._weights[plane][child][lane]
            logits.append(total >> stored.logit_shift)
        return [frequency(max(logits) - logit) for logit in logits]


def frequency(below: int) -> int:
    """Return 2 ** (15 - below / 256), nearly, and at least 1."""
    whole, fraction = divmod(below, 256)
    between = 2**15 - (fraction * (22016 - 22 * fraction) >> 8)
    return max(1, between >> min(whole, 31))


def as_int16(value: int) -> int:
    """Wrap a value to 16 bits."""
    return (value + 2**15) % 2**16 - 2**15


# --- The walk: positions in C order, at each the decisions from the tree's top.

Decide = Callable[[int, int, list[int]], int]
Given = Mapping[tuple[int, ...], int]


_tables: list[tuple[Any, Model]] = []
"""The model of the last sample, and its rows, which the samples of a chunk share."""


def tables_of(model: Any) -> Model:
    """Return the rows of a model, those of the last sample where it is the same."""
    if not _tables or _tables[0][0] is not model:
        _tables[:] = [(model, Model(model))]
    return _tables[0][1]


def walk(model: Any, grid: Grid, decide: Decide, given: Given | None = None) -> list[int]:
    """Return a sample's codes (L,); `decide` names the alternative at a position, level and frequencies.

    `given` has the code, or -1 for none, of every place that is not coded.
    """
    tables = tables_of(model)
    codes: dict[tuple[int, ...], int] = {} if given is None else dict(given)
    previous = -1
    per_plane = math.prod(grid) // len(model.planes)
    coded = [0] * len(model.planes)
    for position, place in enumerate(itertools.product(*map(range, grid))):
        if given is not None and place in given:
            continue
        number = position // per_plane
        seen, coded[number] = coded[number], coded[number] + 1
        plane = model.planes[number]
        if seen == 0:
            memory, trace = [0] * tables.lanes, [0] * tables.lanes
        else:
            to_memory, to_trace = (tables.row(number, r, previous) for r in tables.past_readers(number))
            memory = [held + more for held, more in zip(memory, to_memory, strict=True)]
            trace = [
                held - (held >> plane.fade) + 16 * more for held, more in zip(trace, to_trace, strict=True)
            ]
        share = 65536 // (seen + 16)
        hidden = [
            int(bias) + (held * share >> 16) + (fading >> (plane.fade + 4))
            for bias, held, fading in zip(plane.bias, memory, trace, strict=True)
        ]
        for context, offset in enumerate(plane.contexts):
            there = tuple(at + int(step) for at, step in zip(place, offset, strict=True))
            row = tables.row(
                tables.source(number, offset), tables.reader(number, context), codes.get(there, -1)
            )
            hidden = [held + more for held, more in zip(hidden, row, strict=True)]
        hidden = [as_int16(value) for value in hidden]
        levels, fan = tree_of(plane.size)
        rank = 0
        for level in range(levels):
            rank = rank * fan + decide(position, level, tables.frequencies(number, level, rank, hidden))
        codes[place] = previous = int(plane.order[rank])
    return [codes[place] for place in itertools.product(*map(range, grid))]


# --- Range coding: a stream is a number in [0, 1), which decisions close in on.


def encoded(model: Any, grid: Grid, codes: Sequence[int], given: Given | None = None) -> bytes:
    """Return the stream of one sample's codes (L,), but for the given ones."""
    low, span, shifted = 0, 2**32 - 1, 0
    per_plane = math.prod(grid) // len(model.planes)
    ranks = [{int(code): rank for rank, code in enumerate(plane.order)} for plane in model.planes]

    def decide(position: int, level: int, frequencies: list[int]) -> int:
        nonlocal low, span, shifted
        number = position // per_plane
        levels, fan = tree_of(model.planes[number].size)
        digit = ranks[number][int(codes[position])] // fan ** (levels - 1 - level) % fan
        unit = span // sum(frequencies)
        low += unit * sum(frequencies[:digit])
        span = unit * frequencies[digit]
        while span < 2**24:
            low, span, shifted = low << 8, span << 8, shifted + 1
        return digit

    walk(model, grid, decide, given)
    for kept in range(5):  # the fewest bytes that are a number in the interval
        unit = 256 ** (4 - kept)
        value = (low + unit - 1) // unit * unit
        if value < low + span:
            return value.to_bytes(shifted + 4, "big")[: shifted + kept].rstrip(b"\0")
    raise AssertionError("an interval without a whole number")


def decoded(model: Any, grid: Grid, stream: bytes) -> list[int]:
    """Return the codes (L,) of a stream. Raises NoStreamError if it lies in no code's interval."""
    following = itertools.chain(stream, itertools.repeat(0))
    offset, span = int.from_bytes(itertools.islice(following, 4), "big"), 2**32 - 1

    def decide(position: int, level: int, frequencies: list[int]) -> int:
        nonlocal offset, span
        unit = span // sum(frequencies)
        if offset // unit >= sum(frequencies):
            raise NoStreamError
        ends = itertools.accumulate(frequencies)
        digit = next(digit for digit, end in enumerate(ends) if offset // unit < end)
        offset -= unit * sum(frequencies[:digit])
        span = unit * frequencies[digit]
        while span < 2**24:
            offset, span = (offset << 8) + next(following), span << 8
        return digit

    return walk(model, grid, decide)


# --- A chunk: form, number of samples, shortest stream, bits of what others are longer; then streams.


def packed(values: Sequence[int], width: int) -> bytes:
    """Pack values of `width` bits as little-endian bytes, the first value in the lowest bits."""
    number = sum(value << (place * width) for place, value in enumerate(values))
    return number.to_bytes((len(values) * width + 7) // 8, "little")


def chunk(model: Any, codebook_size: int, samples: np.ndarray[Any, Any]) -> bytes:
    """Return the payload of codes (n, *grid): streams, or packed samples where these are shorter."""
    grid, flat = samples.shape[1:], samples.reshape(len(samples), math.prod(samples.shape[1:])).tolist()
    width = max(1, (codebook_size - 1).bit_length())
    fixed = b"\0" + b"".join(packed(codes, width) for codes in flat)
    if model is None or not flat:
        return fixed
    streams = [encoded(model, grid, codes) for codes in flat]
    shortest = min(map(len, streams))
    longer = [len(stream) - shortest for stream in streams]
    width = max(longer).bit_length()
    head = b"\1" + len(flat).to_bytes(4, "little") + shortest.to_bytes(4, "little") + bytes([width])
    coded = head + packed(longer, width) + b"".join(streams)
    return coded if len(coded) < len(fixed) else fixed

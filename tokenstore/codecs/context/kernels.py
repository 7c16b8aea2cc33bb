"""The compiled loops of `context`: a sample's codes to its stream and back, without the GIL.

A stream is a number in [0, 1) in base 256, most significant byte first, without zero bytes at its end. Every
decision narrows an interval in proportion to the frequencies of its alternatives. The interval has 32 bits;
below 2 ** 24 the next byte is shifted in. FORMAT.md, section 7.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

from tokenstore.codecs.addresses import big_endian_at, byte_at, store_at, word_at
from tokenstore.codecs.context.constants import (
    BIAS,
    BIASES,
    BIASES_NBYTES,
    CACHE_LINE_NBYTES,
    CONTEXTS,
    FADE,
    FAN,
    LANES,
    LEVELS,
    MAX_CONTEXTS,
    MAX_LEVELS,
    MEMORY_UNIT,
    ORDER,
    PAST,
    PRIOR_CODES,
    RANKS,
    SHIFT,
    WEIGHTS,
    WEIGHTS_NBYTES,
)
from tokenstore.codecs.context.vectors import TERMS, cumulate, hidden, search
from tokenstore.machine import compiled

SIDE_BY_SIDE: Final = 8
"""The samples decoded side by side: while one waits for memory, the processor works on the others."""
_TOTALS_NBYTES: Final = CACHE_LINE_NBYTES + 4 * LANES
"""The bytes of a sample's running totals. The cache line in front of them ends in a zero: the total before
the first."""
_TOP: Final = 2**24
_WORD: Final = 2**32 - 1


_compiled_once = functools.cache
"""The decorator of a function that compiles a kernel, once for each number of lanes."""


@compiled
def _following(word: Any, count: Any, address: Any, end: Any) -> Any:
    """Shift `count` bytes out of a word of 32 bits and as many of the stream, or zeros behind its end, in."""
    more = np.int64(0)
    if address + 4 <= end:
        more = big_endian_at(address)  # type: ignore[call-arg]
    else:
        for at in range(address, address + 4):
            more <<= 8
            if at < end:
                more |= np.int64(byte_at(at))  # type: ignore[call-arg]
    return ((word << (8 * count)) | (more >> (32 - 8 * count))) & _WORD


@compiled
def _write(codes: Any, sample: int, at: int, nbytes: int) -> None:
    """Write codes (n, SIDE_BY_SIDE) of one of the samples to an address, as integers of `nbytes` bytes.

    The width is an argument, so that the decoder is compiled once for all types of codes.
    """
    for position in range(codes.shape[0]):
        code = codes[position, sample]
        place = at + position * nbytes
        if nbytes == 1:
            store_at(place, code, 1)  # type: ignore[call-arg]
        elif nbytes == 2:
            store_at(place, code, 2)  # type: ignore[call-arg]
        elif nbytes == 4:
            store_at(place, code, 4)  # type: ignore[call-arg]
        else:
            store_at(place, code, 8)  # type: ignore[call-arg]


@_compiled_once
def decoder(lanes: int) -> Any:
    """Return the decoder of streams whose positions have `lanes` hidden lanes."""

    @compiled
    def decode(
        addresses: Any,
        lengths: Any,
        given: Any,
        plan: Any,
        tables: Any,
        nodes: Any,
        neighbours: Any,
        out: int,
        nbytes: int,
    ) -> int:
        """Decode the streams at `addresses` (n,), of `lengths` bytes, to the address `out`.

        A code becomes an integer of `nbytes` bytes, and a stream as many of them as it has codes of its own.

        `given` (n, g) int32 has the codes at the first positions of every plane, plane by plane, which no
        stream has; -1 stands for no code. Returns the first sample whose stream no encoder wrote, or -1. For
        any bytes, every code is below its codebook's size, and nothing outside the streams is read.
        """
        length = neighbours.shape[0]
        planes = plan.shape[0]
        plane_length = length // planes
        plane_given = given.shape[1] // planes
        codes = np.zeros((length + 1, SIDE_BY_SIDE), np.int64)
        rows = np.empty((SIDE_BY_SIDE, MAX_CONTEXTS), np.int64)
        past_nbytes = SIDE_BY_SIDE * 4 * lanes
        scratch = np.zeros(3 * past_nbytes + SIDE_BY_SIDE * _TOTALS_NBYTES + CACHE_LINE_NBYTES, np.uint8)
        terms = np.empty(TERMS, np.int64)
        span, offset, byte, end, prefix, wrong = np.empty((6, SIDE_BY_SIDE), np.int64)
        aligned = -scratch.ctypes.data % CACHE_LINE_NBYTES
        past = scratch[aligned : aligned + 2 * past_nbytes]
        rows_at, terms_at, memory_at = rows.ctypes.data, terms.ctypes.data, past.ctypes.data
        trace_at = memory_at + past_nbytes
        inputs_at = trace_at + past_nbytes
        totals_at = inputs_at + past_nbytes + CACHE_LINE_NBYTES
        for first in range(0, addresses.size, SIDE_BY_SIDE):
            here = min(SIDE_BY_SIDE, addresses.size - first)
            for j in range(here):
                codes[length, j] = -1
                end[j] = addresses[first + j] + lengths[first + j]
                offset[j] = _following(0, 4, addresses[first + j], end[j])
                byte[j] = addresses[first + j] + 4
                span[j] = _WORD
                wrong[j] = 0
                for at in range(given.shape[1]):
                    place = at + at // plane_given * (plane_length - plane_given)
                    codes[place, j] = given[first + j, at]
            for position in range(length):
                plane = position // plane_length
                seen = position - plane * plane_length - plane_given
                if seen < 0:
                    continue
                if seen == 0:
                    past[:] = 0
                contexts = plan[plane, CONTEXTS]
                levels = plan[plane, LEVELS]
                fan = plan[plane, FAN]
                terms[0] = plan[plane, BIAS]
                terms[1] = MEMORY_UNIT // (seen + PRIOR_CODES)
                terms[2] = plan[plane, FADE]
                terms[3] = plan[plane, CONTEXTS]
                for context in range(contexts):
                    place, table = neighbours[position, context], tables[plane, context]
                    for j in range(SIDE_BY_SIDE):
                        rows[j, context] = table + (codes[place, j] + 1) * lanes
                for j in range(here):
                    prefix[j] = 0
                    if levels:
                        preceding = 0
                        if seen:
                            preceding = plan[plane, PAST] + codes[position - 1, j] * (2 * lanes)
                        hidden(  # type: ignore[call-arg]
                            rows_at + j * (8 * MAX_CONTEXTS),
                            memory_at + j * (4 * lanes),
                            trace_at + j * (4 * lanes),
                            preceding,
                            terms_at,
                            inputs_at + j * (2 * lanes),
                            lanes,
                        )
                for level in range(levels):
                    upper = 2 * LANES if level and lanes > LANES else 0
                    for j in range(here):
                        node = nodes[plane, level] + prefix[j]
                        children = min(fan, nodes[plane, MAX_LEVELS + level] - prefix[j] * fan)
                        cumulate(  # type: ignore[call-arg]
                            inputs_at + j * (2 * lanes) + upper,
                            plan[plane, WEIGHTS] + node * WEIGHTS_NBYTES,
                            plan[plane, BIASES] + node * BIASES_NBYTES,
                            children,
                            plan[plane, SHIFT],
                            totals_at + j * _TOTALS_NBYTES,
                        )
                        last = totals_at + j * _TOTALS_NBYTES + 4 * (LANES - 1)
                        unit = np.int64(np.uint64(span[j]) // np.uint64(word_at(last)))
                        symbol = search(totals_at + j * _TOTALS_NBYTES, unit, offset[j])
                        symbol = min(symbol, children - 1)
                        before = totals_at + j * _TOTALS_NBYTES + 4 * (symbol - 1)
                        start = word_at(before)
                        width = unit * (word_at(before + 4) - start)
                        rest = offset[j] - unit * start
                        wrong[j] |= rest >= width
                        short = np.int64(width < 2**24) + np.int64(width < 2**16) + np.int64(width < 2**8)
                        offset[j] = _following(rest, short, byte[j], end[j])
                        span[j] = width << (8 * short)
                        byte[j] += short
                        prefix[j] = prefix[j] * fan + symbol
                order = plan[plane, ORDER]
                for j in range(here):
                    codes[position, j] = word_at(order + 4 * prefix[j])  # type: ignore[call-arg]
            own = plane_length - plane_given
            for j in range(here):
                start = out + (first + j) * planes * own * nbytes
                for plane in range(planes):
                    place = (plane + 1) * plane_given + plane * own
                    _write(codes[place : place + own], j, start + plane * own * nbytes, nbytes)
            for j in range(here):
                if wrong[j]:
                    return first + j
        return -1

    return decode


@_compiled_once
def encoder(lanes: int) -> Any:
    """Return the encoder of streams whose positions have `lanes` hidden lanes."""

    @compiled
    def encode(
        codes: Any,
        plane_given: Any,
        plan: Any,
        tables: Any,
        nodes: Any,
        neighbours: Any,
        out: Any,
        lengths: Any,
    ) -> None:
        """Encode codes (n, L) int32, each below its codebook's size, to streams back to back in `out`.

        The first `plane_given` codes of every plane are given to the decoder too, and not written; -1 among
        them stands for no code. `out` has room for `LONGEST_DECISION` bytes a decision and 4 bytes a sample.
        The streams' bytes are written to `lengths` (n,).
        """
        length = neighbours.shape[0]
        plane_length = length // plan.shape[0]
        rows = np.empty(MAX_CONTEXTS, np.int64)
        memory = np.empty(lanes, np.int32)
        trace = np.empty(lanes, np.int32)
        inputs = np.empty(lanes, np.int16)
        totals = np.empty(LANES, np.int32)
        terms = np.empty(TERMS, np.int64)
        begin = 0
        for sample in range(codes.shape[0]):
            low = 0
            span = _WORD
            at = begin
            for position in range(length):
                plane = position // plane_length
                seen = position - plane * plane_length - plane_given
                if seen < 0:
                    continue
                if seen == 0:
                    memory[:] = 0
                    trace[:] = 0
                levels = plan[plane, LEVELS]
                if levels == 0:
                    continue
                fan = plan[plane, FAN]
                terms[0] = plan[plane, BIAS]
                terms[1] = MEMORY_UNIT // (seen + PRIOR_CODES)
                terms[2] = plan[plane, FADE]
                terms[3] = plan[plane, CONTEXTS]
                for context in range(plan[plane, CONTEXTS]):
                    place = neighbours[position, context]
                    row = np.int64(codes[sample, place]) + 1 if place < length else 0
                    rows[context] = tables[plane, context] + row * lanes
                past = 0
                if seen:
                    past = plan[plane, PAST] + np.int64(codes[sample, position - 1]) * (2 * lanes)
                hidden(  # type: ignore[call-arg]
                    rows.ctypes.data,
                    memory.ctypes.data,
                    trace.ctypes.data,
                    past,
                    terms.ctypes.data,
                    inputs.ctypes.data,
                    lanes,
                )
                code = np.int64(codes[sample, position])
                rank = word_at(plan[plane, RANKS] + 4 * code)
                below = 1
                for _ in range(levels - 1):
                    below *= fan
                for level in range(levels):
                    prefix = rank // (below * fan)
                    node = nodes[plane, level] + prefix
                    cumulate(
                        inputs.ctypes.data + (2 * LANES if level and lanes > LANES else 0),
                        plan[plane, WEIGHTS] + node * WEIGHTS_NBYTES,
                        plan[plane, BIASES] + node * BIASES_NBYTES,
                        min(fan, nodes[plane, MAX_LEVELS + level] - prefix * fan),
                        plan[plane, SHIFT],
                        totals.ctypes.data,
                    )
                    symbol = rank // below - prefix * fan
                    below //= fan
                    unit = span // totals[LANES - 1]
                    start = np.int64(totals[symbol - 1]) if symbol else np.int64(0)
                    low += unit * start
                    span = unit * (totals[symbol] - start)
                    if low > _WORD:
                        low &= _WORD
                        _carry(out, at)
                    while span < _TOP:
                        out[at] = low >> 24
                        at += 1
                        low = (low << 8) & _WORD
                        span <<= 8
            # The fewest bytes that name a number of the interval, with any bytes behind them.
            for count in range(5):
                rest = (1 << (32 - 8 * count)) - 1
                value = (low + rest) & ~rest
                if value < low + span:
                    if value > _WORD:
                        value &= _WORD
                        _carry(out, at)
                    for place in range(count):
                        out[at] = (value >> (24 - 8 * place)) & 255
                        at += 1
                    break
            while at > begin and out[at - 1] == 0:
                at -= 1
            lengths[sample] = at - begin
            begin = at

    return encode


@compiled
def _carry(out: Any, at: int) -> None:
    """Add one to the number whose last byte is before `at`."""
    at -= 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1

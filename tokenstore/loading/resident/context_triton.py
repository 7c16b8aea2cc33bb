"""The context codec's decoder as a Triton kernel: a sample a program, and a program a warp of 32 lanes.

A lane is an alternative of a decision: the alternatives' running totals are a scan over the warp, and the
search in the totals is a count over the warp. Integers throughout, the same as the processor's decoder
(tokenstore/codecs/context); FORMAT.md, section 7.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenstore.codecs.context import constants
from tokenstore.loading.resident.tables import STREAM_HEAD, Tables

_LANES = tl.constexpr(constants.LANES)
_MEMORY_UNIT = tl.constexpr(constants.MEMORY_UNIT)
_PRIOR_CODES = tl.constexpr(constants.PRIOR_CODES)
_MEMORY_BITS = tl.constexpr(constants.MEMORY_BITS)
_TRACE_BITS = tl.constexpr(constants.TRACE_BITS)
_LOGIT_BITS = tl.constexpr(constants.LOGIT_BITS)
_PEAK_BITS = tl.constexpr(constants.PEAK_BITS)
_CURVE, _BEND = tl.constexpr(constants.CURVE), tl.constexpr(constants.BEND)
_HEAD = tl.constexpr(STREAM_HEAD)
_LOWEST = tl.constexpr(-(2**30))

_PLAN_FIELDS = tl.constexpr(6 + constants.MAX_LEVELS)
_FAN, _LEVELS, _SHIFT, _FADE, _PAST, _ORDER, _NODES = (tl.constexpr(field) for field in range(7))
"""The places, in a plane's row of the plan, of its numbers and of the starts of its part of each table."""


class TritonDecoder:
    """A decoder of streams of one model over one grid."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        device = tables.rows.device
        plan = torch.zeros((len(tables.planes), _PLAN_FIELDS.value), dtype=torch.int32)
        # A plane with fewer contexts than others fills up with contexts of no code: the row of zeros.
        bases = torch.full((len(tables.planes), tables.neighbours.shape[1]), len(tables.rows) - 1)
        for number, plane in enumerate(tables.planes):
            head = (plane.fan, plane.levels, plane.logit_shift, plane.fade, plane.past, plane.order)
            numbers = torch.tensor((*head, *plane.first_nodes))
            plan[number, : len(numbers)] = numbers
            bases[number, : len(plane.bases)] = torch.tensor(plane.bases)
        self._plan, self._bases = plan.to(device), bases.int().to(device)

    def __call__(self, pool: Tensor, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (m, L) int64, and a mask (m,) bool of the samples whose stream no encoder wrote."""
        tables = self.tables
        codes = torch.empty((len(offsets), tables.codes_per_sample), dtype=torch.int32, device=pool.device)
        wrong = torch.empty(len(offsets), dtype=torch.int32, device=pool.device)
        with torch.cuda.device_of(pool):  # type: ignore[no-untyped-call]
            _decode[(len(offsets),)](
                pool,
                offsets,
                lengths,
                codes,
                wrong,
                self._plan,
                self._bases,
                tables.neighbours,
                tables.rows,
                tables.past,
                tables.bias,
                tables.weights,
                tables.biases,
                tables.alternatives,
                tables.order,
                len(tables.planes),
                tables.codes_per_sample // len(tables.planes),
                contexts=tables.neighbours.shape[1],
                halves=tables.rows.shape[2],
                num_warps=1,
                enable_fp_fusion=False,
            )
        return codes.long(), wrong != 0


@triton.jit  # type: ignore[untyped-decorator]
def _decode(  # type: ignore[no-untyped-def]
    pool,
    offsets,
    lengths,
    codes,
    wrong,
    plan,
    bases,
    neighbours,
    rows,
    past,
    bias,
    weights,
    biases,
    alternatives,
    order,
    planes,
    plane_length,
    contexts: tl.constexpr,
    halves: tl.constexpr,
):
    """Decode the stream of `lengths[sample]` bytes at `offsets[sample]` to `codes[sample]`."""
    sample = tl.program_id(0)
    length = planes * plane_length
    codes += sample.to(tl.int64) * length
    at = tl.load(offsets + sample)
    end = at + tl.load(lengths + sample)
    lane = tl.arange(0, _LANES)
    wide = tl.arange(0, _LANES * halves)
    offset = (_three(pool, at, end) << 8) | _byte(pool, at + 3, end)
    at += _HEAD
    span = tl.full((), 0xFFFFFFFF, tl.uint32)
    refused = tl.full((), 0, tl.int32)
    for plane in range(planes):
        numbers = plan + plane * _PLAN_FIELDS
        fan = tl.load(numbers + _FAN)
        levels = tl.load(numbers + _LEVELS)
        shift = tl.load(numbers + _SHIFT)
        fade = tl.load(numbers + _FADE)
        first_past = tl.load(numbers + _PAST)
        first_order = tl.load(numbers + _ORDER)
        lane_bias = tl.load(bias + plane * _LANES * halves + wide)
        memory = tl.zeros((_LANES * halves,), tl.int32)
        trace = tl.zeros((_LANES * halves,), tl.int32)
        previous = tl.full((), -1, tl.int32)
        for seen in range(plane_length):
            position = plane * plane_length + seen
            # The row of no code, before a plane's first, is zero.
            added = past + (first_past + 1 + previous).to(tl.int64) * (2 * _LANES * halves) + wide
            memory += tl.load(added)
            trace += (tl.load(added + _LANES * halves).to(tl.int32) << _TRACE_BITS) - (trace >> fade)
            hidden = lane_bias + ((memory * (_MEMORY_UNIT // (seen + _PRIOR_CODES))) >> _MEMORY_BITS)
            hidden += trace >> (fade + _TRACE_BITS)
            for context in tl.static_range(contexts):
                place = tl.load(neighbours + position * contexts + context)
                code = tl.load(codes + place, mask=place < length, other=-1)
                row = tl.load(bases + plane * contexts + context) + 1 + code
                hidden += tl.load(rows + row.to(tl.int64) * (_LANES * halves) + wide)
            hidden = hidden.to(tl.int16).to(tl.int32)  # hidden lanes wrap at 16 bits
            if halves == 2:
                first, further = tl.split(tl.reshape(hidden, (_LANES, 2)))
            else:
                first, further = hidden, hidden
            rank = tl.full((), 0, tl.int32)
            for level in range(levels):
                # Loaded early: the number of bytes that a decision takes is known only at its end.
                following = _three(pool, at, end)
                node = tl.load(numbers + _NODES + level) + rank
                inputs = tl.where(level == 0, first, further)
                frequencies = _frequencies(inputs, weights, biases, alternatives, node, shift)
                unit = span // tl.sum(frequencies, 0).to(tl.uint32)
                ends = tl.cumsum(frequencies, 0).to(tl.uint32) * unit
                passed = tl.sum((ends <= offset).to(tl.int32), 0)
                decided = tl.minimum(passed, tl.load(alternatives + node) - 1)
                width = unit * tl.sum(tl.where(lane == decided, frequencies, 0), 0).to(tl.uint32)
                rest = offset - tl.max(tl.where(lane < decided, ends, 0), 0)
                refused |= (rest >= width).to(tl.int32)
                short = (
                    (width < 2**24).to(tl.uint32)
                    + (width < 2**16).to(tl.uint32)
                    + (width < 2**8).to(tl.uint32)
                )
                offset = (rest << (8 * short)) | (following >> (24 - 8 * short))
                span = width << (8 * short)
                at += short
                rank = rank * fan + decided
            previous = tl.load(order + first_order + rank)
            tl.store(codes + position, previous)
            # subtle: one lane stores the code, and all lanes load it as a context of later positions. A lane
            # is sure to see another's store only behind a barrier of both, which orders memory too. A
            # program is one warp, so the barrier costs no waiting; no program loads what another stores.
            tl.debug_barrier()
    tl.store(wrong + sample, refused)


@triton.jit
def _three(pool, at, end):  # type: ignore[no-untyped-def]
    """Return three bytes of a stream as one number, the first byte the most significant."""
    return (_byte(pool, at, end) << 16) | (_byte(pool, at + 1, end) << 8) | _byte(pool, at + 2, end)


@triton.jit
def _byte(pool, at, end):  # type: ignore[no-untyped-def]
    """Return the byte of a stream at a place in the pool, or zero behind the stream's end."""
    return tl.load(pool + at, mask=at < end, other=0).to(tl.uint32)


@triton.jit
def _frequencies(inputs, weights, biases, alternatives, node, shift):  # type: ignore[no-untyped-def]
    """Return the frequencies of a node's alternatives (32,) int32, zero for lanes without one."""
    lane = tl.arange(0, _LANES)
    start = node.to(tl.int64) * _LANES
    weighed = (
        tl.load(weights + (start + lane[:, None]) * _LANES + lane[None, :]).to(tl.int32) * inputs[None, :]
    )
    logits = (tl.sum(weighed, 1) + tl.load(biases + start + lane)) >> shift
    exists = lane < tl.load(alternatives + node)
    logits = tl.where(exists, logits, _LOWEST)
    below = tl.max(logits, 0) - logits
    fraction = below & (2**_LOGIT_BITS - 1)
    whole = tl.minimum(below >> _LOGIT_BITS, 31)
    peak = 2**_PEAK_BITS - ((fraction * (_CURVE - _BEND * fraction)) >> _LOGIT_BITS)
    return tl.where(exists, tl.maximum(peak >> whole, 1), 0)

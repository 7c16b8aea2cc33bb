"""The context model's arithmetic on whole vectors, as LLVM code that numba functions call.

Numba widens its own loops over small integers to 64 bits; they stay scalar and are several times slower. All
arithmetic here is on integers and wraps, so that every processor gives the same bits. Arguments are memory
addresses: of int8 rows, int16 hidden lanes, int16 weights in pairs of inputs, and int32 sums.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tokenstore.codecs.context.constants import (
    BEND,
    CURVE,
    LANES,
    LOGIT_BITS,
    MEMORY_BITS,
    PEAK_BITS,
    TRACE_BITS,
)

TERMS = 4
"""The numbers in the `terms` of `hidden`."""

_i8, _i16, _i32, _i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _splat(value: int, lanes: int = LANES, element: Any = _i32) -> Any:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _pointer(builder: Any, address: Any, pointee: Any) -> Any:
    return builder.inttoptr(address, pointee.as_pointer())


def _load(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    """Emit the load of elements at an address of any alignment."""
    return builder.load(_pointer(builder, address, ir.VectorType(element, lanes)), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=1)


def _constant(number: int) -> Any:
    return ir.Constant(_i64, number)


@intrinsic(prefer_literal=True)
def hidden(
    typing: Any, rows: Any, memory: Any, trace: Any, past: Any, terms: Any, out: Any, lanes: Any
) -> Any:
    """Compute the hidden lanes of one position, int16[lanes] at `out`.

    They are the sum of the bias, of the rows of the position's contexts, and of the sample's past. `rows`
    are addresses (int64) of the contexts' rows, int8[lanes]. `memory` and `trace` are int32[lanes]. `past` is
    0, or the address of the preceding code's row: its first `lanes` numbers are added to the memory, the next
    to the trace. `terms` are TERMS numbers (int64): the address of the bias (int16[lanes]), one over the
    number of codes seen, the shift by which the trace fades, and the number of contexts.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows_at, memory_at, trace_at, past_at, terms_at, out_at = arguments[:6]
        bias_at, share, fade, contexts = (
            builder.load(_pointer(builder, builder.add(terms_at, _constant(8 * place)), _i64))
            for place in range(TERMS)
        )
        emit = _HiddenLanes(builder, lanes.literal_value, fade)
        with builder.if_then(builder.icmp_unsigned("!=", past_at, _constant(0))):
            emit.remember(past_at, memory_at, trace_at)
        start = emit.past(memory_at, trace_at, share)
        start = builder.add(start, _load(builder, bias_at, _i16, lanes.literal_value))
        _store(builder, emit.with_rows(start, rows_at, contexts), out_at)
        return context.get_dummy_value()

    return types.void(rows, memory, trace, past, terms, out, lanes), codegen


class _HiddenLanes:
    """The LLVM code for the parts of a position's hidden lanes."""

    def __init__(self, builder: Any, lanes: int, fade: Any) -> None:
        self.builder = builder
        self.lanes = lanes
        self.wide = ir.VectorType(_i32, lanes)
        self.fade = self._splatted(fade)

    def _splatted(self, value: Any) -> Any:
        builder = self.builder
        one = builder.insert_element(
            ir.Constant(self.wide, ir.Undefined), builder.trunc(value, _i32), ir.Constant(_i32, 0)
        )
        places = ir.Constant(ir.VectorType(_i32, self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(one, one, places)

    def remember(self, past_at: Any, memory_at: Any, trace_at: Any) -> None:
        """Emit the update of memory and trace by the row of the preceding code."""
        builder, lanes = self.builder, self.lanes
        seen = builder.sext(_load(builder, past_at, _i8, lanes), self.wide)
        _store(builder, builder.add(_load(builder, memory_at, _i32, lanes), seen), memory_at)
        latest = builder.sext(_load(builder, builder.add(past_at, _constant(lanes)), _i8, lanes), self.wide)
        trace = _load(builder, trace_at, _i32, lanes)
        trace = builder.sub(trace, builder.ashr(trace, self.fade))
        trace = builder.add(trace, builder.shl(latest, _splat(TRACE_BITS, lanes)))
        _store(builder, trace, trace_at)

    def past(self, memory_at: Any, trace_at: Any, share: Any) -> Any:
        """Emit the mean over the sample's past plus its trace; returns them as int16[lanes]."""
        builder, lanes = self.builder, self.lanes
        mean = builder.mul(_load(builder, memory_at, _i32, lanes), self._splatted(share))
        mean = builder.ashr(mean, _splat(MEMORY_BITS, lanes))
        fading = builder.ashr(
            _load(builder, trace_at, _i32, lanes), builder.add(self.fade, _splat(TRACE_BITS, lanes))
        )
        return builder.trunc(builder.add(mean, fading), ir.VectorType(_i16, lanes))

    def with_rows(self, start: Any, rows_at: Any, contexts: Any) -> Any:
        """Emit the loop that adds the contexts' rows to `start`; returns the sum, int16[lanes]."""
        builder = self.builder
        before = builder.block
        loop = builder.append_basic_block("contexts")
        after = builder.append_basic_block("summed")
        builder.branch(loop)
        builder.position_at_end(loop)
        place = builder.phi(_i64)
        total = builder.phi(start.type)
        place.add_incoming(_constant(0), before)
        total.add_incoming(start, before)
        row = builder.load(_pointer(builder, builder.add(rows_at, builder.shl(place, _constant(3))), _i64))
        summed = builder.add(total, builder.sext(_load(builder, row, _i8, self.lanes), start.type))
        following = builder.add(place, _constant(1))
        place.add_incoming(following, loop)
        total.add_incoming(summed, loop)
        builder.cbranch(builder.icmp_signed("<", following, contexts), loop, after)
        builder.position_at_end(after)
        return summed


@intrinsic
def cumulate(typing: Any, inputs: Any, weights: Any, bias: Any, children: Any, shift: Any, out: Any) -> Any:
    """Compute the running totals of a decision's frequencies, int32[32] at `out`.

    Totals past the decision's `children` repeat the last. `inputs` are int16[32], `weights` int16[16][32][2]
    in pairs of inputs, `bias` int32[32]. A logit is the sum of bias and products, shifted right by `shift`.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        inputs_at, weights_at, bias_at, count, by, out_at = arguments
        multiply = _PairProducts(builder)
        sums = [_load(builder, bias_at, _i32, LANES), _splat(0), _splat(0), _splat(0)]
        for pair in range(LANES // 2):
            both = builder.load(_pointer(builder, builder.add(inputs_at, _constant(4 * pair)), _i32), align=1)
            own = _load(builder, builder.add(weights_at, _constant(4 * LANES * pair)), _i16, 2 * LANES)
            sums[pair % 4] = builder.add(sums[pair % 4], multiply(both, own))
        logits = builder.add(builder.add(sums[0], sums[1]), builder.add(sums[2], sums[3]))
        logits = builder.ashr(logits, multiply.splat(builder.trunc(by, _i32), LANES))
        exists = builder.icmp_signed(
            "<",
            ir.Constant(logits.type, list(range(LANES))),
            multiply.splat(builder.trunc(count, _i32), LANES),
        )
        logits = builder.select(exists, logits, _splat(-(2**30)))
        reduce = builder.module.declare_intrinsic(
            f"llvm.vector.reduce.smax.v{LANES}i32", fnty=ir.FunctionType(_i32, [logits.type])
        )
        below = builder.sub(multiply.splat(builder.call(reduce, [logits]), LANES), logits)
        fraction = builder.and_(below, _splat(2**LOGIT_BITS - 1))
        whole = builder.lshr(below, _splat(LOGIT_BITS))
        whole = builder.select(builder.icmp_unsigned("<", whole, _splat(31)), whole, _splat(31))
        curve = builder.mul(fraction, builder.sub(_splat(CURVE), builder.mul(fraction, _splat(BEND))))
        peak = builder.sub(_splat(2**PEAK_BITS), builder.lshr(curve, _splat(8)))
        frequency = builder.lshr(peak, whole)
        frequency = builder.or_(
            frequency, builder.zext(builder.icmp_unsigned("==", frequency, _splat(0)), logits.type)
        )
        total = builder.select(exists, frequency, _splat(0))
        step = 1
        while step < LANES:
            places = ir.Constant(ir.VectorType(_i32, LANES), [*([LANES] * step), *range(LANES - step)])
            shifted = builder.shuffle_vector(total, _splat(0), places)
            total = builder.add(total, shifted)
            step *= 2
        _store(builder, total, out_at)
        return context.get_dummy_value()

    return types.void(inputs, weights, bias, children, shift, out), codegen


@intrinsic
def search(typing: Any, totals: Any, unit: Any, offset: Any) -> Any:
    """Count the running totals int32[32] that, times `unit`, are at most `offset`, all unsigned."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        totals_at, unit_value, offset_value = arguments
        splat = _PairProducts(builder).splat
        ends = builder.mul(
            _load(builder, totals_at, _i32, LANES), splat(builder.trunc(unit_value, _i32), LANES)
        )
        passed = builder.icmp_unsigned("<=", ends, splat(builder.trunc(offset_value, _i32), LANES))
        bits = builder.bitcast(passed, ir.IntType(LANES))
        count = builder.module.declare_intrinsic("llvm.ctpop", [bits.type])
        return builder.zext(builder.call(count, [bits]), _i64)

    return types.int64(totals, unit, offset), codegen


class _PairProducts:
    """The LLVM code for products of int16, added in pairs to int32: one instruction on most processors."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        features = llvm.get_host_cpu_features()
        self._native: str | None = None
        if features.get("avx512bw"):
            self._native, self._inputs = "llvm.x86.avx512.pmaddw.d.512", 32
        elif features.get("avx2"):
            self._native, self._inputs = "llvm.x86.avx2.pmadd.wd", 16

    def splat(self, value: Any, lanes: int) -> Any:
        """Emit a vector that repeats a value in every lane."""
        vector = ir.VectorType(value.type, lanes)
        one = self._builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_i32, 0))
        return self._builder.shuffle_vector(one, one, _splat(0, lanes))

    def __call__(self, both: Any, weights: Any) -> Any:
        """Emit the product of two inputs (as one int32) with each alternative's two weights: int32[32]."""
        builder = self._builder
        inputs = builder.bitcast(self.splat(both, LANES), weights.type)
        if self._native is None:
            return self._plain(inputs, weights)
        part = ir.VectorType(_i16, self._inputs)
        function = builder.module.declare_intrinsic(
            self._native, fnty=ir.FunctionType(ir.VectorType(_i32, self._inputs // 2), [part, part])
        )
        sums = [
            builder.call(function, [self._slice(inputs, start), self._slice(weights, start)])
            for start in range(0, 2 * LANES, self._inputs)
        ]
        while len(sums) > 1:
            sums = [self._joined(*sums[at : at + 2]) for at in range(0, len(sums), 2)]
        return sums[0]

    def _slice(self, vector: Any, start: int) -> Any:
        places = list(range(start, start + self._inputs))
        return self._builder.shuffle_vector(
            vector, vector, ir.Constant(ir.VectorType(_i32, len(places)), places)
        )

    def _joined(self, first: Any, second: Any) -> Any:
        places = list(range(2 * first.type.count))
        return self._builder.shuffle_vector(
            first, second, ir.Constant(ir.VectorType(_i32, len(places)), places)
        )

    def _plain(self, inputs: Any, weights: Any) -> Any:
        builder = self._builder
        wide = ir.VectorType(_i32, LANES)
        products = []
        for first in (0, 1):
            places = ir.Constant(wide, list(range(first, 2 * LANES, 2)))
            left, right = (
                builder.sext(builder.shuffle_vector(vector, vector, places), wide)
                for vector in (inputs, weights)
            )
            products.append(builder.mul(left, right))
        return builder.add(*products)

"""The context codec's decoder in plain torch: all samples step through their positions together.

Integers throughout, the same as the processor's decoder (tokenstore/codecs/context); FORMAT.md, section 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.codecs.context.constants import (
    BEND,
    CURVE,
    LANES,
    LOGIT_BITS,
    MEMORY_BITS,
    MEMORY_UNIT,
    PEAK_BITS,
    PRIOR_CODES,
    TRACE_BITS,
)
from tokenstore.loading.resident.tables import STREAM_HEAD, PlanePlan, Tables

PASS_SAMPLES = {"cpu": 2**8}
"""The samples decoded together by type of device: some 10 kB each, which stay in a processor's cache."""
MOST_SAMPLES = 2**14
"""The samples decoded together on all other devices, enough to fill them."""
_WORD = 2**32 - 1
_LOWEST = -(2**30)


class _Streams:
    """The streams of m samples and the state of their decoders, each (m,) int64."""

    def __init__(self, pool: Tensor, offsets: Tensor, lengths: Tensor) -> None:
        longest = int(lengths.max())
        places = torch.arange(longest + STREAM_HEAD + 3, device=pool.device)
        # A stream reads as zeros behind its end, so an empty stream is all zeros.
        inside = places < lengths[:, None]
        if longest:
            streams = pool[(offsets[:, None] + places).clamp_(max=pool.numel() - 1)].int() * inside
        else:
            streams = inside.int()
        # One decision takes three bytes at most: the three from every place of a stream, as one number.
        self._next = (streams[:, :-2] << 16) | (streams[:, 1:-1] << 8) | streams[:, 2:]
        self._last = self._next.shape[1] - 1
        self._at = torch.full_like(lengths, STREAM_HEAD)
        self.offset = (self._next[:, 0].long() << 8) | streams[:, 3]
        self.span = torch.full_like(lengths, _WORD)
        self.wrong = torch.zeros_like(lengths, dtype=torch.bool)

    def narrow(self, rest: Tensor, width: Tensor) -> None:
        """Narrow each stream's interval to `width`, with the stream at `rest` in it."""
        self.wrong |= rest >= width
        short = (width < 2**24).long() + (width < 2**16) + (width < 2**8)
        bits = 8 * short
        following = self._next.gather(1, self._at[:, None])[:, 0]
        self.offset = ((rest << bits) | (following >> (24 - bits))) & _WORD
        self.span = width << bits
        # Behind its end a stream is zeros, so staying at the last place gives the right bytes.
        self._at = (self._at + short).clamp_(max=self._last)


class TorchDecoder:
    """A decoder of streams of one model over one grid."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        device = tables.rows.device
        self._lanes = torch.arange(LANES, device=device)
        # An input's weights side by side: (nodes, inputs, alternatives)
        self._weights = tables.weights.transpose(1, 2).contiguous()
        self._frequencies = _frequencies().to(device)
        self._codes = [torch.tensor(plane.bases, device=device)[:, None] + 1 for plane in tables.planes]

    def __call__(self, pool: Tensor, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (m, L) int64, and a mask (m,) bool of the samples whose stream no encoder wrote."""
        lengths = lengths.clamp(max=self.tables.longest_stream)
        samples = PASS_SAMPLES.get(pool.device.type, MOST_SAMPLES)
        passes = zip(torch.split(offsets, samples), torch.split(lengths, samples), strict=True)
        parts = [self._decode(_Streams(pool, *places)) for places in passes]
        return torch.cat([codes for codes, _ in parts]), torch.cat([wrong for _, wrong in parts])

    def _decode(self, streams: _Streams) -> tuple[Tensor, Tensor]:
        tables = self.tables
        length, samples = tables.codes_per_sample, len(streams.span)
        # Codes by position. The row behind the last is for no code, beyond the grid's edge.
        codes = torch.zeros((length + 1, samples), dtype=torch.int64, device=tables.rows.device)
        codes[length] = -1
        per_plane = length // len(tables.planes)
        for number, plane in enumerate(tables.planes):
            if plane.levels:
                self._decode_plane(
                    number, slice(number * per_plane, (number + 1) * per_plane), codes, streams
                )
        return codes[:length].T.contiguous(), streams.wrong

    def _decode_plane(self, number: int, positions: slice, codes: Tensor, streams: _Streams) -> None:
        tables, plane = self.tables, self.tables.planes[number]
        order, past = tables.order[plane.order :], tables.past[plane.past + 1 :]
        memory = torch.zeros((codes.shape[1], *tables.bias.shape[1:]), dtype=torch.int32, device=codes.device)
        trace = memory.clone()
        for seen, places in enumerate(tables.neighbours[positions, : len(plane.bases)].unbind()):
            position = positions.start + seen
            if seen:
                mean, fading = past.index_select(0, codes[position - 1]).unbind(1)
                memory += mean
                trace += (fading.int() << TRACE_BITS) - (trace >> plane.fade)
            rows = codes.index_select(0, places) + self._codes[number]
            added = tables.rows.index_select(0, rows.flatten()).view(*rows.shape, LANES, -1)
            hidden = added.sum(0, dtype=torch.int32) + tables.bias[number]
            hidden += (memory * (MEMORY_UNIT // (seen + PRIOR_CODES))) >> MEMORY_BITS
            hidden += trace >> (plane.fade + TRACE_BITS)
            # Hidden lanes wrap at 16 bits.
            rank = self._rank(plane, hidden.to(torch.int16).int(), streams)
            codes[position] = order[rank]

    def _rank(self, plane: PlanePlan, hidden: Tensor, streams: _Streams) -> Tensor:
        """Decode each stream's rank in the code tree (m,), given hidden lanes (m, 32, halves)."""
        rank = torch.zeros(1, dtype=torch.int64, device=hidden.device)
        for level, first in enumerate(plane.first_nodes):
            inputs = hidden[..., 0 if level == 0 else -1]
            rank = rank * plane.fan + self._decide(first + rank, inputs, plane.logit_shift, streams)
        return rank

    def _decide(self, nodes: Tensor, inputs: Tensor, shift: int, streams: _Streams) -> Tensor:
        """Decode the alternatives (m,) of streams at nodes (m,), or all at one (1,), given inputs (m, 32)."""
        tables = self.tables
        # Not a matrix product: torch has none of integers on CUDA, and one of float32 may be rounded there.
        weighed = self._weights.index_select(0, nodes) * inputs[:, :, None]
        logits = weighed.sum(1, dtype=torch.int32) + tables.biases.index_select(0, nodes)
        alternatives = tables.alternatives.index_select(0, nodes)
        exists = self._lanes < alternatives[:, None]
        logits = (logits >> shift).masked_fill_(~exists, _LOWEST)
        below = logits.amax(1, keepdim=True) - logits
        below = below.clamp_(max=len(self._frequencies) - 1).flatten()
        frequencies = self._frequencies.index_select(0, below).view_as(logits) * exists
        totals = frequencies.cumsum(1)
        unit = streams.span // totals[:, -1]
        ends = totals * unit[:, None]
        passed = (ends <= streams.offset[:, None]).sum(1)
        decided = torch.minimum(passed, alternatives - 1)
        width = unit * frequencies.gather(1, decided[:, None])[:, 0]
        streams.narrow(streams.offset - ends.gather(1, decided[:, None])[:, 0] + width, width)
        return decided


def _frequencies() -> Tensor:
    """Return frequencies by how far a logit is below the greatest; logits further below have the last."""
    below = torch.arange((PEAK_BITS + 1 << LOGIT_BITS) + 1)
    fraction, whole = below & (2**LOGIT_BITS - 1), below >> LOGIT_BITS
    peak = 2**PEAK_BITS - (fraction * (CURVE - BEND * fraction) >> LOGIT_BITS)
    return (peak >> whole).clamp_(min=1)

"""The loss and the gradients of the context model in float32, to fit it: compiled, without the GIL."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tokenstore.codecs.context.constants import LANES, MAX_LEVELS, PRIOR_CODES
from tokenstore.machine import compiled

__all__ = ["accumulate", "adam", "spread"]


# Additions may be in any order: only the fit computes in floats, the coder never does.
_compiled = functools.partial(compiled, fastmath=True)


@_compiled
def accumulate(
    rows: Any,
    ranks: Any,
    given: Any,
    neighbours: Any,
    bases: Any,
    pasts: Any,
    shapes: Any,
    nodes: Any,
    fades: Any,
    table: Any,
    bias: Any,
    weights: Any,
    table_gradient: Any,
    bias_gradient: Any,
    weights_gradient: Any,
) -> float:
    """Add the gradients of the samples' summed cross-entropy to the three gradients; return the sum, in nats.

    `rows` and `ranks` (n, L) are each code's row in the tables and its rank in its tree; the first `given`
    codes of every plane are not coded. `table` (rows,
    lanes) has the tables of all contexts. The table of context i of plane p begins at row bases[p, i], with
    the row of no code; those of mean and trace begin at pasts[p]. `weights` are (nodes, 33, 32), with the
    biases last; `shapes` (planes, 3) are contexts, levels and fan.
    """
    length = neighbours.shape[0]
    whole_length = length // shapes.shape[0]
    plane_length = whole_length - given
    lanes = table.shape[1]
    zero = np.float32(0)
    hidden = np.empty(lanes, np.float32)
    hidden_gradient = np.empty((plane_length, lanes), np.float32)
    memory = np.empty(lanes, np.float32)
    trace = np.empty(lanes, np.float32)
    chances = np.empty(LANES, np.float32)
    loss = 0.0
    for sample in range(rows.shape[0]):
        for plane in range(shapes.shape[0]):
            contexts, levels, fan = shapes[plane]
            if levels == 0:
                continue
            fade = fades[plane]
            memory[:] = zero
            trace[:] = zero
            hidden_gradient[:] = zero
            mean_at, trace_at = pasts[plane]
            first = plane * whole_length + given
            for seen in range(plane_length):
                position = first + seen
                share = np.float32(1 / (seen + PRIOR_CODES))
                for lane in range(lanes):
                    hidden[lane] = bias[plane, lane] + memory[lane] * share + trace[lane]
                for context in range(contexts):
                    place = neighbours[position, context]
                    row = bases[plane, context] + (rows[sample, place] if place < length else 0)
                    for lane in range(lanes):
                        hidden[lane] += table[row, lane]
                rank = ranks[sample, position]
                below = 1
                for _ in range(levels - 1):
                    below *= fan
                for level in range(levels):
                    prefix = rank // (below * fan)
                    node = nodes[plane, level] + prefix
                    children = min(fan, nodes[plane, MAX_LEVELS + level] - prefix * fan)
                    symbol = rank // below - prefix * fan
                    below //= fan
                    upper = LANES if level and lanes > LANES else 0
                    for child in range(LANES):
                        chances[child] = weights[node, LANES, child]
                    for lane in range(LANES):
                        value = hidden[upper + lane]
                        for child in range(LANES):
                            chances[child] += value * weights[node, lane, child]
                    largest = chances[0]
                    for child in range(1, children):
                        largest = max(largest, chances[child])
                    total = zero
                    for child in range(LANES):
                        chances[child] = np.exp(chances[child] - largest) if child < children else zero
                        total += chances[child]
                    loss -= np.log(chances[symbol] / total + np.float32(1e-30))
                    for child in range(LANES):
                        chances[child] /= total
                    chances[symbol] -= np.float32(1)
                    for child in range(LANES):
                        weights_gradient[node, LANES, child] += chances[child]
                    for lane in range(LANES):
                        value = hidden[upper + lane]
                        slope = zero
                        for child in range(LANES):
                            weights_gradient[node, lane, child] += value * chances[child]
                            slope += weights[node, lane, child] * chances[child]
                        hidden_gradient[seen, upper + lane] += slope
                for context in range(contexts):
                    place = neighbours[position, context]
                    row = bases[plane, context] + (rows[sample, place] if place < length else 0)
                    for lane in range(lanes):
                        table_gradient[row, lane] += hidden_gradient[seen, lane]
                row = rows[sample, position]
                for lane in range(lanes):
                    bias_gradient[plane, lane] += hidden_gradient[seen, lane]
                    memory[lane] += table[mean_at + row, lane]
                    trace[lane] += fade * (table[trace_at + row, lane] - trace[lane])
            # A code's rows of mean and trace act on all positions after it.
            memory[:] = zero
            trace[:] = zero
            for seen in range(plane_length - 1, -1, -1):
                row = rows[sample, first + seen]
                share = np.float32(1 / (seen + PRIOR_CODES))
                for lane in range(lanes):
                    table_gradient[mean_at + row, lane] += memory[lane]
                    table_gradient[trace_at + row, lane] += fade * trace[lane]
                    memory[lane] += hidden_gradient[seen, lane] * share
                    trace[lane] += hidden_gradient[seen, lane] - fade * trace[lane]
    return loss


@_compiled
def adam(
    values: Any, gradient: Any, scale: Any, decay: Any, first: Any, second: Any, rate: Any, step: Any
) -> None:
    """Step flat float32 values by Adam (Kingma and Ba, 2015), with an L2 penalty."""
    keep, keep_squares = np.float32(0.9), np.float32(0.98)
    correction = np.float32(1 - 0.9**step)
    correction_squares = np.float32(1 - 0.98**step)
    for at in range(values.size):
        slope = gradient[at] * scale + decay * values[at]
        first[at] = keep * first[at] + (np.float32(1) - keep) * slope
        second[at] = keep_squares * second[at] + (np.float32(1) - keep_squares) * slope * slope
        size = np.sqrt(second[at] / correction_squares) + np.float32(1e-9)
        values[at] -= rate * (first[at] / correction) / size


@_compiled
def spread(left: Any, right: Any, scale: Any, vectors: Any, out: Any) -> None:
    """Add to out (K, D) the product of the normalised adjacency of pairs of codes with vectors (K, D)."""
    for pair in range(left.size):
        one, other = left[pair], right[pair]
        weight = scale[one] * scale[other]
        for at in range(vectors.shape[1]):
            out[one, at] += weight * vectors[other, at]
            out[other, at] += weight * vectors[one, at]

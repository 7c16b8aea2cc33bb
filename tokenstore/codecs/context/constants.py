"""The constants of the context model, for the coder, the fit, and the decoders of other devices.

FORMAT.md, section 7, has the arithmetic.
"""

from __future__ import annotations

from typing import Final

LANES: Final = 32
"""The hidden lanes that a decision sees, and the most alternatives it has."""
MAX_LEVELS: Final = 4
"""The most levels of a code tree."""
MAX_CONTEXTS: Final = 16
"""The most contexts of a plane."""

PRIOR_CODES: Final = 16
"""The codes without effect that count in every mean over a sample's past, so that early means are small."""
MEMORY_BITS: Final = 16
"""The fraction bits of one over the number of codes that a sample's mean is taken over."""
MEMORY_UNIT: Final = 2**MEMORY_BITS
TRACE_BITS: Final = 4
"""The fraction bits of the fading trace of the last codes."""
LOGIT_BITS: Final = 8
"""The fraction bits of a logit, in units of log2."""
PEAK_BITS: Final = 15
"""The frequency of a decision's likeliest alternative is 2 ** PEAK_BITS."""
CURVE: Final = 22016
BEND: Final = 22
"""The curve of frequencies: 2 ** 15 - (x * (CURVE - BEND * x) >> 8) is nearly 2 ** (15 - x / 256), for x in
0 to 256, and exact at both ends."""

LONGEST_DECISION: Final = 3
"""The most bytes that one decision adds to a stream."""
WEIGHTS_NBYTES: Final = 2 * LANES * LANES
"""The bytes of one node's weights, int16."""
BIASES_NBYTES: Final = 4 * LANES
"""The bytes of one node's biases, int32."""
CACHE_LINE_NBYTES: Final = 64
"""The bytes that a processor loads together."""

PLAN_FIELDS: Final = 12
FAN, LEVELS, CONTEXTS, PAST, BIAS, WEIGHTS, BIASES, ORDER, RANKS, SHIFT, FADE, SIZE = range(PLAN_FIELDS)
"""The columns of a plane's row of `plan`: its numbers, and the addresses of its tables."""

"""The constants of the context model, for coder, fit and other devices' decoders (FORMAT.md, section 7)."""

from __future__ import annotations

from typing import Final

LANES: Final = 32
"""The hidden lanes that a decision sees, and the most alternatives it has."""
MAX_LEVELS: Final = 4
"""The most levels of a code tree."""
MAX_CONTEXTS: Final = 16
"""The most contexts of a plane."""

PRIOR_CODES: Final = 16
"""The number of codes that add nothing, with which the mean over a sample's past begins."""
MEMORY_BITS: Final = 16
"""The fraction bits of one over the number of codes that a sample's mean is taken over."""
MEMORY_UNIT: Final = 2**MEMORY_BITS
TRACE_BITS: Final = 4
"""The fraction bits of the fading trace of the last codes."""
LOGIT_BITS: Final = 8
"""The fraction bits of a logit, in units of log2."""
PEAK_BITS: Final = 15
"""The likeliest alternative of a decision has the frequency 2 ** 15."""
CURVE: Final = 22016
BEND: Final = 22
"""2 ** -(x / 256) * 2 ** 15 is nearly 2 ** 15 - (x * (CURVE - BEND * x) >> 8): exact at both ends."""

LONGEST_DECISION: Final = 3
"""The most bytes that one decision adds to a stream."""
WEIGHTS_NBYTES: Final = 2 * LANES * LANES
"""The bytes of one node's weights, int16."""
BIASES_NBYTES: Final = 4 * LANES
"""The bytes of one node's biases, int32."""
CACHE_LINE_NBYTES: Final = 64

PLAN_FIELDS: Final = 12
FAN, LEVELS, CONTEXTS, PAST, BIAS, WEIGHTS, BIASES, ORDER, RANKS, SHIFT, FADE, SIZE = range(PLAN_FIELDS)
"""The places, in a plane's row of `plan`, of its numbers and of the addresses of its tables."""

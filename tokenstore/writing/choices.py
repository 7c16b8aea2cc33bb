"""The choices and defaults of a writer, in a light module: help texts show them without importing a codec."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Choosable: TypeAlias = Literal["bitpack", "context", "zstd", "auto"]
"""A codec by its name, or `auto`: the smallest that is fast enough."""
CHOICES: tuple[str, ...] = get_args(Choosable)
"""The names of codecs that a writer takes."""
MIN_DECODE_RATE = 1000.0
"""The least samples a second and core that a codec decodes for `auto` to choose it, by default."""
CHUNK_SAMPLES = 64
"""The samples of a chunk, by default."""

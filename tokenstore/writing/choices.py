"""The choices and defaults of a writer, in a light module: help texts show them without importing a codec."""

from __future__ import annotations

from tokenstore.codecs import codec_class, codec_names

AUTO = "auto"
"""The choice of the smallest codec that is fast enough."""
MIN_DECODE_RATE = 1000.0
"""The least samples a second and core that a codec decodes for `auto` to choose it, by default."""
CHUNK_SAMPLES = 64
"""The samples of a chunk, by default."""


def choices() -> tuple[str, ...]:
    """Return the names that a codec is chosen by: every codec's, and `auto`."""
    return (*codec_names(), AUTO)


def chosen_later(codec: str) -> bool:
    """Return whether a codec can only be chosen or fitted once codes are known.

    Raises CodecError for an unknown codec.
    """
    return codec == AUTO or codec_class(codec).has_tables

"""The choices and defaults of a writer, in a light module: help texts show them without importing a codec."""

from __future__ import annotations

from tokenstore.codecs import codec_class, codec_names
from tokenstore.errors import ArgumentError, Parameter

AUTO = "auto"
"""The choice of the smallest codec that is fast enough."""
MIN_DECODE_RATE = 1000.0
"""The least samples a second and core that a codec decodes for `auto` to choose it, by default."""
COPY_JOBS = 4
"""The files that `copy` has under way at a time, by default; each has a block or a piece in memory."""
CHUNK_SAMPLES = 64
"""The samples of a chunk, by default."""

MANY_SHARDS = 4096
"""The planned shards of a split from which the root lists neither them nor one table of all samples."""
PART_SHARDS, PART_ROWS = 64, 2**20
"""The least shards, and the least rows, of a part of a samples table."""
GROUP_ROWS = 2**16
"""The rows of a row group of such a part; the last has the rest."""


def choices() -> tuple[str, ...]:
    """Return the names that a codec is chosen by: every codec's, and `auto`."""
    return (*codec_names(), AUTO)


def checked_jobs(jobs: int | None, default: int) -> int:
    """Return how much is done at a time: `jobs`, or the default for None; raise ArgumentError below 1."""
    if jobs is not None and jobs < 1:
        raise ArgumentError(f"jobs: expected 1 or more, found {jobs}", parameters=[Parameter("jobs")])
    return default if jobs is None else jobs


def few_bad(listed: int) -> tuple[int, str]:
    """Return how many of a split's `listed` samples may be bad unless more are allowed, and the reason."""
    few = ", which is none below 100 samples" if listed < 100 else ""
    return listed // 100, f"1 % of {listed:,}{few}"


def chosen_later(codec: str) -> bool:
    """Return whether a codec can only be chosen or fitted once codes are known.

    Raises CodecError for an unknown codec.
    """
    return codec == AUTO or codec_class(codec).has_tables

"""Implicit codebooks: a code's digits are its vector's channels, and no table is stored (FORMAT.md, M4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.registry import MAX_CODEBOOK_SIZE
from tokenstore.errors import ManifestError
from tokenstore.format.fields import FieldError, Reader, integer, list_of, record, text

__all__ = ["IMPLICIT_KINDS", "ImplicitCodebook", "read_implicit_codebook"]

MOST_CHANNELS = 64
MOST_LEVELS = 2**16
"""The most levels of one channel."""
LARGEST_TABLE = 2**26
"""The most numbers of a table that is computed as a whole."""

Values = npt.NDArray[np.float32]


def _signs(levels: int, channels: int) -> npt.NDArray[np.float64]:
    return np.array([-1.0, 1.0])


def _unit_signs(levels: int, channels: int) -> npt.NDArray[np.float64]:
    return np.array([-1.0, 1.0]) / math.sqrt(channels)


def _finite_scalars(levels: int, channels: int) -> npt.NDArray[np.float64]:
    return (np.arange(levels) - levels // 2) / (levels // 2)


IMPLICIT_KINDS: dict[str, Callable[[int, int], npt.NDArray[np.float64]]] = {
    "lfq": _signs,
    "bsq": _unit_signs,
    "fsq": _finite_scalars,
}
"""The values of a channel's levels, of (levels, number of channels), by kind: look-up free (Yu et al. 2023,
arXiv 2310.05737), binary spherical (Zhao et al. 2024, arXiv 2406.07548) and finite scalar quantisation
(Mentzer et al. 2023, arXiv 2309.15505)."""


@dataclass(frozen=True)
class ImplicitCodebook:
    """A codebook whose vectors follow from the digits of the codes, the first channel varying fastest.

    `kind` is one of IMPLICIT_KINDS, `levels` has the number of values of each of D channels, whose product is
    the number of codes. Raises ManifestError for others.
    """

    kind: str
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check kind and levels."""
        if self.kind not in IMPLICIT_KINDS:
            raise ManifestError(
                f"implicit_codebook: expected a kind of {', '.join(IMPLICIT_KINDS)}, found {self.kind!r}"
            )
        binary = self.kind != "fsq" and any(levels != 2 for levels in self.levels)
        sound = 1 <= len(self.levels) <= MOST_CHANNELS and all(2 <= n <= MOST_LEVELS for n in self.levels)
        if binary or not sound or self.size > MAX_CODEBOOK_SIZE:
            expected = "2" if self.kind != "fsq" else f"2 to {MOST_LEVELS}"
            raise ManifestError(
                f"implicit_codebook: expected {expected} levels for each of 1 to {MOST_CHANNELS} channels, "
                f"at most {MAX_CODEBOOK_SIZE} codes in all, found {list(self.levels)}"
            )

    @property
    def size(self) -> int:
        """The number of codes, K."""
        return math.prod(self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"kind": self.kind, "levels": list(self.levels)}

    def vectors(self, codes: npt.ArrayLike) -> Values:
        """Return the vectors (..., D) float32 of codes (...) of any integer dtype.

        Raises ValueError for a code outside 0..K-1.
        """
        rest = np.asarray(codes)
        if rest.size and not 0 <= int(rest.min()) <= int(rest.max()) < self.size:
            raise ValueError(f"expected codes in 0..{self.size - 1}, found {rest.min()}..{rest.max()}")
        rest = rest.astype(np.int64)
        out = np.empty((*rest.shape, len(self.levels)), np.float32)
        for channel, levels in enumerate(self.levels):
            rest, digits = np.divmod(rest, levels)
            out[..., channel] = IMPLICIT_KINDS[self.kind](levels, len(self.levels))[digits]
        return out

    def table(self, codes: Sequence[int] | None = None) -> Values | None:
        """Return the vectors (K, D) of all codes, or (k, D) of some; None for more than 2^26 numbers."""
        size = self.size if codes is None else len(codes)
        if size * len(self.levels) > LARGEST_TABLE:
            return None
        return self.vectors(np.arange(size) if codes is None else np.array(codes))


_read_fields: Reader[dict[str, Any]] = record(
    dict, {"kind": text, "levels": list_of(integer(2, MOST_LEVELS))}
)


def read_implicit_codebook(value: object, where: str) -> ImplicitCodebook:
    """Return the implicit codebook that `to_dict` wrote; raises FieldError for other values."""
    fields = _read_fields(value, where)
    try:
        return ImplicitCodebook(**fields)
    except ManifestError as error:
        expected, _, actual = str(error).partition("expected ")[2].partition(", found ")
        raise FieldError(where, expected, actual) from error

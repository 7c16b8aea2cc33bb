"""The figures of the pass over a split's codes beside the audit's: curves of use, and a map of entropy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.codes import Counts
from tokenstore.format import Manifest

TOP_CODES = 48
"""The most used codes that are listed, and whose patches are drawn."""
ENTROPY_CODES = 2**22
"""The most codes that the entropy of positions is measured on."""
MOST_POSITIONS = 2**14
"""The most positions of a grid whose entropies are measured."""

_CURVE_POINTS = 160


@dataclass(frozen=True)
class CodeCurve:
    """The use of one codebook's codes by rank, the most used code first."""

    used: int
    """The codes that occur."""
    ranks: list[int]
    """The ranks of some codes from 1 on, evenly spaced on a log scale."""
    shares: list[float]
    """The share of all codes that each of them has."""
    top_codes: list[tuple[int, float]]
    """The most used codes, each with its share of all codes."""

    @classmethod
    def of(cls, codes: Counts, counts: Counts) -> CodeCurve:
        """Return the curve of codes (k,) that occur as often as `counts` (k,) say."""
        order = np.argsort(-counts, kind="stable")
        shares = counts[order] / max(1, int(counts.sum()))
        ranks = np.unique(np.geomspace(1, max(1, len(codes)), _CURVE_POINTS).round().astype(np.int64))
        ranks = ranks[ranks <= len(codes)]
        top = zip(codes[order[:TOP_CODES]].tolist(), shares[:TOP_CODES].tolist(), strict=True)
        return cls(len(codes), ranks.tolist(), shares[ranks - 1].tolist(), list(top))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class PositionEntropy:
    """The order-0 entropy of the codes at each position of a grid."""

    samples: int
    """The samples, evenly spaced over those that were read, that it was measured on."""
    bits: npt.NDArray[np.float64]
    """The bits (rows, columns) of each position, summed over codebooks; frames stand side by side."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"samples": self.samples, "bits": self.bits.round(4).tolist()}


class SplitCodes:
    """An observer of the pass over a split's codes (tokenstore.audit.codes.CodeObserver)."""

    def __init__(self, manifest: Manifest, samples: int) -> None:
        """Begin; `samples` is the number that will be read, about."""
        self._manifest = manifest
        most = max(1, ENTROPY_CODES // math.prod(manifest.sample_shape))
        self._step = max(1, math.ceil(samples / most))
        self._parts: list[npt.NDArray[Any]] = []
        self.curves: list[CodeCurve] = []
        """The curve of each codebook, once all codes are counted."""

    def block(self, start: int, codes: npt.NDArray[Any]) -> None:
        """Keep some of the codes (n, *sample_shape) of the samples from `start` on."""
        part = codes[-start % self._step :: self._step]
        if len(part):
            self._parts.append(part.copy())

    def counted(self, number: int, codes: Counts, counts: Counts) -> None:
        """Make the curve of a codebook's codes (k,) and their counts (k,)."""
        self.curves.append(CodeCurve.of(codes, counts))

    def entropy(self) -> PositionEntropy | None:
        """Return the entropy of each position; None for grids without a plain picture, and without codes."""
        spatial = self._manifest.grid[1:] if len(self._manifest.codebook_sizes) > 1 else self._manifest.grid
        if not self._parts or not 1 <= len(spatial) <= 3 or math.prod(self._manifest.grid) > MOST_POSITIONS:
            return None
        samples = sum(map(len, self._parts))
        codes = self._manifest.grids(np.concatenate(self._parts)).reshape(-1, math.prod(self._manifest.grid))
        bits = np.array([_entropy(column) for column in np.ascontiguousarray(codes.T)])
        return PositionEntropy(samples, _laid_out(bits.reshape(-1, *spatial).sum(axis=0)))


def _entropy(codes: npt.NDArray[Any]) -> float:
    _, counts = np.unique(codes, return_counts=True)
    share = counts / len(codes)
    return float(max(0.0, -(share * np.log2(share)).sum()))


def _laid_out(bits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the values of a grid of one to three axes as rows and columns, frames side by side."""
    if bits.ndim == 1:
        return bits[None]
    if bits.ndim == 2:
        return bits
    return np.concatenate(list(bits), axis=1)

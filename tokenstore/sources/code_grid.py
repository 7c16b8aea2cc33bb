"""The grid that a user gives ready codes: samples of 256 codes in a row become (16, 16), row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import CodeSource, CodeSplit, Labels, Source
from tokenstore.sources.names import digest

__all__ = ["with_grid"]


@dataclass(frozen=True)
class GridSplit(CodeSplit):
    """A split whose samples have another shape: the same codes in the same order."""

    split: CodeSplit
    rank: int
    """The rank of the split's own grid."""
    grid: tuple[int, ...]

    @property
    @override
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        return self.split.columns

    @override
    def __len__(self) -> int:
        return len(self.split)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return self.split.names(start, stop)

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        return self.split.labels(start, stop)

    @override
    def fingerprint(self) -> str:
        return digest(self.split.fingerprint(), repr(self.grid))

    @override
    def codes(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        codes = self.split.codes(start, stop)
        return codes.reshape(*codes.shape[: codes.ndim - self.rank], *self.grid)

    @override
    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.split.column(name, start, stop)


def with_grid(source: Source, grid: Sequence[int] | None) -> Source:
    """Return a source of codes whose samples have the shape `grid`, row by row; the source itself for None.

    Raises SourceError for images, and for a grid of another number of codes than the samples have.
    """
    if grid is None:
        return source
    shape, parameter = tuple(grid), Parameter("grid")
    if not isinstance(source, CodeSource):
        raise SourceError(
            f"{source.location}: {parameter} goes with ready codes, not with kind {source.kind}",
            parameters=[parameter],
        )
    if not shape or min(shape) < 1 or math.prod(shape) != math.prod(source.grid):
        raise SourceError(
            f"{source.location}: {parameter}: expected a grid of {math.prod(source.grid)} codes, as samples "
            f"of {source.grid} have, found {shape}",
            parameters=[parameter],
        )
    if shape == source.grid:
        return source
    splits = {name: GridSplit(split, len(source.grid), shape) for name, split in source.splits.items()}
    return replace(source, splits=splits, grid=shape)

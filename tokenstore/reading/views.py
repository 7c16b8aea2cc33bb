"""Views of samples without copying them: some rows of a split, or several splits one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenstore.errors import StoreError
from tokenstore.format.layout import LABELS
from tokenstore.format.manifest import Manifest
from tokenstore.reading.reader import Indices, Values, normalised

__all__ = ["Concatenated", "Rows", "Selected", "places_of"]


class Rows(Protocol):
    """Aligned samples, read by index: a split, or a view of one or more."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """Of every store that samples come from."""

    @property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """All labels (N,), or None where there are none."""

    @property
    def fingerprint(self) -> str:
        """What the samples are, wherever they lie."""

    @property
    def is_local(self) -> bool:
        """Whether all samples are on this machine."""

    @property
    def starts(self) -> Indices:
        """First sample of every run that is fetched at once, and the number of samples: (runs + 1,)."""

    def described(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of one sample of a column; raises StoreError."""

    def read(self, name: str, indices: object, out: Values | None = None, held: Any = None) -> Values:
        """Values (m, *shape) of a column at `indices` (m,)."""

    def hold(self, indices: Indices) -> Any:
        """Fetch the tokens of samples ahead of `read`, which takes the result as `held`."""

    def keep(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched tokens stay in memory for reads that follow."""

    def in_memory(self, columns: Sequence[str]) -> Rows:
        """The same with some columns, compressed as they are, in this process's memory."""


class Selected:
    """The samples of other rows at `indices` (m,), in that order; raises IndexError."""

    rows: Rows
    indices: Indices

    def __init__(self, rows: Rows, indices: object) -> None:
        chosen = normalised(indices, len(rows))
        if isinstance(rows, Selected):
            chosen = rows.indices[chosen]
            rows = rows.rows
        self.rows = rows
        self.indices = chosen

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{len(self):,} samples of {self.rows!r}"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        return self.rows.manifests

    @cached_property
    def labels(self) -> npt.NDArray[np.int32] | None:
        return self.read(LABELS, np.arange(len(self))) if LABELS in self.columns else None

    @cached_property
    def fingerprint(self) -> str:
        chosen = sha256(self.indices.astype("<i8").tobytes()).hexdigest()
        return f"{self.rows.fingerprint}[{chosen[:16]}]"

    @property
    def is_local(self) -> bool:
        return self.rows.is_local

    @cached_property
    def starts(self) -> Indices:
        run = np.searchsorted(self.rows.starts, self.indices, side="right")
        return np.append(np.flatnonzero(np.diff(run, prepend=-1)), len(self))

    def described(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return self.rows.described(name)

    def read(self, name: str, indices: object, out: Values | None = None, held: Any = None) -> Values:
        return self.rows.read(name, self.indices[normalised(indices, len(self))], out, held)

    def hold(self, indices: Indices) -> Any:
        return self.rows.hold(self.indices[indices])

    def keep(self, nbytes: int) -> None:
        self.rows.keep(nbytes)

    def in_memory(self, columns: Sequence[str]) -> Rows:
        return Selected(self.rows.in_memory(columns), self.indices)


def places_of(rows: Rows, indices: Indices) -> Indices:
    """Where samples at `indices` (m,) of a view are in what was selected from."""
    return rows.indices[indices] if isinstance(rows, Selected) else indices


class Concatenated:
    """The samples of several rows, one after another.

    Raises StoreError unless all are of the same tokenizer, grid and codebook sizes.
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = tuple(parts)
        check_same_tokenizer(self.parts)
        self._stops = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))

    @property
    def columns(self) -> tuple[str, ...]:
        shared = set.intersection(*(set(part.columns) for part in self.parts))
        return tuple(name for name in self.parts[0].columns if name in shared)

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        return tuple(manifest for part in self.parts for manifest in part.manifests)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32] | None:
        labels = [part.labels for part in self.parts]
        known = [values for values in labels if values is not None]
        return np.concatenate(known) if len(known) == len(labels) else None

    @property
    def fingerprint(self) -> str:
        return "+".join(part.fingerprint for part in self.parts)

    @property
    def is_local(self) -> bool:
        return all(part.is_local for part in self.parts)

    @cached_property
    def starts(self) -> Indices:
        before = self._stops - [len(part) for part in self.parts]
        runs = [part.starts[:-1] + first for part, first in zip(self.parts, before, strict=True)]
        return np.append(np.concatenate(runs), len(self))

    def described(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        found = [part.described(name) for part in self.parts]
        for part, description in zip(self.parts, found, strict=True):
            if description != found[0]:
                raise StoreError(
                    f"{name}: expected {found[0][1]} {found[0][0]} as in {self.parts[0]!r}, "
                    f"found {description[1]} {description[0]} in {part!r}"
                )
        return found[0]

    def read(self, name: str, indices: object, out: Values | None = None, held: Any = None) -> Values:
        wanted = normalised(indices, len(self))
        if out is None:
            shape, dtype = self.described(name)
            out = np.empty((len(wanted), *shape), dtype)
        for part, (places, rows) in self._by_part(wanted).items():
            of_part = None if held is None else held.get(part)
            if len(rows) == len(wanted):
                return self.parts[part].read(name, rows, out, of_part)
            out[places] = self.parts[part].read(name, rows, None, of_part)
        return out

    def hold(self, indices: Indices) -> Any:
        return {part: self.parts[part].hold(rows) for part, (_, rows) in self._by_part(indices).items()}

    def keep(self, nbytes: int) -> None:
        for part in self.parts:
            part.keep(nbytes)

    def in_memory(self, columns: Sequence[str]) -> Rows:
        return Concatenated([part.in_memory(columns) for part in self.parts])

    def _by_part(self, wanted: Indices) -> dict[int, tuple[Indices, Indices]]:
        """For each part that is wanted, places in `wanted` and the part's own indices."""
        part_of = np.searchsorted(self._stops, wanted, side="right")
        grouped = {}
        for part in np.unique(part_of).tolist():
            places = np.flatnonzero(part_of == part)
            before = int(self._stops[part]) - len(self.parts[part])
            grouped[part] = (places, wanted[places] - before)
        return grouped


def check_same_tokenizer(parts: Sequence[Rows]) -> None:
    """Raises StoreError unless codes mean the same in all rows."""
    if not parts:
        raise StoreError("expected at least one dataset, found none")
    first = parts[0].manifests[0]
    for part in parts:
        for other in part.manifests:
            if other.tokenizer != first.tokenizer:
                raise StoreError(
                    f"expected stores of one tokenizer, found {first.tokenizer} in {parts[0]!r} "
                    f"and {other.tokenizer} in {part!r}. Convert one of them with the other's tokenizer"
                )
            if (other.grid, other.codebook_sizes) != (first.grid, first.codebook_sizes):
                raise StoreError(
                    f"expected grids {first.grid} of {first.codebook_sizes} codes as in {parts[0]!r}, "
                    f"found {other.grid} of {other.codebook_sizes} in {part!r}"
                )

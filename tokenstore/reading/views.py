"""The protocol of rows of samples, and the view of several splits one after another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.errors import Parameter, StoreError
from tokenstore.format import TOKENS, Column, Manifest
from tokenstore.reading.array import Indices, Values, normalised, of_indices
from tokenstore.reading.row_numbers import RowNumbers
from tokenstore.reading.split import SplitReader
from tokenstore.sources.base import UNKNOWN_TOKENIZER

__all__ = ["Concatenated", "Rows", "source_indices"]


class Rows(Protocol):
    """A sequence of aligned samples, read by index: a split, or a view of one or more."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, `tokens` among them."""

    @property
    def base(self) -> Rows:
        """The rows that a subset was taken from; other rows are their own base."""

    @property
    def indices(self) -> Indices | None:
        """The row numbers (N,) of a subset's samples in its base, in order; None for all of them.

        They take 8 bytes each; `row_numbers` takes less.
        """

    @property
    def row_numbers(self) -> RowNumbers | None:
        """The same row numbers, to be asked for a few at a time."""

    @property
    def splits(self) -> tuple[SplitReader, ...]:
        """The splits that samples come from, in order."""

    def by_split(self, indices: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        """Yield the samples at `indices` (m,) split by split, for each split that has any.

        An item is the split's place in `splits`, the samples' places in `indices`, and their row numbers in
        the split.
        """

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests of all stores that samples come from."""

    @property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """All labels (N,), or None for samples without labels."""

    @property
    def fingerprint(self) -> str:
        """An identity of the samples, which does not depend on where their stores are."""

    @property
    def is_local(self) -> bool:
        """True if all samples are on this machine."""

    @property
    def starts(self) -> Indices:
        """The first sample of every run that is fetched at once, and the number of samples: (runs + 1,).

        Where a split has more than 2**20 runs, `joined` neighbours count as one.
        """

    @property
    def joined(self) -> int:
        """The most neighbouring runs that count as one in `starts`: 1 where none are joined."""

    @property
    def equal_runs(self) -> tuple[int, int, int] | None:
        """The samples of a shard, of each of its runs but the last, and of a chunk; None for a view."""
        return None

    def column(self, name: str) -> Column:
        """Return the dtype, the shape and the form of the samples of a column; raises StoreError."""

    def view_column(self, name: str) -> Column:
        """Return what `column` does, for one view of each sample; a sample without views is its one view."""

    def read(
        self,
        name: str,
        indices: object = None,
        out: Values | None = None,
        prefetched: Any = None,
        view: object = None,
    ) -> Values:
        """Return values (m, *shape) of a column at `indices` (m,) or of a slice, by default of all samples.

        A single integer gives the values (*shape) of its sample. `out`, if given, is filled and returned.
        `prefetched` is a result of `prefetch`. `view`, an integer or integers (m,), gives one view of each
        sample alone. A sample without views is its view 0. Raises IndexError, StoreError and DamageError.
        """

    def prefetch(self, indices: Indices, columns: Sequence[str] = (TOKENS,)) -> Any:
        """Fetch columns of samples before `read`, which takes the result; raises DamageError."""

    def reserve_cache(self, samples: int, columns: Sequence[str] = (TOKENS,)) -> None:
        """Let the fetched chunks of so many samples stay in memory for later reads."""

    def samples_table(self) -> Any:
        """Return the origin of every sample as a `pyarrow.Table` of N rows; raises DamageError."""

    def samples_batches(self) -> Iterator[Any]:
        """Yield the same rows in order, as `pyarrow.RecordBatch`es; raises DamageError."""

    def in_memory(self, columns: Sequence[str]) -> Rows:
        """Return the same samples with some columns, compressed, in this process's memory.

        Raises StoreError for an unknown column, and DamageError.
        """


def source_indices(rows: Rows, indices: Indices) -> Indices:
    """Return the indices, in the rows that a subset was taken from, of samples at `indices` (m,)."""
    return indices if rows.row_numbers is None else rows.row_numbers.at(indices)


class Concatenated(Rows):
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
    @override
    def base(self) -> Rows:
        return self

    @property
    @override
    def indices(self) -> None:
        return None

    @property
    @override
    def row_numbers(self) -> None:
        return None

    @property
    @override
    def splits(self) -> tuple[SplitReader, ...]:
        return tuple(split for part in self.parts for split in part.splits)

    @override
    def by_split(self, indices: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        for part, (places, own) in self._by_part(indices).items():
            before = sum(len(earlier.splits) for earlier in self.parts[:part])
            for split, places_in_part, row_numbers in self.parts[part].by_split(own):
                yield before + split, places[places_in_part], row_numbers

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        shared = set.intersection(*(set(part.columns) for part in self.parts))
        return tuple(name for name in self.parts[0].columns if name in shared)

    @property
    @override
    def manifests(self) -> tuple[Manifest, ...]:
        return tuple(manifest for part in self.parts for manifest in part.manifests)

    @cached_property
    @override
    def labels(self) -> npt.NDArray[np.int32] | None:
        labels = [part.labels for part in self.parts]
        known = [values for values in labels if values is not None]
        return np.concatenate(known) if len(known) == len(labels) else None

    @property
    @override
    def fingerprint(self) -> str:
        return "+".join(part.fingerprint for part in self.parts)

    @property
    @override
    def is_local(self) -> bool:
        return all(part.is_local for part in self.parts)

    @cached_property
    @override
    def starts(self) -> Indices:
        before = self._stops - [len(part) for part in self.parts]
        runs = [part.starts[:-1] + first for part, first in zip(self.parts, before, strict=True)]
        return np.append(np.concatenate(runs), len(self))

    @property
    @override
    def joined(self) -> int:
        return max(part.joined for part in self.parts)

    @override
    def column(self, name: str) -> Column:
        return self._same_in_all(name, lambda part: part.column(name))

    @override
    def view_column(self, name: str) -> Column:
        return self._same_in_all(name, lambda part: part.view_column(name))

    def _same_in_all(self, name: str, column: Callable[[Rows], Column]) -> Column:
        expected = column(self.parts[0])
        for part in self.parts:
            actual = column(part)
            if actual != expected:
                raise StoreError(
                    f"{name}: expected {expected} as in {self.parts[0]!r}, found {actual} in {part!r}"
                )
        return expected

    @override
    def read(
        self,
        name: str,
        indices: object = None,
        out: Values | None = None,
        prefetched: Any = None,
        view: object = None,
    ) -> Values:
        row_numbers = normalised(indices, len(self))
        if out is None:
            column = self.column(name) if view is None else self.view_column(name)
            out = np.empty((len(row_numbers), *column.shape), column.dtype)
        for part, (places, own) in self._by_part(row_numbers).items():
            prefetched_of_part = None if prefetched is None else prefetched.get(part)
            own_view = view if view is None or np.ndim(cast("Any", view)) == 0 else np.asarray(view)[places]
            if len(own) == len(row_numbers):
                self.parts[part].read(name, own, out, prefetched_of_part, own_view)
            else:
                out[places] = self.parts[part].read(name, own, None, prefetched_of_part, own_view)
        return of_indices(out, indices)

    @override
    def prefetch(self, indices: Indices, columns: Sequence[str] = (TOKENS,)) -> Any:
        by_part = self._by_part(indices).items()
        return {part: self.parts[part].prefetch(own, columns) for part, (_, own) in by_part}

    @override
    def reserve_cache(self, samples: int, columns: Sequence[str] = (TOKENS,)) -> None:
        for part in self.parts:
            part.reserve_cache(samples, columns)

    @override
    def samples_table(self) -> Any:
        import pyarrow as pa

        return pa.concat_tables([part.samples_table() for part in self.parts], promote_options="default")

    @override
    def samples_batches(self) -> Iterator[Any]:
        for part in self.parts:
            yield from part.samples_batches()

    @override
    def in_memory(self, columns: Sequence[str]) -> Rows:
        return Concatenated([part.in_memory(columns) for part in self.parts])

    def _by_part(self, indices: Indices) -> dict[int, tuple[Indices, Indices]]:
        """Return, for each part with samples at `indices`, their places in `indices` and in the part."""
        part_of = np.searchsorted(self._stops, indices, side="right")
        grouped = {}
        for part in np.unique(part_of).tolist():
            places = np.flatnonzero(part_of == part)
            before = int(self._stops[part]) - len(self.parts[part])
            grouped[part] = (places, indices[places] - before)
        return grouped


def check_same_tokenizer(parts: Sequence[Rows]) -> None:
    """Raise StoreError unless codes mean the same in all rows."""
    if not parts:
        raise StoreError("expected at least one dataset, found none")
    first = parts[0].manifests[0]
    for part in parts:
        for other in part.manifests:
            if other.tokenizer != first.tokenizer:
                parameters = Parameter("tokenizer_name"), Parameter("codebook")
                raise StoreError(
                    f"expected stores of one tokenizer, found {first.tokenizer} in {parts[0]} "
                    f"and {other.tokenizer} in {part}. {_way_to_one_tokenizer(first, other, parameters)}",
                    parameters=parameters,
                )
            if (other.grid, other.codebook_sizes) != (first.grid, first.codebook_sizes):
                raise StoreError(
                    f"expected grids {first.grid} of {first.codebook_sizes} codes as in {parts[0]}, "
                    f"found {other.grid} of {other.codebook_sizes} in {part}"
                )
    _warn_of_unknown_tokenizers([manifest for part in parts for manifest in part.manifests])


def _warn_of_unknown_tokenizers(manifests: Sequence[Manifest]) -> None:
    """Warn where nothing says that the ready codes of several sources mean the same."""
    is_unknown = manifests[0].tokenizer.name == UNKNOWN_TOKENIZER and not manifests[0].tokenizer.fingerprint
    sources = dict.fromkeys(manifest.source_location for manifest in manifests)
    if is_unknown and len(sources) > 1:
        first, other = ("an unknown source" if place is None else repr(place) for place in [*sources][:2])
        warnings.warn(
            f"nothing says whether one tokenizer made the codes of {first} and {other}: convert the "
            f"ready codes of each with {Parameter('tokenizer_name')}, which says so",
            stacklevel=4,
        )


def _way_to_one_tokenizer(first: Manifest, other: Manifest, ready: tuple[Parameter, Parameter]) -> str:
    """Return what to do about stores of two tokenizers; `ready` are the parameters for ready codes."""
    of_images = [manifest.preprocessing is not None for manifest in (first, other)]
    if all(of_images):
        return "Convert one of them with the other's tokenizer"
    if any(of_images):
        return "Ready codes are not known to be those of a tokenizer: convert the images of both"
    return (
        f"If one tokenizer made both, convert the ready codes of both again with its name and vectors, by "
        f"{ready[0]} and {ready[1]}"
    )

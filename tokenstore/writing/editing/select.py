"""The selection of samples: a new store of those that a condition, a list or a share of them says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError, Parameter, StoreError, did_you_mean
from tokenstore.format import TOKENS
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.reading.row_files import read_rows
from tokenstore.reading.row_numbers import RowNumbers, row_list
from tokenstore.storage import Storage
from tokenstore.writing.blocks import BlockExecutor, block_executor
from tokenstore.writing.drawing import drawn
from tokenstore.writing.editing.conditions import rows_that_hold
from tokenstore.writing.editing.expressions import Condition
from tokenstore.writing.editing.new_store import (
    EditedStore,
    OnSamples,
    new_store,
    opened_places,
    operation,
    same_spec,
)
from tokenstore.writing.editing.rows import JoinedRows, PickedRows
from tokenstore.writing.editing.shards import write_split
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter

__all__ = ["check_seed", "chosen_splits", "select", "shard_samples_of", "write_picked"]

RowsOfSplits: TypeAlias = Mapping[str, Sequence[int] | npt.NDArray[np.integer]]
"""Row numbers by split."""


def select(
    store: StorePath | TokenStore,
    out: StorePath | Storage,
    *,
    where: str | None = None,
    indices: RowsOfSplits | Sequence[int] | npt.NDArray[np.integer] | StorePath | None = None,
    share: float | None = None,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    jobs: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Write a store of some samples of `store`, in their order and with all their columns, to `out`.

    `where` is a condition in the syntax of Python, such as `"label in (3, 5) and width > 200"`, which pyarrow
    compares; its names are `label`, `row`, the columns of the samples table (`source`, `label_name`, `width`,
    `height`, ...) and further columns of texts or of one number a sample. Of a missing value no comparison is
    true. `indices` are row numbers of one split, each once, a mapping of them by split, or a `.npy` or text
    file of them. `share` of what these leave, of each split alike, is drawn by `seed`, a pure function of it
    and of their number. `splits` are those of the new store, by default all. `jobs` pieces of shards are
    worked on at a time, by default one a core. `resume` goes on with an interrupted selection.
    `storage_options` are those of `store`, or of `out` where `store` is local; `target_storage_options` are
    those of `out`. `on_progress` is called with a step's name, the samples done and in all. Shards and chunks
    of the same samples as before are linked, or copied as they are.

    Raises ArgumentError for a condition, row numbers, a share or options that cannot be used, or if no sample
    is selected; StoreError for an unknown split; DamageError; StoreExistsError if something else is at `out`;
    ConversionError if an unfinished store there is of another operation; and the errors of `tokenstore.open`.
    """
    condition = _checked_arguments(where, indices, share, seed)
    executor = block_executor(jobs, None)
    places = opened_places([store], out, storage_options, target_storage_options)
    (opened,) = places.stores
    names = chosen_splits(opened, splits)
    listed = None if indices is None else _listed_rows(opened, names, indices)
    selection = _Selection(condition, listed, share, seed)
    arguments = {"where": where, "indices": listed and _digest(listed), "share": share, "splits": names}
    done = operation("select", [opened], **arguments, seed=None if share is None else int(seed))

    picked = {name: [selection.of(opened, name)] for name in names}
    if not any(len(rows) for parts in picked.values() for rows in parts):
        raise ArgumentError(f"{opened!r}: expected samples to select, found none that are asked for")

    def write(writer: StoreWriter) -> None:
        write_picked(writer, picked, writer.spec, executor, on_progress)

    return new_store(places.target, same_spec(opened, done), resume, write)


def _checked_arguments(
    where: str | None, indices: object, share: float | None, seed: int
) -> Condition | None:
    """Return the condition of a selection; raise ArgumentError for arguments that select nothing."""
    if where is None and indices is None and share is None:
        named = [Parameter(name) for name in ("where", "indices", "share")]
        raise ArgumentError(
            f"expected one of {', '.join(map(str, named))}, found none. `tokenstore.copy` copies all samples",
            parameters=named,
        )
    if share is not None and not 0 < share <= 1:
        raise ArgumentError(
            f"share: expected above 0 and at most 1, found {share}", parameters=[Parameter("share")]
        )
    check_seed(seed)
    return None if where is None else Condition(where)


def check_seed(seed: int) -> None:
    """Raise ArgumentError for a seed that is negative."""
    if seed < 0:
        raise ArgumentError(f"seed: expected 0 or more, found {seed}", parameters=[Parameter("seed")])


@dataclass(frozen=True)
class _Selection:
    """The choice of samples, for each split."""

    condition: Condition | None
    listed: Mapping[str, RowNumbers] | None
    share: float | None
    seed: int

    def of(self, store: TokenStore, name: str) -> PickedRows:
        """Return the samples of a split that are selected."""
        split = store[name]
        numbers = None if self.listed is None else self.listed[name]
        if self.condition is not None:
            matching = rows_that_hold(split, self.condition)
            numbers = matching if numbers is None else _both(matching, numbers, len(split))
        if self.share is not None:
            size = len(split) if numbers is None else len(numbers)
            positions = drawn(size, round(self.share * size), (self.seed, store.splits.index(name)))
            rows = positions if numbers is None else numbers.at(positions)
            numbers = row_list(len(rows), len(split), iter([rows]))
        return PickedRows(split, numbers)


def _both(numbers: RowNumbers, others: RowNumbers, size: int) -> RowNumbers:
    """Return the row numbers that are in both."""

    def is_other(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        rows = numbers.at(positions)
        members: npt.NDArray[np.bool_] = others.before(rows + 1) > others.before(rows)
        return members

    return numbers.where(is_other, size)


def write_picked(
    writer: StoreWriter,
    picked: Mapping[str, Sequence[PickedRows]],
    spec: StoreSpec,
    executor: BlockExecutor,
    on_progress: OnSamples | None,
    columns: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Write and commit the splits of a new store, each of samples of some splits.

    `columns` are the arrays beside the tokens of each split, by default all of its first part. An executor
    has their pieces encoded. Raises DamageError, and what `StoreWriter` raises.
    """
    for name, parts in picked.items():

        def report(done: int, total: int, step: str = f"{name}, writing") -> None:
            if on_progress is not None:
                on_progress(step, done, total)

        rows = JoinedRows(parts, 1)
        size = spec.shard_samples or shard_samples_of(parts, len(rows))
        writer.spec = replace(spec, shard_samples=size)
        arrays = parts[0].split.columns if columns is None else columns[name]
        write_split(writer, name, rows, arrays, executor=executor, report=report)
    writer.spec = spec
    writer.commit()


def shard_samples_of(parts: Sequence[PickedRows], samples: int) -> int | None:
    """Return the samples of a shard of so many picked `samples`; None for as many as usual.

    The shards of the largest split are kept, if it has several or its samples fill just one.
    """
    largest = max(parts, key=len)
    layout = largest.split.array(TOKENS).layout
    several = layout.shards > 1
    return layout.shard_samples if several or samples == layout.samples else None


def chosen_splits(store: TokenStore, splits: Sequence[str] | None) -> list[str]:
    """Return names of splits, by default all of a store, each once; raise StoreError for an unknown one."""
    names = list(store.splits) if splits is None else list(dict.fromkeys(splits))
    for name in names:
        if name not in store.splits:
            raise StoreError(
                f"{store.files.storage}: no split {name!r}; it has {', '.join(store.splits)}"
                f"{did_you_mean(name, store.splits)}"
            )
    return names


def _listed_rows(store: TokenStore, names: list[str], indices: Any) -> dict[str, RowNumbers]:
    """Return the row numbers of each split, ascending; raise ArgumentError for bad ones."""
    if isinstance(indices, str | os.PathLike):
        indices = read_rows(indices)
    if not isinstance(indices, Mapping):
        if len(names) != 1:
            named = Parameter("splits")
            raise ArgumentError(
                f"indices: expected row numbers of one split, found the splits {', '.join(names)}. Name one "
                f"by {named}",
                parameters=[named],
            )
        indices = {names[0]: indices}
    unknown = sorted(set(indices) - set(names))
    if unknown:
        raise ArgumentError(f"indices: expected the splits {', '.join(names)}, found {unknown[0]!r}")
    return {name: _ascending(store[name], indices.get(name, ())) for name in names}


def _ascending(split: SplitReader, rows: Any) -> RowNumbers:
    array = np.asarray(rows)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "ui"):
        raise ArgumentError(
            f"indices: expected a list of integers, found {array.dtype} of shape {array.shape}",
            parameters=[Parameter("indices")],
        )
    ordered = np.sort(array.astype(np.int64)) if array.size else np.empty(0, np.int64)
    if len(ordered) and (ordered[0] < 0 or ordered[-1] >= len(split)):
        wrong = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise ArgumentError(
            f"indices: expected row numbers from 0 to {len(split) - 1} of the split {split.name}, "
            f"found {wrong}",
            parameters=[Parameter("indices")],
        )
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        raise ArgumentError(
            f"indices: expected each row number once, found {again[0]} again",
            parameters=[Parameter("indices")],
        )
    return row_list(len(ordered), len(split), iter([ordered]))


def _digest(listed: Mapping[str, RowNumbers]) -> str:
    digest = hashlib.sha256()
    for name, numbers in listed.items():
        digest.update(f"{name}:{len(numbers)}:".encode())
        for block in numbers.blocks():
            digest.update(block.astype("<i8").tobytes())
    return digest.hexdigest()

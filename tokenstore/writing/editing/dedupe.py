"""The removal of samples whose codes another one has, and a report or the removal of nearly equal ones."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tokenstore.errors import ArgumentError, Parameter
from tokenstore.files import whole_file
from tokenstore.machine import available_cores
from tokenstore.reading import SplitReader, Subset, TokenStore
from tokenstore.reading.open import StorePath, as_store
from tokenstore.reading.row_numbers import Indices, rows_where
from tokenstore.storage import Storage
from tokenstore.writing.blocks import Threads
from tokenstore.writing.choices import checked_jobs
from tokenstore.writing.editing.duplicates import CodeHashes, Pairs, exact_pairs, near_pairs
from tokenstore.writing.editing.new_store import (
    EditedStore,
    OnSamples,
    new_store,
    opened_places,
    operation,
    same_spec,
)
from tokenstore.writing.editing.rows import PickedRows
from tokenstore.writing.editing.select import chosen_splits, write_picked
from tokenstore.writing.writer import StoreWriter

__all__ = ["Deduped", "Duplicates", "dedupe"]

_PAIRS_AT_ONCE = 2**16
"""The pairs that are Python's numbers at a time."""


@dataclass(frozen=True)
class Duplicates:
    """The samples of some splits that have the same codes as an earlier one, or nearly the same."""

    splits: tuple[SplitReader, ...]
    exact: Pairs
    """Each sample that is there again, with the first that has its codes."""
    near: Pairs
    """Pairs of other samples with at least the share of equal codes that was asked for."""

    @property
    def starts(self) -> Indices:
        """The number of the first sample of each split, and of all samples."""
        return np.cumsum([0, *map(len, self.splits)])

    def counts(self, pairs: Pairs) -> dict[tuple[str, str], int]:
        """Return the number of pairs by the splits of their samples, the first one's before the second's."""
        names = [split.name for split in self.splits]
        first, second = (
            np.searchsorted(self.starts, part, "right") - 1 for part in (pairs.first, pairs.second)
        )
        both, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
        return {
            (names[one], names[two]): count
            for one, two, count in zip(*both.tolist(), counts.tolist(), strict=True)
        }

    def table(self) -> pa.Table:
        """Return a row for each pair: its kind, split, row and source of both samples, and the share.

        Raises DamageError.
        """
        return pa.concat_tables([self._rows("exact", self.exact), self._rows("near", self.near)])

    def _rows(self, kind: str, pairs: Pairs) -> pa.Table:
        columns: dict[str, Any] = {"kind": pa.array([kind] * len(pairs), pa.string())}
        for prefix, numbers in (("", pairs.second), ("of_", pairs.first)):
            place = np.searchsorted(self.starts, numbers, "right") - 1
            names = pa.array([split.name for split in self.splits], pa.string())
            columns[f"{prefix}split"] = names.take(pa.array(place))
            columns[f"{prefix}row"] = pa.array(numbers - self.starts[place])
            columns[f"{prefix}source"] = self._sources(numbers)
        columns["share"] = pa.array(pairs.shares)
        return pa.table(columns)

    def _sources(self, numbers: Indices) -> pa.Array:
        """Return the sources of samples (m,)."""
        unique, places = np.unique(numbers, return_inverse=True)
        found = [pa.array([], pa.string())]
        for start, split in zip(self.starts.tolist(), self.splits, strict=False):
            rows = unique[(unique >= start) & (unique < start + len(split))] - start
            if len(rows):
                found += [batch.column("source") for batch in Subset(split, rows).samples_batches()]
        return pa.concat_arrays(found).take(pa.array(places))


@dataclass(frozen=True)
class Deduped:
    """The duplicates of a store, and the store without them, if one was written."""

    duplicates: Duplicates
    removed: Mapping[str, int]
    """The samples of each split that the new store does not have, or would not have."""
    store: EditedStore | None = None


def dedupe(
    store: StorePath | TokenStore,
    out: StorePath | Storage | None = None,
    *,
    near: float | None = None,
    remove_near: bool = False,
    across_splits: bool = False,
    splits: Sequence[str] | None = None,
    report: str | Path | None = None,
    jobs: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> Deduped:
    """Find samples of `store` with the same codes, and write the store without them to `out`, if given.

    Of samples of one split with the same codes the first stays. Those of an earlier split, which leak from
    one into the other, are reported; with `across_splits` they are removed too. `splits` says which splits
    are looked at and in which order, by default all; others are written as they are. `near` is a share of
    equal codes, such as 0.9, from which pairs of other samples are reported. At least 99 % of them are found.
    With `remove_near` a sample goes if an earlier one that stays is so near it, in its own split or, with
    `across_splits`, in any; of more than 16 that are all near each other several may stay. `report` is a
    `.csv` or `.parquet` file that gets a row for each pair. Memory is 24 bytes a sample and the pairs; with
    `near`, the disk for temporary files takes some 170 bytes a sample. `jobs`, `resume`, the options of
    storage and `on_progress` are as in `tokenstore.select`.

    Raises ArgumentError for a share, a file's name or options that cannot be used, and for `remove_near`
    without `near`; StoreError for an unknown split; DamageError; StoreExistsError if something else is at
    `out`; ConversionError if an unfinished store there is of another operation; and the errors of
    `tokenstore.open`.
    """
    _check_arguments(near, remove_near, report)
    jobs = checked_jobs(jobs, available_cores())
    if out is None:
        opened, target = as_store(store, storage_options), None
    else:
        places = opened_places([store], out, storage_options, target_storage_options)
        (opened,), target = places.stores, places.target
    found = _find(opened, chosen_splits(opened, splits), near, jobs, on_progress)
    if report is not None:
        _write_report(Path(report), found.table())
    is_removed = _removed(found, across_splits, remove_near)
    counts = {split.name: int(marks.sum()) for split, marks in zip(found.splits, is_removed, strict=True)}
    if target is None:
        return Deduped(found, counts)
    marks = dict(zip([split.name for split in found.splits], is_removed, strict=True))
    picked = {name: [_picked(opened[name], marks.get(name))] for name in opened.splits}
    how = {"across_splits": across_splits or None, "near": near if remove_near else None}
    done = operation("dedupe", [opened], splits=list(counts), removed=counts, **how)

    def write(writer: StoreWriter) -> None:
        write_picked(writer, picked, writer.spec, Threads(jobs), on_progress)

    return Deduped(found, counts, new_store(target, same_spec(opened, done), resume, write))


def _picked(split: SplitReader, removed: Any) -> PickedRows:
    if removed is None or not removed.any():
        return PickedRows(split)
    return PickedRows(split, rows_where(len(split), lambda rows: ~removed[rows]))


def _find(
    store: TokenStore, names: list[str], near: float | None, jobs: int, on_progress: OnSamples | None
) -> Duplicates:
    def step(what: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    splits = tuple(store[name] for name in names)
    if not splits:
        named = Parameter("splits")
        raise ArgumentError(f"{store!r}: expected splits to look at, found none", parameters=[named])
    hashes = CodeHashes(splits, near, jobs, lambda done, total: step("reading codes", done, total))
    with contextlib.closing(hashes):
        exact = exact_pairs(hashes)
        close = Pairs(exact.first[:0], exact.first[:0], exact.shares[:0])
        if near is not None:
            close = near_pairs(
                hashes, near, exact.second, lambda done, total: step("comparing bands", done, total)
            )
    return Duplicates(splits, exact, close)


def _removed(pairs: Duplicates, across_splits: bool, remove_near: bool) -> list[Any]:
    """Return which samples of each split are removed (n,) bool."""
    starts = pairs.starts
    marks = np.zeros(int(starts[-1]), np.bool_)
    if across_splits:
        marks[pairs.exact.second] = True
    else:
        marks[_again_in_split(pairs, starts)] = True
    if remove_near and across_splits:
        _mark_near(marks, pairs.near.first, pairs.near.second)
    elif remove_near:
        for start, stop in itertools.pairwise(starts.tolist()):
            first = _first_in(pairs.near.first, pairs.exact, start, stop)
            second = _first_in(pairs.near.second, pairs.exact, start, stop)
            are_here = (first >= 0) & (second >= 0)
            _mark_near(marks, first[are_here], second[are_here])
    return [marks[start:stop] for start, stop in itertools.pairwise(starts.tolist())]


def _again_in_split(pairs: Duplicates, starts: Indices) -> Indices:
    """Return the samples whose codes an earlier one of their own split has."""
    first, second = pairs.exact.first, pairs.exact.second
    split_of_first, split = (np.searchsorted(starts, part, "right") - 1 for part in (first, second))
    # subtle: the first of all may be in another split, and the first of this split is then a second one
    is_other = split != split_of_first
    _, places = np.unique(np.stack([first, split]), axis=1, return_index=True)
    is_first_here = np.zeros(len(second), np.bool_)
    is_first_here[places] = True
    again: Indices = second[~(is_other & is_first_here)]
    return again


def _first_in(numbers: Indices, exact: Pairs, start: int, stop: int) -> Indices:
    """Return for each sample the first of [start, stop) that has its codes, -1 where none has.

    The samples (m,) are each the first with its codes in all splits.
    """
    is_here = (numbers >= start) & (numbers < stop)
    copies = np.flatnonzero((exact.second >= start) & (exact.second < stop))
    copies = copies[np.argsort(exact.second[copies], kind="stable")]
    known, places = np.unique(exact.first[copies], return_index=True)
    if not len(known):
        return np.where(is_here, numbers, -1)
    at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    of_copies = np.where(known[at] == numbers, exact.second[copies[places[at]]], -1)
    return np.where(is_here, numbers, of_copies)


def _mark_near(marks: npt.NDArray[np.bool_], first: Indices, second: Indices) -> None:
    """Mark each sample (N,) that is near an earlier unmarked one, by pairs (m,) of samples."""
    earlier, later = np.minimum(first, second), np.maximum(first, second)
    order = np.argsort(later, kind="stable")
    is_removed = bytearray(marks.tobytes())
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        block = order[start : start + _PAIRS_AT_ONCE]
        for one, other in zip(earlier[block].tolist(), later[block].tolist(), strict=True):
            if not is_removed[one]:  # subtle: all pairs in which it is the later one came before
                is_removed[other] = 1
    marks[:] = np.frombuffer(is_removed, np.bool_)


def _check_arguments(near: float | None, remove_near: bool, report: str | Path | None) -> None:
    if near is not None and not 0 < near < 1:
        raise ArgumentError(
            f"near: expected a share of equal codes above 0 and below 1, found {near}",
            parameters=[Parameter("near")],
        )
    if remove_near and near is None:
        parameters = [Parameter("remove_near", True), Parameter("near")]
        raise ArgumentError(
            f"{parameters[0]}: expected the share of equal codes from which samples are near, found none. "
            f"Give it by {parameters[1]}",
            parameters=parameters,
        )
    if report is not None and Path(report).suffix not in (".csv", ".parquet"):
        raise ArgumentError(
            f"report: expected a name that ends in .csv or .parquet, found {str(report)!r}",
            parameters=[Parameter("report")],
        )
    if report is not None and not Path(report).absolute().parent.is_dir():
        raise ArgumentError(
            f"report: expected a file in a folder that is there, found {str(report)!r}",
            parameters=[Parameter("report")],
        )


def _write_report(path: Path, table: pa.Table) -> None:
    with whole_file(path) as file:
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, file)
        else:
            pq.write_table(table, file)

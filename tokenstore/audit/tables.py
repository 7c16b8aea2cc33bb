"""The check of a split's tables: their rows are whole, and the names of labels are those of the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ManifestError, StorageError, TokenstoreError
from tokenstore.format import LABELS, SKIPPED_TABLE
from tokenstore.reading import ArrayReader, StoreFiles, array_reader
from tokenstore.reading.checked_files import checked_file

__all__ = ["TableFindings", "check_table", "check_tables"]

_LABELS_AT_ONCE = 2**20
"""The labels that are read at once, for which a remote place is asked for many shards at a time."""


@dataclass
class TableFindings:
    """The problems of one file of a table."""

    problems: list[str] = field(default_factory=list)
    uncompared: str | None = None
    """The reason for which names were not compared with the labels; None if they were, or if none exist."""


def check_tables(
    store: StoreFiles,
    split: str,
    damaged: Set[str],
    known: Mapping[str, list[str]],
    reported: Set[str],
) -> list[str]:
    """Check the tables of a split, but for damaged files and those whose problems are `known`.

    `reported` are the names of the arrays that have problems of their own: if the labels are not among them,
    names that cannot be compared with the labels are a problem.
    """
    # imported here: the only part of this wing's checks that needs Arrow
    from tokenstore.format import SAMPLES_SCHEMA, SKIPPED_SCHEMA

    summary, skipped = store.manifest.splits[split], f"{split}/{SKIPPED_TABLE}"
    problems = []
    try:
        tables = [(path, SAMPLES_SCHEMA, rows) for path, rows in store.samples_parts(split)]
    except ManifestError as error:
        tables, problems = [], [str(error)]
    if summary.skipped or skipped in store.manifest.files:
        tables.append((skipped, SKIPPED_SCHEMA, summary.skipped))
    start = 0
    for path, schema, rows in tables:
        if path in known:
            problems += known[path]
        elif path not in damaged:
            labelled = None if path == skipped else (split, start)
            try:
                with checked_file(store, path) as file:
                    findings = check_table(store, file, schema, rows, path, labelled)
            except TokenstoreError as error:
                findings = TableFindings([str(error)])
            problems += findings.problems
            if findings.uncompared is not None and LABELS not in reported:
                problems.append(
                    f"{store.storage}/{path}: the names of labels could not be compared with the labels: "
                    f"{findings.uncompared}"
                )
        start += rows
    return problems


def check_table(
    store: StoreFiles,
    file: BinaryIO,
    schema: Any,
    rows: int,
    path: str,
    labelled: tuple[str, int] | None,
    known_labels: Callable[[], npt.NDArray[Any] | None] = lambda: None,
) -> TableFindings:
    """Check a table's open file of so many rows, a batch at a time.

    `labelled` are the split and the first sample of a samples table: the names of labels in its rows are
    compared with the labels, and the first wrong one is reported. `known_labels` returns the labels of
    the split (samples,), or None for them to be read.
    """
    from tokenstore.format import table_batches

    findings, at = TableFindings(), 0
    try:
        labels = None if labelled is None else _LabelNames(store, *labelled, rows, known_labels)
        for batch in table_batches(file, schema, rows, f"{store.storage}/{path}"):
            if labels is not None and not findings.problems:
                problem = labels.first_wrong(batch, at)
                findings.problems += [] if problem is None else [f"{store.storage}/{path}: {problem}"]
            at += len(batch)
    except TokenstoreError as error:
        return TableFindings([str(error)])
    findings.uncompared = None if labels is None else labels.unreadable
    return findings


class _LabelNames:
    """The names that the labels of `rows` samples of a split have, from one of its samples on."""

    def __init__(
        self,
        store: StoreFiles,
        split: str,
        start: int,
        rows: int,
        known: Callable[[], npt.NDArray[Any] | None],
    ) -> None:
        self._names = store.manifest.class_names
        self._start, self._stop = start, start + rows
        self.unreadable: str | None = None
        """The error for which labels could not be read."""
        self._labels: ArrayReader | None = None
        self._ahead: tuple[int, npt.NDArray[Any]] = (start, np.empty(0, int))
        """The first of the samples whose labels were read together, and these labels."""
        if self._names and LABELS in store.split_arrays(split):
            labels = known()
            try:
                if labels is not None:
                    self._ahead = (0, labels)
                self._labels = array_reader(store, f"{split}/{LABELS}").streamed()
            except StorageError:
                raise
            except TokenstoreError as error:
                self.unreadable = str(error)

    def first_wrong(self, batch: Any, at: int) -> str | None:
        """Return what is wrong with the first wrong name of a label in a batch of rows, from row `at` on."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._labels is None or self._names is None or self.unreadable is not None:
            return None
        begin = self._start + at
        try:
            labels = self._read(self._labels, begin, begin + len(batch))
        except StorageError:  # no fault of the array, whose check may find it right
            raise
        except (TokenstoreError, IndexError) as error:
            self.unreadable = str(error)
            return None
        known = (labels >= 0) & (labels < len(self._names))  # others are reported already
        expected = pa.array(self._names, pa.string()).take(pa.array(np.where(known, labels, 0)))
        stored = batch.column("label_name")
        wrong = np.flatnonzero(pc.fill_null(pc.not_equal(stored, expected), False).to_numpy(False) & known)
        if not len(wrong):
            return None
        row = int(wrong[0])
        return (
            f"row {at + row} has the label name {stored[row].as_py()!r:.80}, "
            f"but its sample has the label {labels[row]}, {self._names[labels[row]]!r:.80}"
        )

    def _read(self, reader: ArrayReader, begin: int, end: int) -> npt.NDArray[Any]:
        """Return the labels of some samples, which are read together with those that follow.

        Where those cannot be read, all others are read as they are asked for; raises what this raises.
        """
        first, labels = self._ahead
        if end > first + len(labels):
            stop = max(end, min(begin + _LABELS_AT_ONCE, self._stop))
            try:
                self._ahead = first, labels = begin, reader.read_range(begin, stop)
            except StorageError:
                raise
            except (TokenstoreError, IndexError):
                self._stop = end
                return reader.read_range(begin, end)
        return labels[begin - first : end - first]

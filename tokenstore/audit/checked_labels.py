"""The labels that the checks of shards have decoded, for the checks of samples tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.format import LABELS, ArrayLayout

__all__ = ["CheckedLabels", "SplitLabels"]

_IN_MEMORY_NBYTES = 2**23
"""The most bytes of labels that are kept, of all splits together."""


@dataclass(frozen=True)
class SplitLabels:
    """The labels of a split, as far as its shards have passed."""

    values: npt.NDArray[Any]
    """The labels (samples,), into which the checks of shards decode."""
    shards: int
    """The number of shards."""
    passed: set[int] = field(default_factory=set)
    """The numbers of the shards that passed."""


class CheckedLabels:
    """The labels of the splits whose samples tables are checked, from any number of threads.

    `tables` has the split of each file of a samples table by its path. Files are announced in the order in
    which their checks begin. The check of a table waits for the shards that were announced before it, so
    that no check waits for one that is still to begin.
    """

    def __init__(self, tables: Mapping[str, str]) -> None:
        self._tables = tables
        self._checks: dict[str, dict[str, threading.Event]] = {split: {} for split in tables.values()}
        """The ends of the checks of the shards that were announced, by split and path."""
        self._before: dict[str, list[threading.Event]] = {}
        """The ends of the checks that were announced before a table, by the path of the table."""
        self._labels: dict[str, SplitLabels | None] = {}
        self._left_nbytes = _IN_MEMORY_NBYTES
        self._lock = threading.Lock()

    def announce(self, path: str) -> None:
        """Say that the check of a file begins before those of all files that are announced later."""
        split, is_shard, _ = path.rpartition(f"/{LABELS}/c/")
        if path in self._tables:
            self._before[path] = list(self._checks[self._tables[path]].values())
        elif is_shard and split in self._checks:
            self._checks[split][path] = threading.Event()

    def of_split(self, split: str, layout: ArrayLayout) -> SplitLabels | None:
        """Return the place for the labels of a split; None if they do not fit, are none, or no table asks."""
        with self._lock:
            if split not in self._labels:
                nbytes = layout.samples * layout.dtype.itemsize
                is_plain = layout.dtype.kind in "iu" and not layout.sample_shape
                fits = is_plain and split in self._checks and nbytes <= self._left_nbytes
                values = np.empty(layout.samples, layout.dtype) if fits else None
                self._left_nbytes -= nbytes if fits else 0
                self._labels[split] = None if values is None else SplitLabels(values, layout.shards)
            return self._labels[split]

    def end(self, path: str) -> None:
        """Say that the check of a file has ended."""
        check = self._checks.get(path.rpartition(f"/{LABELS}/c/")[0], {}).get(path)
        if check is not None:
            check.set()

    def for_table(self, path: str) -> npt.NDArray[Any] | None:
        """Return the labels (samples,) of a table's split; None where not all shards passed before it."""
        for check in self._before.get(path, ()):
            check.wait()
        labels = self._labels.get(self._tables[path])
        return labels.values if labels is not None and len(labels.passed) == labels.shards else None

"""The labels of a split that the checks of its shards have decoded, for the check of its samples table."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.format import ArrayLayout

__all__ = ["CheckedLabels"]

_IN_MEMORY_NBYTES = 2**23
"""The most bytes of labels that are kept."""


class CheckedLabels:
    """The labels of one split, which the checks of its shards fill in, each in any thread."""

    def __init__(self, layout: ArrayLayout) -> None:
        self.values: npt.NDArray[Any] = np.empty((layout.samples, *layout.sample_shape), layout.dtype)
        """The labels (samples,) as far as their shards have been checked."""
        self._shards = layout.shards
        self._begun = self._ended = 0
        self._all_passed = True
        self._changed = threading.Condition()

    @classmethod
    def of(cls, layout: ArrayLayout) -> CheckedLabels | None:
        """Return the labels of an array; None if they need too much memory, or are no labels."""
        is_plain = layout.dtype.kind in "iu" and not layout.sample_shape
        fits = layout.samples * layout.dtype.itemsize <= _IN_MEMORY_NBYTES
        return cls(layout) if is_plain and fits else None

    def begin(self) -> None:
        """Say that the check of a shard has begun.

        subtle: `complete` waits for it, so after this call it may not wait for the check of a table.
        """
        with self._changed:
            self._begun += 1

    def end(self, passed: bool) -> None:
        """Say that a check which had begun has ended."""
        with self._changed:
            self._ended += 1
            self._all_passed &= passed
            self._changed.notify_all()

    def complete(self) -> npt.NDArray[Any] | None:
        """Return the labels (samples,) once all shards have passed.

        Returns None at once if the check of a shard has not begun, for it may need this thread, and where a
        shard has not passed.
        """
        with self._changed:
            if self._begun < self._shards:
                return None
            self._changed.wait_for(lambda: self._ended >= self._shards or not self._all_passed)
            return self.values if self._all_passed else None

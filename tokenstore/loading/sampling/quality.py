"""A measure of how near an order comes to a full shuffle: how many blocks and classes are in a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenstore.loading.sampling.blocks import checked_starts
from tokenstore.loading.sampling.order import Indices, Order, whole_number

__all__ = ["ShuffleQuality", "shuffle_quality"]


@dataclass(frozen=True)
class ShuffleQuality:
    """The distinct blocks and classes of a batch, on average, and the numbers expected of a full shuffle."""

    batch_size: int
    batches: int
    blocks: float
    blocks_expected: float
    classes: float | None = None
    classes_expected: float | None = None

    @property
    def figure(self) -> float:
        """The quality in [0, 1]: 1 is as good as a full shuffle.

        The quality is the smaller of two ratios, that of the blocks and that of the classes to the expected.
        """
        ratios = [self.blocks / self.blocks_expected]
        if self.classes is not None and self.classes_expected is not None:
            ratios.append(self.classes / self.classes_expected)
        return min(1.0, *ratios)


def shuffle_quality(
    order: Order,
    starts: Indices,
    batch_size: int,
    batches: int = 100,
    labels: npt.NDArray[np.integer] | None = None,
) -> ShuffleQuality:
    """Count blocks and classes in `batches` batches, evenly spread over the epoch.

    `starts` (blocks + 1,) int64 are the first rows of the blocks that are stored or fetched at once, and the
    number of rows N; `labels` are (N,) integers. Raises ValueError for sizes below 1, an empty order, or
    starts or labels that do not fit.
    """
    starts = checked_starts(starts)
    rows = int(starts[-1])
    if not len(order):
        raise ValueError("order: expected at least one sample, found none")
    batch_size = min(whole_number("batch_size", batch_size, 1), len(order), rows)
    whole = len(order) // batch_size
    batches = min(whole_number("batches", batches, 1), whole)
    classes, class_sizes = None, None
    if labels is not None:
        if labels.shape != (rows,):
            raise ValueError(f"labels: expected shape ({rows},), found {labels.shape}")
        _, classes, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    blocks_met = classes_met = 0
    for number in range(batches):
        start = number * whole // batches * batch_size
        drawn = order(np.arange(start, start + batch_size, dtype=np.int64))
        blocks_met += len(np.unique(np.searchsorted(starts, drawn, side="right")))
        if classes is not None:
            classes_met += len(np.unique(classes[drawn]))
    return ShuffleQuality(
        batch_size=batch_size,
        batches=batches,
        blocks=blocks_met / batches,
        blocks_expected=_expected_distinct(np.diff(starts), batch_size),
        classes=None if class_sizes is None else classes_met / batches,
        classes_expected=None if class_sizes is None else _expected_distinct(class_sizes, batch_size),
    )


def _expected_distinct(sizes: Indices, drawn: int) -> float:
    """Return how many groups of these sizes (k,) are met, on average, by `drawn` rows without replacement.

    A group of m of N rows is missed with probability C(N - m, drawn) / C(N, drawn).
    """
    size, groups = np.unique(sizes, return_counts=True)
    rows = int(sizes.sum())
    missed = np.ones(len(size))
    for number in range(drawn):
        missed *= np.maximum(0, rows - size - number) / (rows - number)
    return float(groups @ (1 - missed))

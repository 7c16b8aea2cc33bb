"""The orders that the samples of a split or a view can be read in, and how well each mixes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tokenstore.codecs import bitpack
from tokenstore.format import Manifest
from tokenstore.loading.sampling import (
    BlockShuffle,
    EqualRuns,
    LaneShuffle,
    Order,
    Permutation,
    Sequential,
    ShuffleQuality,
    bounded_starts,
    shuffle_quality,
)
from tokenstore.reading import Rows

__all__ = ["Mixing", "Shuffle", "default_window", "measure_mixing", "order_of", "packed_nbytes"]

Shuffle: TypeAlias = Literal["none", "full", "block", "lanes"]

WINDOW_NBYTES = 2**26
"""The default size of a window of the shuffles by blocks, in bytes of packed tokens."""
_MOST_BLOCKS = 2**20
"""The most blocks of a block shuffle: more runs than this are joined."""


def packed_nbytes(manifest: Manifest) -> int:
    """Return the bytes of one sample's codes, of all its views, packed."""
    return bitpack.sample_nbytes(math.prod(manifest.sample_shape), manifest.codebook_size)


def default_window(manifest: Manifest) -> int:
    """Return the default size of a window of the shuffles by blocks, in samples."""
    return max(1, WINDOW_NBYTES // packed_nbytes(manifest))


def order_of(rows: Rows, shuffle: Shuffle, window: int, seed: int, epoch: int) -> Order:
    """Return the order of an epoch, which maps positions (m,) to row numbers of `rows`.

    `window` is the size of a window of the shuffles "block" and "lanes" in samples: it is rounded to whole
    runs, at least one. Other orders don't use it. Raises ValueError for a seed or epoch that `Permutation`
    refuses.
    """
    if shuffle == "full":
        return Permutation(len(rows), seed, epoch)
    if shuffle == "none":
        return Sequential(len(rows))

    def blocks_of_window(blocks: int) -> int:
        return max(1, round(window * blocks / max(1, len(rows))))

    if shuffle == "lanes" and rows.equal_runs is not None:
        runs = EqualRuns(len(rows), *rows.equal_runs)
        return LaneShuffle(runs, blocks_of_window(len(runs)), seed, epoch)
    starts = bounded_starts(rows.starts, _MOST_BLOCKS)
    if shuffle == "block":
        return BlockShuffle(starts, blocks_of_window(len(starts) - 1), seed, epoch)
    joined = rows.joined * max(1, math.ceil((len(rows.starts) - 1) / max(1, len(starts) - 1)))
    return LaneShuffle(starts, blocks_of_window((len(starts) - 1) * joined), seed, epoch, joined)


@dataclass(frozen=True)
class Mixing:
    """The mixing of a split's samples in each order: how many runs and classes are in a batch."""

    runs: int
    """The number of runs, the stretches of samples that are fetched at once; they are the orders' blocks."""
    window: int
    """The size of a window of the shuffles "block" and "lanes", in samples."""
    orders: dict[Shuffle, ShuffleQuality]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        orders = {
            order: {
                "figure": quality.figure,
                "batch_size": quality.batch_size,
                "batches": quality.batches,
                "runs": quality.blocks,
                "runs_expected": quality.blocks_expected,
                "classes": quality.classes,
                "classes_expected": quality.classes_expected,
            }
            for order, quality in self.orders.items()
        }
        return {"runs": self.runs, "window": self.window, "orders": orders}


def measure_mixing(rows: Rows, batch_size: int, window: int | None = None) -> Mixing | None:
    """Measure how well each order of epoch 0 with seed 0 mixes `rows`.

    `window` is the size of a window of the shuffles by blocks in samples, by default TokenLoader's. A batch
    is at most all samples. Returns None where all orders are equally good: without samples, or in one run
    whose samples have one class or no labels. Raises ValueError for a batch size below 1; DamageError, and
    StorageError where remote storage does not answer, while reading labels.
    """
    labels = rows.labels
    runs = len(rows.starts) - 1
    several_classes = labels is not None and bool((labels != labels[:1]).any())
    if not runs or (runs == 1 and not several_classes):
        return None
    window = default_window(rows.manifests[0]) if window is None else window
    orders = {
        shuffle: shuffle_quality(
            order_of(rows, shuffle, window, seed=0, epoch=0), rows.starts, batch_size, labels=labels
        )
        for shuffle in get_args(Shuffle)
    }
    return Mixing(runs, window, orders)

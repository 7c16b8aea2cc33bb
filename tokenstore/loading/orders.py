"""The orders that the samples of a split or a view can be read in, and how well each mixes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tokenstore.codecs import bitpack
from tokenstore.format.manifest import Manifest
from tokenstore.loading.sampling import (
    BlockShuffle,
    Order,
    Permutation,
    Sequential,
    ShuffleQuality,
    bounded_starts,
    shuffle_quality,
)
from tokenstore.reading import Rows

__all__ = ["Mixing", "Shuffle", "default_window", "measure_mixing", "order_of", "packed_nbytes"]

Shuffle: TypeAlias = Literal["none", "full", "block"]

WINDOW_NBYTES = 2**26
"""Packed tokens of a window of the shuffle "block", about, where none is given."""
_MOST_BLOCKS = 2**20


def packed_nbytes(manifest: Manifest) -> int:
    """Bytes of a sample's codes, packed."""
    return bitpack.sample_nbytes(math.prod(manifest.grid), manifest.codebook_size)


def default_window(manifest: Manifest) -> int:
    """Samples of a window of the shuffle "block" where none is given."""
    return max(1, WINDOW_NBYTES // packed_nbytes(manifest))


def order_of(rows: Rows, shuffle: Shuffle, window: int, seed: int, epoch: int) -> Order:
    """The order of an epoch: positions (m,) to indices into `rows`.

    `window` is in samples, of the shuffle "block" alone: the nearest number of whole runs, at least one.
    """
    if shuffle == "full":
        return Permutation(len(rows), seed, epoch)
    if shuffle == "none":
        return Sequential(len(rows))
    starts = bounded_starts(rows.starts, _MOST_BLOCKS)
    blocks = max(1, round(window * (len(starts) - 1) / max(1, len(rows))))
    return BlockShuffle(starts, blocks, seed, epoch)


@dataclass(frozen=True)
class Mixing:
    """How many runs and classes meet in a batch, in each order; blocks are runs, what is fetched as one."""

    runs: int
    window: int
    orders: dict[Shuffle, ShuffleQuality]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
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
    """How well the orders of epoch 0, seed 0, mix `rows`; a batch has at most all samples.

    `window` is that of the shuffle "block", in samples, by default TokenLoader's. None where nothing tells
    a good order from a bad one: without samples, or in one run whose samples are of one class or none.
    Raises ValueError for a batch size below 1; DamageError, and StorageError where remote storage does not
    answer, while reading labels.
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

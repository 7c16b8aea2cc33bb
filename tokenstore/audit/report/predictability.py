"""The bits that each sample takes: the store's own streams, or under a quick model of neighbouring codes.

A store of the codec `context` has the bits of each sample already. To fit such a model to another store takes
minutes, so that codes are then predicted from counts of the codes beside and above them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenstore.audit.originals import evenly_spaced
from tokenstore.format import TOKENS
from tokenstore.reading import Indices, SplitReader, TokenStore

MODEL_CODES = 2**20
"""The most codes of a split that a model of neighbours counts and codes."""
MOST_SAMPLES = 2**22
"""The most samples of a split whose stored streams are looked at."""

_BINS = 40
_WEIGHTS = (4.0, 32.0, 256.0)
"""The codes that a code's own share counts as much as, beside those that were counted after a neighbour."""


@dataclass(frozen=True)
class Predictability:
    """The bits of some samples of a split: of all their views as stored, or of view 0 under a model."""

    model: Literal["stored", "neighbours"]
    """The store's own context model, whose streams are measured, or counts of neighbouring codes."""
    rows: Indices
    """The samples (m,) that were measured."""
    bits: npt.NDArray[np.int64]
    """The bits (m,) of each."""
    codes_per_sample: int

    @property
    def bits_per_code(self) -> float:
        """The mean bits of a code."""
        return float(self.bits.mean()) / self.codes_per_sample

    def histogram(self) -> tuple[list[int], list[float]]:
        """Return the numbers of samples by bits a code, and the edges of the bins, one more."""
        counts, edges = np.histogram(self.bits / self.codes_per_sample, _BINS)
        return counts.tolist(), edges.tolist()

    def extremes(self, count: int) -> tuple[Indices, Indices]:
        """Return the rows of up to `count` samples of the fewest bits, and of the most, these first."""
        order = np.argsort(self.bits, kind="stable")
        count = min(count, len(order) // 2)
        return self.rows[order[:count]], self.rows[order[::-1][:count]]

    def bits_of(self, row: int) -> int:
        """Return the bits of a sample that was measured."""
        return int(self.bits[int(np.searchsorted(self.rows, row))])

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with a few rows of the fewest and the most bits."""
        counts, edges = self.histogram()
        fewest, most = self.extremes(10)
        return {
            "model": self.model,
            "samples": len(self.rows),
            "bits_per_code": self.bits_per_code,
            "histogram": {"counts": counts, "edges": edges},
            "fewest_bits": [[int(row), self.bits_of(row)] for row in fewest.tolist()],
            "most_bits": [[int(row), self.bits_of(row)] for row in most.tolist()],
        }


def predictabilities(store: TokenStore) -> dict[str, Predictability] | str:
    """Measure the bits of samples of each split that has any; return the reason if none has.

    Raises DamageError for damaged codes.
    """
    splits = [store[name] for name in store.splits if len(store[name])]
    if not splits:
        return "the store has no samples"
    own = splits[0].array(TOKENS).layout.codec.samples
    per_sample = math.prod(store.manifest.sample_shape)
    if own is not None and own.sample_nbytes(store.manifest.grid) is None:
        return {split.name: Predictability("stored", *_stored_bits(split), per_sample) for split in splits}
    per_view = math.prod(store.manifest.grid)
    return {split.name: Predictability("neighbours", *_neighbour_bits(split), per_view) for split in splits}


def _stored_bits(split: SplitReader) -> tuple[Indices, npt.NDArray[np.int64]]:
    """Return rows (m,) and the bits (m,) of their stored streams."""
    reader = split.array(TOKENS).streamed().samples
    assert reader is not None
    views, rows, bits, done = reader.layout.views, [], [], 0
    for number, payloads in reader.prefetched_chunks():
        start, stop = reader.layout.chunk_span(number)
        lengths = reader.spans(number, payloads).lengths.reshape(-1, views).sum(axis=1)
        rows.append(np.arange(start, stop, dtype=np.int64))
        bits.append(8 * lengths.astype(np.int64))
        done += stop - start
        if done >= MOST_SAMPLES:
            break
    return np.concatenate(rows), np.concatenate(bits)


def _neighbour_bits(split: SplitReader) -> tuple[Indices, npt.NDArray[np.int64]]:
    """Return rows (m,) and the bits (m,) of view 0 under a model of neighbouring codes."""
    manifest = split.store.manifest
    rows = evenly_spaced(len(split), max(1, MODEL_CODES // math.prod(manifest.grid)))
    codes = split.read(TOKENS, rows, view=0).astype(np.int64)
    if len(manifest.codebook_sizes) > 1:  # codes of different codebooks are different codes
        books = np.arange(len(manifest.codebook_sizes)).reshape(-1, *[1] * (codes.ndim - 2))
        codes += books * manifest.codebook_size
    return rows, neighbour_bits(codes).round().astype(np.int64)


def neighbour_bits(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the bits (m,) of samples of codes (m, *grid), each code given the one before it on two axes.

    The chance of a code is the mean of its chances after its neighbours on the last axis and on the one
    before. Each is counted in all other places of `codes`, and smoothed towards the code's own share.
    """
    distinct, places = np.unique(codes, return_inverse=True)
    number, current = len(distinct), places.reshape(codes.shape)
    share = np.bincount(current.ravel(), minlength=number)[current] / current.size
    pairs = [_pair_counts(current, axis, number) for axis in (-1, -2)[: codes.ndim - 1]]
    rivals = []
    for weight in _WEIGHTS:
        chance = np.mean([(both + weight * share) / (before + weight) for both, before in pairs], axis=0)
        rivals.append(-np.log2(chance).reshape(len(codes), -1).sum(axis=1))
    best: npt.NDArray[np.float64] = min(rivals, key=lambda bits: float(bits.sum()))
    return best


def _pair_counts(codes: npt.NDArray[np.int64], axis: int, number: int) -> tuple[Any, Any]:
    """Return how often each code follows its neighbour on an axis elsewhere, and how often anything does."""
    before = np.full_like(codes, number)  # no code, at the border
    rest = [slice(None)] * codes.ndim
    inner, outer = list(rest), list(rest)
    inner[axis], outer[axis] = slice(1, None), slice(None, -1)
    before[tuple(inner)] = codes[tuple(outer)]
    _, places, counts = np.unique(before * (number + 1) + codes, return_inverse=True, return_counts=True)
    both = counts[places.reshape(codes.shape)] - 1
    return both, np.bincount(before.ravel())[before] - 1

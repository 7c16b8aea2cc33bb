"""The use of codebooks: counts of each code, and their entropy, perplexity and dead codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import DamageError
from tokenstore.format import TOKENS, code_planes
from tokenstore.reading import ArrayReader, SplitReader

BLOCK_CODES = 2**20
"""The number of codes that are read at once, at least."""
_MOST_BLOCK_CODES = 2**22
DENSE_CODES = 2**24
"""The largest codebook that is counted in an array; larger ones are counted by their distinct codes."""

Counts: TypeAlias = npt.NDArray[np.int64]
OnDamage: TypeAlias = Callable[[DamageError], object]
"""A function that is called with the error of each damaged chunk that is left out."""


@dataclass(frozen=True)
class CodebookUse:
    """The use of one codebook: counts of its codes, and what follows from them."""

    size: int
    used: int
    dead: int
    entropy_bits: float
    """The order-0 entropy: no code-by-code coder gets below it."""
    perplexity: float
    """2 ** entropy: so many equally frequent codes would have the same entropy."""
    top_codes: list[tuple[int, int]]
    """The most frequent codes and their counts."""
    rank_histogram: list[float]
    """The share of all codes that falls to each tenth of the codebook, most frequent codes first."""


class CodeObserver(Protocol):
    """An observer of the pass over a split's codes, which sees what is counted without reading it again."""

    def block(self, start: int, codes: npt.NDArray[Any]) -> None:
        """See the codes (n, *sample_shape) of the samples from `start` on, some of the split."""

    def counted(self, number: int, codes: Counts, counts: Counts) -> None:
        """See the codes (k,) that occur of the codebook `number`, and how often each does (k,)."""


def codebook_use(
    reader: SplitReader,
    spans: Iterable[tuple[int, int]],
    on_progress: Callable[[int], object],
    observer: CodeObserver | None = None,
    on_damage: OnDamage | None = None,
) -> tuple[list[CodebookUse], int]:
    """Count the codes of a split, of all views, for each of its codebooks, in the samples of `spans`.

    Returns the uses, and the number of samples that were counted. `on_progress` is called with the number of
    samples done. Damaged chunks are left out, each with a call of `on_damage`; without it, DamageError is
    raised for them.
    """
    manifest = reader.store.manifest
    sizes = manifest.codebook_sizes
    counters = [_Counter(size) for size in sizes]
    tokens = reader.array(TOKENS).streamed()
    # a large codebook's counts take long to add up: once for as many codes as it has
    codes_at_once = max(BLOCK_CODES, min(max(sizes), _MOST_BLOCK_CODES))
    block, done, counted = max(1, codes_at_once // math.prod(manifest.sample_shape)), 0, 0
    for first, last in spans:
        for start in range(first, last, block):
            stop = min(start + block, last)
            for at, values in _read(tokens, start, stop, on_damage):
                planes = code_planes(manifest.grids(values), sizes)
                for (codes, _), counter in zip(planes, counters, strict=True):
                    counter.add(codes.ravel())
                if observer is not None:
                    observer.block(at, values)
                counted += len(values)
            done += stop - start
            on_progress(done)
    if observer is not None:
        for number, counter in enumerate(counters):
            observer.counted(number, *counter.counts())
    return [_use(*counter.counts(), size) for counter, size in zip(counters, sizes, strict=True)], counted


def _read(
    tokens: ArrayReader, start: int, stop: int, on_damage: OnDamage | None
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield codes of the samples [start, stop) and the first of them; past damage, whole chunks."""
    try:
        values = tokens.read_range(start, stop)
    except DamageError:
        if on_damage is None:
            raise
    else:
        yield start, values
        return
    chunk = tokens.layout.chunk_samples
    for first in range(start - start % chunk, stop, chunk):
        low = max(first, start)
        try:
            values = tokens.read_range(low, min(first + chunk, stop))
        except DamageError as error:
            on_damage(error)
        else:
            yield low, values


def sampled_spans(reader: SplitReader, samples: int) -> list[tuple[int, int]]:
    """Return spans [start, stop) of about `samples` samples of a split: all, or evenly spaced chunks."""
    if samples >= len(reader):
        return [(0, len(reader))] if len(reader) else []
    chunk = reader.array(TOKENS).layout.chunk_samples
    chunks = -(-len(reader) // chunk)
    picked = max(1, samples // chunk)
    starts = (np.arange(picked, dtype=np.int64) * chunks // picked * chunk).tolist()
    return [(start, min(start + chunk, len(reader))) for start in starts]


class DistinctCounts:
    """The counts of the distinct values of an array, added up block by block."""

    def __init__(self) -> None:
        self.values = np.empty(0, np.int64)
        """The values that occur, in rising order (k,)."""
        self.counts = np.empty(0, np.int64)
        """The number of times that each occurs (k,)."""

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count integers (n,) too."""
        new, counts = np.unique(values, return_counts=True)
        merged, place = np.unique(np.concatenate([self.values, new.astype(np.int64)]), return_inverse=True)
        self.counts = np.bincount(place, np.concatenate([self.counts, counts])).astype(np.int64)
        self.values = merged


class _Counter:
    """The counts of one codebook's codes, added up block by block."""

    def __init__(self, size: int) -> None:
        self._dense = np.zeros(size, np.int64) if size <= DENSE_CODES else None
        self._distinct = DistinctCounts()

    def add(self, codes: npt.NDArray[Any]) -> None:
        if self._dense is not None:
            self._dense += np.bincount(codes, minlength=len(self._dense))
        else:
            self._distinct.add(codes)

    def counts(self) -> tuple[Counts, Counts]:
        """Return the codes (k,) that occur and how often each does (k,)."""
        if self._dense is None:
            return self._distinct.values, self._distinct.counts
        codes = np.flatnonzero(self._dense)
        return codes, self._dense[codes]


def _use(codes: Counts, counts: Counts, size: int) -> CodebookUse:
    share = counts / max(1, int(counts.sum()))
    entropy = float(-(share * np.log2(share)).sum()) if len(share) else 0.0
    order = np.argsort(-counts, kind="stable")
    ranked = np.zeros(10)
    if len(share):
        np.add.at(ranked, np.arange(len(share)) * 10 // size, share[order])
    return CodebookUse(
        size=size,
        used=len(codes),
        dead=size - len(codes),
        entropy_bits=entropy,
        perplexity=2**entropy,
        top_codes=[(int(codes[i]), int(counts[i])) for i in order[:10]],
        rank_histogram=ranked.tolist(),
    )

"""Samples with the same codes, and samples with nearly the same: found in a stream, by hashes of their codes.

Exact ones have the same hash of all codes, and are compared. Near ones have the same hash of the codes at
some random positions, a *band*, in at least one of several bands (locality-sensitive hashing for Hamming
distance, Indyk and Motwani 1998). A sample takes 8 bytes of memory for its hash and 8 for its place in the
order of hashes; the hashes of all bands lie in a temporary file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenstore.format import TOKENS
from tokenstore.machine import in_order
from tokenstore.reading import SplitReader
from tokenstore.reading.array import Indices, Values
from tokenstore.writing.editing.rows import JoinedRows, PickedRows

__all__ = ["MOST_PAIRS", "CodeHashes", "Pairs", "exact_pairs", "near_pairs"]

Keys = npt.NDArray[np.uint64]
MOST_PAIRS = 2**22
"""The pairs of near samples that are listed at most."""

_BLOCK_CODES = 2**20
"""The codes that are hashed together."""
_SAME_BAND = 0.2
"""The chance that two samples of the least share of equal codes have the same codes in a band, about."""
_MISSED = 0.01
"""The chance that they have in no band."""
_NEIGHBOURS = 16
"""The samples of the same codes in a band that each is compared with: those that follow it."""
_PAIRS_AT_ONCE = 2**12


@dataclass(frozen=True)
class Pairs:
    """Pairs of samples by their numbers, which count through all splits."""

    first: Indices
    second: Indices
    """The later sample of each pair."""
    shares: npt.NDArray[np.float64]
    """The share of positions at which both have the same code."""
    is_complete: bool = True
    """False if there are more pairs than were listed."""

    def __len__(self) -> int:
        return len(self.first)


class CodeHashes:
    """The hashes of the samples of some splits, one after another: of all codes, and of some bands of them.

    They are computed by `jobs` threads when the object is made, and are gone with its `close`. `least` is the
    share of equal codes from which two samples are near; None for no bands. `report` is called with the
    samples done and in all.
    """

    def __init__(
        self,
        splits: Sequence[SplitReader],
        least: float | None,
        jobs: int,
        report: Callable[[int, int], None],
    ) -> None:
        self.rows = JoinedRows([PickedRows(split) for split in splits], jobs)
        self.positions = math.prod(splits[0].column(TOKENS).shape)
        rng = np.random.default_rng(0)
        self._weights = _odd(rng, self.positions)
        self._bands = [] if least is None else _bands(rng, self.positions, least)
        self.keys: Keys = np.empty(len(self.rows), np.uint64)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._band_keys: npt.NDArray[np.uint64] | None = None
        if self._bands and len(self.rows):
            shape = (len(self._bands), len(self.rows))
            self._band_keys = np.memmap(self._file, np.uint64, "w+", shape=shape)
        try:
            self._compute(jobs, report)
        except BaseException:
            self.close()
            raise

    @property
    def band_count(self) -> int:
        """The number of bands."""
        return len(self._bands)

    def close(self) -> None:
        """Remove the temporary file."""
        self._band_keys = None
        self._file.close()

    def bands(self) -> Iterator[Keys]:
        """Yield the hashes of all samples (N,) in each band."""
        for number in range(0 if self._band_keys is None else len(self._bands)):
            assert self._band_keys is not None
            yield np.array(self._band_keys[number])

    def equal(self, first: Indices, second: Indices) -> npt.NDArray[np.float64]:
        """Return the share of equal codes of each pair of samples; raises DamageError."""
        shares = np.empty(len(first), np.float64)
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            same = self.codes(first[part]) == self.codes(second[part])
            shares[part] = same.reshape(len(same), -1).mean(axis=1)
        return shares

    def codes(self, numbers: Indices) -> Values:
        """Return the codes (m, *shape) of samples; raises DamageError."""
        unique, places = np.unique(numbers, return_inverse=True)
        values = self.rows.read_at(TOKENS, unique)
        return values[places]

    def _compute(self, jobs: int, report: Callable[[int, int], None]) -> None:
        total = len(self.rows)
        step = max(1, _BLOCK_CODES // self.positions)

        def hashed(start: int) -> int:
            stop = min(start + step, total)
            codes = self.rows.read_range(TOKENS, start, stop).reshape(stop - start, -1).astype(np.uint64)
            self.keys[start:stop] = _mixed(codes @ self._weights)
            for number, (places, weights) in enumerate(self._bands):
                assert self._band_keys is not None
                self._band_keys[number, start:stop] = _mixed(codes[:, places] @ weights)
            return stop

        for stop in in_order(hashed, range(0, total, step), jobs):
            report(stop, total)


def exact_pairs(hashes: CodeHashes) -> Pairs:
    """Return each sample whose codes an earlier one has, with the first that has them; raises DamageError."""
    order = np.argsort(hashes.keys, kind="stable")
    ordered = hashes.keys[order]
    is_again = np.zeros(len(order), np.bool_)
    is_again[1:] = ordered[1:] == ordered[:-1]
    starts = np.flatnonzero(~is_again)
    group = np.cumsum(~is_again) - 1
    first, second = order[starts[group[is_again]]], order[is_again]
    by_second = np.argsort(second)
    first, second = first[by_second], second[by_second]
    same = hashes.equal(first, second) == 1
    apart = [
        _firsts(hashes, order[group == each]) for each in np.unique(_groups_of(order, group, second[~same]))
    ]
    if apart:  # two hashes were equal by chance
        mixed = np.isin(first, np.concatenate([members for members, _ in apart]))
        pairs = np.concatenate([np.stack([first[~mixed], second[~mixed]], 1), *(found for _, found in apart)])
        first, second = pairs[np.argsort(pairs[:, 1])].T
    return Pairs(first, second, np.ones(len(second)))


def _groups_of(order: Indices, group: Indices, numbers: Indices) -> Indices:
    """Return the groups of equal hashes that some samples are in."""
    if not len(numbers):
        return numbers
    groups = np.empty(len(order), np.int64)
    groups[order] = group
    found: Indices = groups[numbers]
    return found


def _firsts(hashes: CodeHashes, members: Indices) -> tuple[Indices, Indices]:
    """Return samples of one hash, and pairs (m, 2) of those with the same codes, the first of them first."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for number, values in zip(members.tolist(), hashes.codes(members), strict=True):
        earlier = firsts.setdefault(values.tobytes(), number)
        if earlier != number:
            pairs.append((earlier, number))
    return members, np.array(pairs, np.int64).reshape(-1, 2)


def near_pairs(
    hashes: CodeHashes, least: float, without: Indices, report: Callable[[int, int], None]
) -> Pairs:
    """Return pairs of samples with at least a share of equal codes; those `without` are left out.

    Of the pairs with just this share 99 % are found, and more of others. `report` is called with the bands
    done and in all.
    """
    is_out = np.zeros(len(hashes.keys), np.bool_)
    is_out[without] = True
    found = np.empty((0, 2), np.int64)
    shares = np.empty(0, np.float64)
    complete = True
    for number, keys in enumerate(hashes.bands()):
        candidates = _candidates(keys, is_out)
        new = _not_in(candidates, found)
        same = hashes.equal(new[:, 0], new[:, 1])
        found = np.concatenate([found, new[same >= least]])
        shares = np.concatenate([shares, same[same >= least]])
        report(number + 1, hashes.band_count)
        if len(found) > MOST_PAIRS:
            found, shares, complete = found[:MOST_PAIRS], shares[:MOST_PAIRS], False
            break
    order = np.lexsort((found[:, 1], found[:, 0]))
    return Pairs(found[order, 0], found[order, 1], shares[order], complete)


def _candidates(keys: Keys, is_out: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return pairs (m, 2) of samples with the same hash, each with those that follow it."""
    left = np.flatnonzero(~is_out)
    order = left[np.argsort(keys[left], kind="stable")]
    ordered = keys[order]
    pairs = []
    for distance in range(1, min(_NEIGHBOURS + 1, len(order))):
        same = np.flatnonzero(ordered[:-distance] == ordered[distance:])
        if not len(same):
            break
        pairs.append(np.stack([order[same], order[same + distance]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)


def _not_in(pairs: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if not len(pairs) or not len(known):
        return pairs
    both = np.concatenate([known, pairs])
    _, places = np.unique(both, axis=0, return_index=True)
    return both[np.sort(places[places >= len(known)])]


def _bands(rng: np.random.Generator, positions: int, least: float) -> list[tuple[Indices, Keys]]:
    """Draw the positions of each band, and the weights of their codes."""
    fewest = range(math.floor(least * positions), positions + 1)
    equal = next(count for count in fewest if count / positions >= least)
    # subtle: a band has no position twice, so in small grids fewer are equal than by powers of the share
    drawn = np.arange(equal)
    chances = np.cumprod((equal - drawn) / (positions - drawn))
    size = max(1, int((chances >= _SAME_BAND).sum()))
    chance = chances[size - 1]
    number = 1 if chance >= 1 - _MISSED else math.ceil(math.log(_MISSED) / math.log(1 - chance))
    return [(np.sort(rng.permutation(positions)[:size]), _odd(rng, size)) for _ in range(number)]


def _odd(rng: np.random.Generator, count: int) -> Keys:
    return rng.integers(0, 2**64, count, np.uint64) | np.uint64(1)


def _mixed(sums: Keys) -> Keys:
    """Return sums (n,) with high and low bits mixed, so that all bits depend on all codes."""
    mixed: Keys = (sums ^ (sums >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return mixed

"""Ranges of a source and what becomes of them: segments, whose codes depend on nothing but the range.

A conversion is a list of ranges. A worker encodes the request of a range to a segment, on any machine and as
often as need be; the segments, in order, are packed into shards (`assembly`).
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenstore.errors import Parameter
from tokenstore.sources.base import GroupedSplit, Split
from tokenstore.sources.decode_task import DecodeTask

__all__ = [
    "DEADLY",
    "MOST_DEATHS",
    "BadSample",
    "RangeRequest",
    "SampleRange",
    "Segment",
    "group_ends",
    "spaced_samples",
]

MOST_DEATHS = 3
"""The workers that may die of a range before it is cut in two, and of a sample before it counts as bad."""
DEADLY = f"the process that read it died, {MOST_DEATHS} times"
"""The reason of a sample that counts as bad since workers die of it."""
LARGEST_GROUP = 2**14
"""The samples above which a group of samples is cut, though all of its ranges then read its start."""


@dataclass(frozen=True)
class SampleRange:
    """The neighbouring samples [start, stop) of one split of a source."""

    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.split}, samples {self.start} to {self.stop - 1}"

    def halves(self) -> tuple[SampleRange, SampleRange]:
        """Return the two halves of a range of several samples."""
        middle = (self.start + self.stop) // 2
        return SampleRange(self.split, self.start, middle), SampleRange(self.split, middle, self.stop)


def spaced_samples(splits: Sequence[tuple[Split, range]], count: int) -> Iterator[tuple[int, int, int]]:
    """Yield some samples evenly spaced over ranges of splits, as (index of the split, start, stop).

    Those of a GroupedSplit are the first samples of groups, as many as are in each: to read others would be
    to read all before them too.
    """
    total, first = sum(len(here) for _, here in splits), 0
    numbers = sorted({number * total // count for number in range(count if total else 0)})
    for index, (split, here) in enumerate(splits):
        positions = [here[number - first] for number in numbers if 0 <= number - first < len(here)]
        first += len(here)
        if not isinstance(split, GroupedSplit):
            yield from ((index, position, position + 1) for position in positions)
            continue
        starts = split.group_starts()
        groups = Counter((np.searchsorted(starts, positions, "right") - 1).tolist())
        for group, samples in groups.items():
            start = max(int(starts[group]), here.start)
            yield index, start, min(start + samples, int(starts[group + 1]), here.stop)


def group_ends(starts: npt.NDArray[np.int64], size: int, batches: int) -> Iterator[int]:
    """Yield where ranges end that hold whole groups and at least so many batches of `size` samples.

    `starts` are the first samples of the groups, and at the end the number of samples. A range ends at the
    first multiple of `size` at or after the end of a group. A group of more than `LARGEST_GROUP` samples is
    cut into equal ranges.
    """
    total, end = int(starts[-1]), 0
    while end < total:
        first, group = end, int(np.searchsorted(starts, end + batches * size))
        group_end = int(starts[min(group, len(starts) - 1)])
        last = min(group_end + -group_end % size, total)
        pieces = -(-(last - first) // max(LARGEST_GROUP, batches * size))
        step = -(-(last - first) // (pieces * size)) * size
        for end in range(first + step, last, step):
            yield end
        end = last
        yield end


@dataclass(frozen=True)
class RangeRequest:
    """A small picklable request to encode a range, by a worker that has an encoder already."""

    samples: SampleRange
    tasks: tuple[DecodeTask, ...]
    """The requests for the range's images, in order, each for one decode process."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read: its position in the split, and the reason."""

    position: int
    reason: str
    parameters: tuple[Parameter, ...] = ()
    """The parameters of a call that the reason names."""


@dataclass(frozen=True)
class Segment:
    """The outcome of every sample of a range: codes and facts of the n good ones, reasons of the bad ones."""

    samples: SampleRange
    codes: npt.NDArray[Any]
    """The codes (n, *grid), with views (n, V, *grid), in the order of the source."""
    columns: Mapping[str, npt.NDArray[Any]]
    """The aligned arrays (n, ...) besides the labels, by name."""
    positions: npt.NDArray[np.int64]
    """The positions (n,) of the good samples in the split."""
    facts: npt.NDArray[np.int64] | None
    """The width and height of each good image in pixels, and the bytes of its file (n, 3); None for codes."""
    bad: tuple[BadSample, ...] = ()

    def between(self, start: int, stop: int) -> Segment:
        """Return the segment of those of its samples that have positions from `start` to `stop` - 1."""
        start, stop = max(start, self.samples.start), min(stop, self.samples.stop)
        rows = slice(*np.searchsorted(self.positions, [start, stop]).tolist())
        return Segment(
            SampleRange(self.samples.split, start, stop),
            self.codes[rows],
            {name: values[rows] for name, values in self.columns.items()},
            self.positions[rows],
            None if self.facts is None else self.facts[rows],
            tuple(bad for bad in self.bad if start <= bad.position < stop),
        )

    def to_bytes(self) -> bytes:
        """Return the segment as a file, for `from_bytes`; the parameters of reasons are left out."""
        facts = {
            "range": [self.samples.split, self.samples.start, self.samples.stop],
            "bad": [[bad.position, bad.reason] for bad in self.bad],
        }
        file = io.BytesIO()
        np.savez(
            file,
            allow_pickle=False,
            about=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            codes=self.codes,
            positions=self.positions,
            **({} if self.facts is None else {"facts": self.facts}),
            **{f"column_{name}": values for name, values in self.columns.items()},
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the segment of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            columns = {
                name.removeprefix("column_"): arrays[name] for name in arrays if name.startswith("column_")
            }
            return cls(
                SampleRange(*about["range"]),
                arrays["codes"],
                columns,
                arrays["positions"],
                arrays.get("facts"),
                tuple(BadSample(*bad) for bad in about["bad"]),
            )

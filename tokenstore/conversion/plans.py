"""The plan of a conversion, of images or of ready codes: its spec, its ranges, and what encodes them.

A plan is all that executors and the assembly of shards know of a source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Protocol, Self

from tokenstore.conversion.options import ConvertOptions
from tokenstore.conversion.ranges import RangeRequest, SampleRange, Segment, group_ends
from tokenstore.format import Column
from tokenstore.sources.base import GroupedSplit, Source, Split
from tokenstore.writing.spec import StoreSpec

__all__ = ["RangePlan", "RangeWorker", "WorkerRecipe"]


class RangeWorker(Protocol):
    """A worker that encodes ranges, used as a context manager; several threads may do so at a time."""

    task_samples: int
    """The largest number of samples of a request's task."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...

    def close(self, *, at_once: bool = False) -> None:
        """End the worker, `at_once` or when it has done what it began."""

    def encode(self, request: RangeRequest) -> Segment:
        """Encode one range; raises what `segments` raises."""

    def segments(self, requests: Iterable[RangeRequest]) -> Iterator[Segment]:
        """Encode ranges, and yield their segments in order.

        Raises WorkerError if a process of the worker dies, and what reading and encoding raise.
        """


class WorkerRecipe(Protocol):
    """A small picklable recipe from which a worker is made on any machine."""

    @property
    def device(self) -> str:
        """The device to encode on."""

    def on(self, device: str) -> WorkerRecipe:
        """Return the recipe of a worker on another device."""

    def begin(self, workers: int) -> RangeWorker:
        """Return a worker with so many decode processes; raises TokenizerError for another tokenizer."""


class RangePlan(ABC):
    """The plan of a conversion; an `Executor` runs it.

    A plan has no object for each sample or range: `ranges` yields them one by one.
    """

    source: Source
    names: tuple[str, ...]
    """The splits that are converted, in order."""
    spec: StoreSpec
    options: ConvertOptions
    recipe: WorkerRecipe
    """The recipe of a worker elsewhere."""
    size_note: str | None = None
    """A remark on the size of images, where the user has not chosen it."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """The number of samples at whose multiples ranges may be cut."""

    @property
    @abstractmethod
    def range_samples(self) -> int:
        """The samples of a range, about, where it is encoded here."""

    @abstractmethod
    def begin(self, workers: int) -> RangeWorker:
        """Return a worker of this process, with so many decode processes."""

    @abstractmethod
    def columns(self, split: str) -> Mapping[str, Column]:
        """Return the aligned arrays that a split has besides the tokens and the labels."""

    @abstractmethod
    def request(self, samples: SampleRange, task_samples: int | None = None) -> RangeRequest:
        """Return the request by which a worker encodes a range, in tasks of at most so many samples."""

    @abstractmethod
    def lost(self, sample: SampleRange, error: Exception) -> Segment:
        """Return the segment of a sample that workers die of, or raise WorkerError."""

    def split(self, name: str) -> Split:
        """Return a split of the source."""
        return self.source.splits[name]

    def listed(self, split: str) -> int:
        """Return how many samples of a split are converted, in all parts of the conversion together."""
        return self.options.listed(len(self.split(split)))

    def positions(self, split: str) -> range:
        """Return the positions of those of a split's samples that are converted here."""
        return self.options.positions(len(self.split(split)))

    def ranges(
        self, starts: Mapping[str, int], batches: int = 1, *, whole_groups: bool = False
    ) -> Iterator[SampleRange]:
        """Yield the ranges of each split from a start on, of so many of the tokenizer's batches each.

        Ranges begin and end at multiples of the batch size, or at the end of a split. So no batch depends on
        where a conversion was interrupted, or on its cut into parts; samples outside of these are encoded
        and left out. With `whole_groups`, ranges of a GroupedSplit end where groups end, at the next multiple
        of the batch size: a worker that reads a group reads it whole, and no other does.
        """
        for split, start in starts.items():
            stop, size, samples = self.positions(split).stop, self.batch_size, self.split(split)
            if start < stop:
                stop = min(stop + -stop % size, self.listed(split))
                first = start - start % size
                if whole_groups and isinstance(samples, GroupedSplit):
                    ends = group_ends(samples.group_starts(), size, batches)
                    bounds = chain((end for end in ends if first < end < stop), [stop])
                else:
                    bounds = chain(range(first + batches * size, stop, batches * size), [stop])
                for end in bounds:
                    yield SampleRange(split, first, end)
                    first = end

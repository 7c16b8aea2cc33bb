"""The assembly of shards: the segments of a split, in order, are packed into its shards.

Segments may be cut anywhere: a shard takes what it has room for, and the rest goes into the next one. What is
encoded of a shard that is not full yet is saved now and then, so that a crash loses little.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.conversion.executors import Executor
from tokenstore.conversion.plans import RangePlan
from tokenstore.conversion.ranges import BadSample, SampleRange, Segment
from tokenstore.errors import ConversionError, Parameter
from tokenstore.format import LABELS, Skip, samples_table
from tokenstore.sources.base import Labels, Source, further_values
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.writer import StoreWriter

__all__ = ["SAVE_SECONDS", "ShardAssembler", "write_splits"]

SAVE_SECONDS = 30.0
"""The seconds of work that a crash may lose."""


def write_splits(
    plan: RangePlan,
    executor: Executor,
    writer: StoreWriter,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, int]:
    """Write all splits of a plan, and return the number of samples of each that were in shards before.

    `on_progress` is called with a split, the end of its samples done and the number of bad ones. Raises
    ConversionError when more samples are bad than are allowed.
    """
    assemblers: dict[str, ShardAssembler] = {}
    for name in plan.names:
        split, here = plan.split(name), plan.positions(name)
        has_labels = split.labels(0, 0) is not None
        columns = plan.columns(name)
        part = writer.split(name, len(here), first=here.start, labels=has_labels, columns=columns)
        allowed = plan.options.allowed_bad(plan.listed(name))  # in all parts together
        assemblers[name] = ShardAssembler(plan.source, part, here.stop, allowed)
    starts = {name: assembler.position for name, assembler in assemblers.items()}
    resumed_at = {
        name: assembler.part.source_position - plan.positions(name).start
        for name, assembler in assemblers.items()
    }
    try:
        for assembler in assemblers.values():
            assembler.finish_if_done()
        with contextlib.closing(executor.segments(plan, starts)) as segments:
            for segment in segments:
                assembler = assemblers[segment.samples.split]
                assembler.take(segment)
                on_progress(segment.samples.split, assembler.position, assembler.bad)
                assembler.finish_if_done()
        for name, assembler in assemblers.items():
            if assembler.position < plan.positions(name).stop:
                raise ValueError(f"expected samples of {name} from {assembler.position} on, found none")
    except BaseException:
        for assembler in assemblers.values():
            with contextlib.suppress(Exception):  # the first error is the one to report
                assembler.save()
        raise
    return resumed_at


class ShardAssembler:
    """An assembler of the shards of one split up to position `stop`, from where a conversion stood.

    `allowed` is the number of samples that may be bad, and the reason for it; None allows any number.
    """

    def __init__(
        self,
        source: Source,
        part: SplitWriter,
        stop: int,
        allowed: tuple[int, str] | None,
    ) -> None:
        self.part = part
        self.position = part.source_position
        """The first sample of the source that is in no shard, and not in the open one."""
        self._source, self._split, self._stop = source, source.splits[part.name], stop
        self._allowed = allowed
        self._segments: list[Segment] = []
        self._count = 0
        self._bad = len(part.skipped)
        self._saved = 0
        """The number of `_segments` that are saved."""
        self._save_time = time.monotonic()
        self._load()

    @property
    def bad(self) -> int:
        """The number of bad samples so far."""
        return self._bad

    def take(self, segment: Segment) -> None:
        """Take the next segment, and write the shards that it fills.

        Samples before `position` and behind the last one are left out. Raises ConversionError if more samples
        are bad than are allowed, and ValueError for a segment that does not follow.
        """
        samples = segment.samples
        if samples.split != self.part.name or not samples.start <= self.position < samples.stop:
            raise ValueError(f"expected samples of {self.part.name} from {self.position} on, found {samples}")
        segment = segment.between(self.position, self._stop)
        self._check(segment)
        self._append(segment)
        while self._count >= self.part.shard_samples:
            self._close_shard()
        if time.monotonic() - self._save_time > SAVE_SECONDS:
            self.save()

    def finish_if_done(self) -> None:
        """Write the last shard, and note the bad samples after it, if all samples were taken."""
        if self.position < self._stop:
            return
        while self._count:
            self._close_shard()
        self.part.finish(self._skips([bad for segment in self._segments for bad in segment.bad]))
        self._segments, self._saved = [], 0

    def save(self) -> None:
        """Save what is new since the last time, so that a resumed conversion need not encode it again."""
        if self._saved < len(self._segments):
            piece = _joined(self._segments[self._saved :])
            self.part.save_piece(self._saved, piece.to_bytes())
            self._segments[self._saved :] = [piece]
            self._saved += 1
        self._save_time = time.monotonic()

    def _load(self) -> None:
        while (data := self.part.load_piece(self._saved)) is not None:
            segment = Segment.from_bytes(data)
            if segment.samples.start != self.position:
                return  # subtle: of a shard that was finished afterwards
            self._append(segment)
            self._saved += 1

    def _append(self, segment: Segment) -> None:
        if not len(segment.samples):
            return
        self._segments.append(segment)
        self._count += len(segment.codes)
        self._bad += len(segment.bad)
        self.position = segment.samples.stop

    def _check(self, segment: Segment) -> None:
        """Raise ConversionError if more samples are bad than allowed, and take those before the last one."""
        total = self._bad + len(segment.bad)
        if self._allowed is None or not segment.bad or total <= self._allowed[0]:
            return
        count, reason = self._allowed
        new = segment.bad[: max(1, count + 1 - self._bad)]
        self._append(segment.between(segment.samples.start, new[-1].position))
        skips = self._skips([*(bad for part in self._segments for bad in part.bad), new[-1]])
        parameters = (
            Parameter("on_error", "fail"),
            Parameter("on_error", "skip"),
            Parameter("resume", True),
        )
        raise ConversionError(
            f"split {self.part.name}: {self._bad + 1} samples cannot be read, allowed are {count} "
            f"({reason}); the last is {skips[-1].source}: {new[-1].reason}. Mend it, or use {parameters[1]}, "
            f"and go on with {parameters[2]}",
            skipped=[(skip.source, skip.reason) for skip in (*self.part.skipped, *skips)],
            parameters=(*parameters, *new[-1].parameters),
        )

    def _close_shard(self) -> None:
        """Write the first samples as a shard; the others, and bad samples after the shard, stay."""
        count = min(self._count, self.part.shard_samples)
        shard, rest = _cut(_joined(self._segments), count)
        labels = self._labels(shard.positions)
        facts: dict[str, Any] = {}
        if shard.facts is not None:
            facts = dict(zip(("width", "height", "source_bytes"), shard.facts.T, strict=True))
        names = self._names(shard.positions)
        table = samples_table(shard.positions, names, labels, self._source.class_names, **facts)
        columns = {**shard.columns, **self._further(shard.positions)}
        if labels is not None:
            columns[LABELS] = labels
        skips = self._skips(list(shard.bad))
        self.part.write_shard(shard.codes, columns, table, shard.samples.stop, skips)
        self._segments = [rest] if len(rest.samples) else []
        self._count, self._saved = len(rest.codes), 0
        self._save_time = time.monotonic()

    def _names(self, positions: npt.NDArray[np.int64]) -> Any:
        """Return the names of samples at rising positions, an Arrow array."""
        first, last = int(positions[0]), int(positions[-1])
        return self._split.names(first, last + 1).take(positions - first)

    def _labels(self, positions: npt.NDArray[np.int64]) -> Labels | None:
        first, last = int(positions[0]), int(positions[-1])
        labels = self._split.labels(first, last + 1)
        return None if labels is None else labels[positions - first]

    def _further(self, positions: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Return the values of samples in the further columns of the source."""
        first, last = int(positions[0]), int(positions[-1])
        values = further_values(self._source, self.part.name, first, last + 1)
        return {name: column[positions - first] for name, column in values.items()}

    def _skips(self, bad: list[BadSample]) -> list[Skip]:
        if not bad:
            return []
        names = self._names(np.array([sample.position for sample in bad])).to_pylist()
        return [Skip(sample.position, name, sample.reason) for sample, name in zip(bad, names, strict=True)]


def _joined(segments: list[Segment]) -> Segment:
    """Return segments that follow each other as one."""
    if len(segments) == 1:
        return segments[0]
    first, last = segments[0].samples, segments[-1].samples
    return Segment(
        SampleRange(first.split, first.start, last.stop),
        np.concatenate([segment.codes for segment in segments]),
        {
            name: np.concatenate([segment.columns[name] for segment in segments])
            for name in segments[0].columns
        },
        np.concatenate([segment.positions for segment in segments]),
        _joined_facts(segments),
        tuple(bad for segment in segments for bad in segment.bad),
    )


def _joined_facts(segments: list[Segment]) -> npt.NDArray[np.int64] | None:
    facts = [segment.facts for segment in segments if segment.facts is not None]
    return np.concatenate(facts) if facts else None


def _cut(segment: Segment, count: int) -> tuple[Segment, Segment]:
    """Cut a segment behind its first `count` good samples; the second part has its own memory."""
    stop = int(segment.positions[count - 1]) + 1
    first, rest = segment.between(0, stop), segment.between(stop, segment.samples.stop)
    columns = {name: values.copy() for name, values in rest.columns.items()}
    return first, replace(rest, codes=rest.codes.copy(), columns=columns)

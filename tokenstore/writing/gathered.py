"""One split that is written from batches of any size: full shards are written, the rest waits for more.

How many samples come is not known. So a split that ends before its first shard is full is written as a
conversion of as many samples would have written it, in one smaller shard.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tokenstore.codecs import Column
from tokenstore.errors import ArgumentError
from tokenstore.format import LABEL_COLUMN, LABELS, samples_table
from tokenstore.writing.batches import Batch, column_from_json, column_to_json
from tokenstore.writing.journal import open_journal
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.writer import StoreWriter

__all__ = ["SAVE_SECONDS", "SplitContents", "SplitGatherer"]

SAVE_SECONDS = 30.0
"""The seconds of a caller's work that a crash may lose."""


@dataclass(frozen=True)
class SplitContents:
    """The facts about a split that its first batch settles."""

    columns: Mapping[str, Column]
    has_labels: bool
    has_names: bool
    listed: int | None = None
    """The number of samples, once the split's only shard is written; None while more may come."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        columns = {name: column_to_json(column) for name, column in self.columns.items()}
        return {**vars(self), "columns": columns}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SplitContents:
        """Return the facts that `to_json` wrote."""
        columns = {name: column_from_json(column) for name, column in values["columns"].items()}
        return cls(**{**values, "columns": columns})


class SplitGatherer:
    """A writer of one split from batches; it goes on behind what an interrupted one had saved."""

    def __init__(self, store: StoreWriter, name: str, contents: SplitContents) -> None:
        self.name = name
        self.contents = contents
        self._store = store
        self._shard_samples = store.spec.samples_per_shard(None, self._all_columns)
        self._part: SplitWriter | None = None
        self._waiting: list[Batch] = []
        """The samples that are in no shard; each is more than twice as long as the next."""
        self._unsaved: list[Batch] = []
        """The last of the samples that are in no shard, which are not saved either."""
        self._pieces = 0
        """The pieces of the shard to be that are saved."""
        self._save_time = time.monotonic()
        self._load()

    @property
    def samples(self) -> int:
        """The number of samples that were taken, in this call and before."""
        return self._written + sum(map(len, self._waiting))

    def take(self, batch: Batch) -> None:
        """Take the next samples, and write the shards that they fill.

        Raises ArgumentError for samples behind a shard that is shorter than those before it.
        """
        if self._part is not None and self._part.samples % self._part.shard_samples:
            raise ArgumentError(
                f"split {self.name}: its last shard was written with {self._part.samples:,} samples in all "
                "when the writer was interrupted at its end: no more can be added. Add none to finish the "
                "store, or remove it and begin again"
            )
        self._append(batch)
        self._unsaved.append(batch)
        while self.samples - self._written >= self._full:
            self._write_shard(self._full)
        if time.monotonic() - self._save_time > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Make all samples so far safe: a crash loses none of them."""
        if self._unsaved:
            piece = _all_joined(self._unsaved)
            self._store.note(self._piece_path(self._pieces), piece.to_bytes(self.contents.columns))
            self._unsaved, self._pieces = [], self._pieces + 1
        self._save_time = time.monotonic()

    def finish(self) -> SplitWriter:
        """Write the last shard, and return the writer of the split."""
        rest = self.samples - self._written
        if rest:
            self._write_shard(rest)
        return self._begun_part()

    def settle(self) -> None:
        """Settle the size of a split whose first shard is not full; to be noted before `finish`."""
        if self._part is None and self.samples < self._shard_samples:
            self.contents = replace(self.contents, listed=self.samples)

    @property
    def _full(self) -> int:
        return self._shard_samples if self._part is None else self._part.shard_samples

    @property
    def _written(self) -> int:
        return 0 if self._part is None else self._part.samples

    @property
    def _all_columns(self) -> list[Column]:
        return [*([LABEL_COLUMN] if self.contents.has_labels else []), *self.contents.columns.values()]

    def _begun_part(self) -> SplitWriter:
        if self._part is None:
            contents = self.contents
            self._part = self._store.split(
                self.name, contents.listed, labels=contents.has_labels, columns=dict(contents.columns)
            )
        return self._part

    def _load(self) -> None:
        """Take up what an interrupted writer left: finished shards, and the pieces behind them."""
        if next(iter(open_journal(self._store.storage, self.name).read()), None) is not None:
            self._begun_part()
        else:  # whatever was planned for the first shard, it was not written
            self.contents = replace(self.contents, listed=None)
        while (data := self._store.recall(self._piece_path(self._pieces))) is not None:
            batch = Batch.from_bytes(data, self.contents.columns)
            if batch.start != self.samples:
                return  # subtle: of a shard that was finished afterwards
            self._append(batch)
            self._pieces += 1

    def _append(self, batch: Batch) -> None:
        """Append to what waits; batches are joined so that each sample is copied a few times at most."""
        self._waiting.append(batch)
        while len(self._waiting) > 1 and len(self._waiting[-2]) <= 2 * len(self._waiting[-1]):
            last = self._waiting.pop()
            self._waiting[-1] = self._waiting[-1].joined(last)

    def _write_shard(self, count: int) -> None:
        part = self._begun_part()
        shard, rest = _all_joined(self._waiting).cut(count)
        positions = np.arange(shard.start, shard.stop)
        names = [f"{self.name}[{place}]" for place in positions.tolist()]
        source = names if shard.names is None else pa.array(shard.names.tolist(), pa.string())
        table = samples_table(positions, source, shard.labels, self._store.spec.class_names)
        columns = dict(shard.columns)
        if shard.labels is not None:
            columns[LABELS] = shard.labels
        part.write_shard(shard.codes, columns, table, shard.stop, [])
        self._waiting = [rest] if len(rest) else []
        self._unsaved, self._pieces = list(self._waiting), 0
        self._save_time = time.monotonic()

    def _piece_path(self, number: int) -> str:
        return f"{self.name}/piece-{number:06d}"


def _all_joined(batches: list[Batch]) -> Batch:
    whole = batches[-1]
    for batch in reversed(batches[:-1]):
        whole = batch.joined(whole)
    return whole

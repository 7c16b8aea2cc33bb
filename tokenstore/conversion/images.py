"""The images of one split through the tokenizer into shards."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ConversionError, SampleError
from tokenstore.format.layout import LABELS
from tokenstore.format.tables import Skip, samples_table
from tokenstore.sources.base import ImageSplit, Labels
from tokenstore.sources.decoding import DecodedBatch, Inputs, decode_in_order
from tokenstore.sources.images import Pixels
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.writing.writer import SplitWriter

SAVE_SECONDS = 30.0
"""How much work a crash may lose."""


@dataclass
class _OpenShard:
    """The samples of a shard that is not full yet, up to the last batch that was encoded."""

    codes: npt.NDArray[Any]
    columns: dict[str, npt.NDArray[Any]]
    number: int
    start: int
    """The first sample of the source after the shards before this one."""
    count: int = 0
    rows: list[_Row] = field(default_factory=list)
    source_stop: int = 0
    """The first sample of the source after those that were encoded."""


@dataclass(frozen=True)
class _Row:
    source_index: int
    source: str
    label: int | None
    width: int
    height: int
    nbytes: int


class ImageConversion:
    """Converts one split; begins where an interrupted conversion stood.

    Raises ConversionError when more samples are bad than are `allowed`: a number, and why it is that.
    """

    def __init__(
        self,
        split: ImageSplit,
        part: SplitWriter,
        encoder: Encoder,
        class_names: tuple[str, ...] | None,
        allowed: tuple[int, str] | None,
    ) -> None:
        self._split = split
        self._part = part
        self._encoder = encoder
        self._class_names = class_names
        self._allowed = allowed
        self._bad = len(part.skipped)
        self._skipped: list[Skip] = []
        self._shard = self._new_shard()
        self._pending: list[_Row] = []
        self._inputs: Inputs = np.empty(0, np.uint8)
        self._masks: Pixels = np.empty(0, np.uint8)
        self._saved = time.monotonic()

    def run(self, listed: int, batch_size: int, workers: int, progress: Callable[[int, int], None]) -> None:
        """Convert the split's first `listed` samples."""
        decoder, masks = self._encoder.decoder, self._encoder.masks
        self._inputs = np.empty((batch_size, *decoder.shape), decoder.dtype)
        self._masks = np.empty((batch_size, *(() if masks is None else masks.shape)), np.uint8)
        self._load()
        if self._shard.count == self._part.shard_samples:
            self._close_shard()
        try:
            start = self._shard.source_stop
            for batch in decode_in_order(self._split, start, listed, decoder, workers, masks):
                self._take(batch)
                progress(batch.start + len(batch.outcomes), self._bad)
            self._encode()
            self._close_shard()
        except BaseException:
            with contextlib.suppress(Exception):  # what stopped the conversion is what has to be told
                self._save()
            raise
        self._part.finish(self._skipped)

    def _take(self, batch: DecodedBatch) -> None:
        stop = batch.start + len(batch.outcomes)
        names = self._split.names(batch.start, stop).to_pylist()
        labels = self._split.labels(batch.start, stop)
        for position, outcome in enumerate(batch.outcomes):
            index = batch.start + position
            if isinstance(outcome, SampleError):
                self._skip(Skip(index, names[position], str(outcome)))
                continue
            label = None if labels is None else int(labels[position])
            self._inputs[len(self._pending)] = batch.inputs[position]
            if batch.masks is not None:
                self._masks[len(self._pending)] = batch.masks[position]
            self._pending.append(
                _Row(index, names[position], label, outcome.width, outcome.height, outcome.nbytes)
            )
            room = self._part.shard_samples - self._shard.count
            if len(self._pending) == min(len(self._inputs), room):
                self._encode()
                if self._shard.count == self._part.shard_samples:
                    self._close_shard()
                elif time.monotonic() - self._saved > SAVE_SECONDS:
                    self._save()

    def _skip(self, skip: Skip) -> None:
        self._skipped.append(skip)
        self._bad += 1
        if self._allowed is not None and self._bad > self._allowed[0]:
            count, reason = self._allowed
            raise ConversionError(
                f"split {self._part.name}: {self._bad} samples cannot be read, allowed are {count} "
                f"({reason}); the last is {skip.source}: {skip.reason}. Mend it, or use --on-error skip, "
                "and go on with --resume",
                skipped=[(bad.source, bad.reason) for bad in (*self._part.skipped, *self._skipped)],
            )

    def _encode(self) -> None:
        if not self._pending:
            return
        shard, rows = self._shard, self._pending
        here = slice(shard.count, shard.count + len(rows))
        inputs = self._inputs[: len(rows)]
        shard.codes[here] = self._encoder(inputs)
        for name, values in self._encoder.column_values(inputs, self._masks[: len(rows)]).items():
            shard.columns[name][here] = values
        shard.rows[shard.count :] = rows
        shard.count, shard.source_stop, self._pending = shard.count + len(rows), rows[-1].source_index + 1, []

    def _close_shard(self) -> None:
        shard = self._shard
        if not shard.count:
            return
        labels = self._labels(shard.rows)
        table = samples_table(
            np.array([row.source_index for row in shard.rows]),
            [row.source for row in shard.rows],
            labels,
            self._class_names,
            width=[row.width for row in shard.rows],
            height=[row.height for row in shard.rows],
            source_bytes=[row.nbytes for row in shard.rows],
        )
        before, after = self._skips_before(shard.source_stop)
        columns = {name: values[: shard.count] for name, values in shard.columns.items()}
        if labels is not None:
            columns[LABELS] = labels
        self._part.write_shard(shard.codes[: shard.count], columns, table, shard.source_stop, before)
        self._skipped = after
        self._shard = self._new_shard()
        self._saved = time.monotonic()

    def _labels(self, rows: list[_Row]) -> Labels | None:
        labels = [row.label for row in rows if row.label is not None]
        return np.array(labels, np.int32) if labels else None

    def _skips_before(self, source_stop: int) -> tuple[list[Skip], list[Skip]]:
        before = [skip for skip in self._skipped if skip.source_index < source_stop]
        return before, self._skipped[len(before) :]

    def _new_shard(self) -> _OpenShard:
        samples, start = self._part.shard_samples, self._part.source_position
        codes = np.empty((samples, *self._encoder.grid), self._encoder.dtype)
        columns = {
            name: np.empty((samples, *column.shape), column.dtype)
            for name, column in self._encoder.columns.items()
        }
        return _OpenShard(codes, columns, self._part.shards, start, source_stop=start)

    def _save(self) -> None:
        """Keep the open shard's encoded samples, so that a resumed conversion need not encode them again."""
        shard = self._shard
        if shard.count:
            facts = {
                "shard": shard.number,
                "start": shard.start,
                "source_stop": shard.source_stop,
                "rows": [list(asdict(row).values()) for row in shard.rows[: shard.count]],
                "skipped": [list(asdict(skip).values()) for skip in self._skips_before(shard.source_stop)[0]],
            }
            state = io.BytesIO()
            text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            columns = {f"column_{name}": values[: shard.count] for name, values in shard.columns.items()}
            np.savez(state, allow_pickle=False, codes=shard.codes[: shard.count], facts=text, **columns)
            self._part.save_open_shard(state.getvalue())
        self._saved = time.monotonic()

    def _load(self) -> None:
        state = self._part.load_open_shard()
        if state is None:
            return
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            codes, facts = arrays["codes"], json.loads(arrays["facts"].tobytes())
            columns = {name: arrays[f"column_{name}"] for name in self._encoder.columns}
        if (facts["shard"], facts["start"]) != (self._shard.number, self._shard.start):
            return  # subtle: it was kept while that shard, now whole, was being written
        self._shard.codes[: len(codes)] = codes
        for name, values in columns.items():
            self._shard.columns[name][: len(values)] = values
        self._shard.rows = [_Row(*row) for row in facts["rows"]]
        self._shard.count, self._shard.source_stop = len(codes), facts["source_stop"]
        self._skipped = [Skip(*skip) for skip in facts["skipped"]]
        self._bad += len(self._skipped)

"""The conversion of images: each split through the tokenizer into shards.

A shard is a pure function of the source, the tokenizer and the position it begins at: batches never reach
over the end of a shard. The shard that is not full yet is saved now and then, so that a crash loses little.
"""

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

from tokenstore.conversion.image_size import ChosenSize, choose_size
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ConversionError, Parameter, SampleError
from tokenstore.format import LABELS, Preprocessing, Skip, samples_table
from tokenstore.sources.base import ImageSource, ImageSplit, Labels, MaskedSplit
from tokenstore.sources.decoding import DecodedBatch, Inputs, decode_in_order
from tokenstore.sources.images import ImageOptions, Pixels
from tokenstore.sources.masks import MaskDecoder
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import SplitWriter, StoreWriter

SAVE_SECONDS = 30.0
"""The seconds of work that a crash may lose."""


@dataclass(frozen=True)
class ImagePlan:
    """The plan of a conversion of images."""

    source: ImageSource
    spec: StoreSpec
    encoder: Encoder
    options: ConvertOptions
    size_note: str | None = None
    """A remark on the size of the images, where the user has not chosen it."""

    def begin(self, name: str, positions: range, writer: StoreWriter) -> SplitWriter:
        """Begin or go on with a split of the samples at `positions`."""
        labels = self.source.splits[name].labels(0, 0) is not None
        return writer.split(
            name, len(positions), first=positions.start, labels=labels, columns=self.encoder.columns
        )

    def run(
        self, name: str, positions: range, part: SplitWriter, on_progress: Callable[[int, int], None]
    ) -> None:
        """Write a split's samples at `positions`; `on_progress` gets the end of those done, and the bad ones.

        Raises ConversionError for more bad samples than the options allow.
        """
        options, split = self.options, self.source.splits[name]
        allowed = options.allowed_bad(options.listed(len(split)))  # in all parts together
        conversion = ImageConversion(split, part, self.encoder, self.source.class_names, allowed)
        conversion.run(positions.stop, options.batch_size, options.workers, on_progress)


def plan_images(
    source: ImageSource,
    options: ConvertOptions,
    location: str,
    tokenizer: Tokenizer,
    tokenizer_spec: str | None,
) -> ImagePlan:
    """Plan a conversion of images by a tokenizer that was loaded by the name `tokenizer_spec`.

    Raises TokenizerError for a tokenizer that does not take images of the size.
    """
    size = _chosen_size(source, tokenizer, options)
    encoder = _encoder(source, tokenizer, options, size.side)
    images = encoder.options
    spec = StoreSpec(
        grid=encoder.grid,
        codebook_sizes=tokenizer.codebook_sizes,
        tokenizer=identity_of(tokenizer, tokenizer_spec),
        codec=options.first_codec,
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        preprocessing=Preprocessing(images.height, images.width, images.resize),
        ignore_index=None if encoder.masks is None else encoder.masks.ignore_index,
        source_kind=source.kind,
        source_location=location,
        codebook=tokenizer.codebook,
    )
    return ImagePlan(source, spec, encoder, options, size.note)


def _chosen_size(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions) -> ChosenSize:
    if options.image_size is not None:
        return ChosenSize(options.image_size)
    return choose_size([source.splits[name] for name in options.splits or source.splits], tokenizer)


def _encoder(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions, side: int) -> Encoder:
    images = ImageOptions(side, options.resize, options.max_pixels)
    masked = any(isinstance(split, MaskedSplit) for split in source.splits.values())
    masks = MaskDecoder(images, options.mask_size or images.height, options.ignore_index)
    return Encoder(tokenizer, images, masks if masked else None)


@dataclass
class _OpenShard:
    """A shard that is not full yet: its samples up to the last batch that was encoded."""

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
    """The conversion of one split, from where an interrupted one stood.

    `allowed` is the number of samples that may be bad, and the reason for it; None allows any number.
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

    def run(self, stop: int, batch_size: int, workers: int, on_progress: Callable[[int, int], None]) -> None:
        """Convert the split's samples before position `stop`.

        Raises ConversionError when more samples are bad than are allowed.
        """
        decoder, masks = self._encoder.decoder, self._encoder.masks
        self._inputs = np.empty((batch_size, *decoder.shape), decoder.dtype)
        self._masks = np.empty((batch_size, *(() if masks is None else masks.shape)), np.uint8)
        self._load()
        if self._shard.count == self._part.shard_samples:
            self._close_shard()
        try:
            start = self._shard.source_stop
            for batch in decode_in_order(self._split, start, stop, decoder, workers, masks):
                self._take(batch)
                on_progress(batch.start + len(batch.outcomes), self._bad)
            self._encode()
            self._close_shard()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
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
                self._skip(Skip(index, names[position], str(outcome)), outcome.parameters)
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

    def _skip(self, skip: Skip, named: tuple[Parameter, ...]) -> None:
        self._skipped.append(skip)
        self._bad += 1
        if self._allowed is not None and self._bad > self._allowed[0]:
            count, reason = self._allowed
            parameters = (
                Parameter("on_error", "fail"),
                Parameter("on_error", "skip"),
                Parameter("resume", True),
            )
            raise ConversionError(
                f"split {self._part.name}: {self._bad} samples cannot be read, allowed are {count} "
                f"({reason}); the last is {skip.source}: {skip.reason}. Mend it, or use {parameters[1]}, "
                f"and go on with {parameters[2]}",
                skipped=[(bad.source, bad.reason) for bad in (*self._part.skipped, *self._skipped)],
                parameters=(*parameters, *named),
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
        """Save the open shard's encoded samples, so that a resumed conversion need not encode them again."""
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
            return  # subtle: the state is of a shard that was finished afterwards
        self._shard.codes[: len(codes)] = codes
        for name, values in columns.items():
            self._shard.columns[name][: len(values)] = values
        self._shard.rows = [_Row(*row) for row in facts["rows"]]
        self._shard.count, self._shard.source_stop = len(codes), facts["source_stop"]
        self._skipped = [Skip(*skip) for skip in facts["skipped"]]
        self._bad += len(self._skipped)

"""The plan of a conversion as its user sees it before the work: counts, estimates, a check of the target."""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tokenstore.conversion.arguments import (
    chosen_splits,
    conversion_options,
    loaded_tokenizer,
    plan_of,
    refuse_target_inside,
    spec_of_part,
)
from tokenstore.conversion.codes import CodePlan
from tokenstore.conversion.completed import refuse_other_conversion
from tokenstore.conversion.exported import open_with_facts
from tokenstore.conversion.images import ConversionPlan
from tokenstore.conversion.ranges import SampleRange, spaced_samples
from tokenstore.errors import ArgumentError, SampleError, StorageError
from tokenstore.format import LABEL_COLUMN, LABELS, TOKENS, Column, samples_table
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.sources import SourceOptions
from tokenstore.sources.base import (
    CodeSource,
    ImageSource,
    Source,
    Split,
    count_labels,
    further_kinds,
    further_values,
)
from tokenstore.sources.decoding import DecodedBatch, DecodePool
from tokenstore.sources.fetching import fetched_many
from tokenstore.storage import Storage
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.writing.target import check_target, whole_store

__all__ = ["Estimate", "SplitEstimate", "plan"]

SAMPLES = 200
"""The samples, spread over all splits, of which bytes and time are estimated."""


@dataclass(frozen=True)
class SplitEstimate:
    """The part of a split that would be converted."""

    samples: int
    classes: int | None
    """The number of different labels; None for a split without labels."""
    columns: tuple[str, ...]
    """The arrays beside the tokens."""
    shards: int


@dataclass(frozen=True)
class Estimate:
    """The plan of a conversion: what would be converted and stored, at about what cost."""

    source_kind: str
    splits: Mapping[str, SplitEstimate]
    grid: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    image_size: tuple[int, int] | None
    """The height and width in pixels that images are brought to; None for ready codes."""
    codec: str
    """The codec of the estimate: where the codec is chosen from all codes, the one that is not smaller."""
    measured: int
    """The samples that were read and encoded for the estimate."""
    bad: tuple[tuple[str, str], ...]
    """The names of those of them that cannot be read, each with the reason."""
    nbytes: int
    """The bytes of the store, about."""
    source_nbytes: int | None
    """The bytes of the images' files, about; None for ready codes."""
    seconds: float
    """The seconds that the conversion takes here, about, once its processes have started."""
    free_nbytes: int | None
    """The bytes that are free on the target's disk; None for a remote target."""
    resumes: bool
    """True if an unfinished conversion is at the target, which would be gone on with."""
    size_note: str | None = None
    """A remark on the images' size, as in `Conversion`."""
    views: int | None = None
    """The views that are stored of each image; None for the image alone."""
    already_complete: bool = False
    """True if the store is whole, and what the conversion would write; `nbytes` is its size then."""

    @property
    def samples(self) -> int:
        """The samples of all splits."""
        return sum(split.samples for split in self.splits.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {**asdict(self), "samples": self.samples}


def plan(
    source: StorePath | Source,
    target: StorePath | Storage,
    *,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    source_kind: str | None = None,
    codebook: StorePath | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_source: Callable[[Source], None] | None = None,
    **options: Any,
) -> Estimate:
    """Plan a conversion, and write nothing: `convert` with the same arguments does it.

    The source is listed and counted, the target checked, and `SAMPLES` samples are read, encoded and packed
    to estimate the bytes and the time of all.

    Args:
        source: The source, as `convert` takes it.
        target: The place that a store would get.
        tokenizer: The tokenizer of images, or the one that made ready codes.
        device: The device that a tokenizer given by its name runs on.
        source_kind: The kind of the source, by default as found.
        codebook: The file of ready codes' vectors.
        resume: True to go on with an unfinished store; a complete one at the target is compared as `convert`
            compares it, and nothing is estimated.
        storage_options: The options of a remote `target`.
        on_source: Called with the listed source before the tokenizer is loaded.
        **options: The fields of `ConvertOptions` and `SourceOptions`, as `convert` takes them.

    Raises what `convert` raises before its work, and StorageError for a target that cannot be written.
    """
    of_source = {name: options.pop(name) for name in SourceOptions.__annotations__ if name in options}
    chosen, place = conversion_options(**options), as_storage(target, storage_options)
    if not isinstance(source, ImageSource | CodeSource):
        refuse_target_inside(source, place)
    complete = whole_store(place) if resume else None
    resumes = complete is None and check_target(place, resume)
    free = _free_nbytes(place, writes=complete is None)
    if not isinstance(source, ImageSource | CodeSource):
        source = open_with_facts(os.fspath(source), source_kind, **of_source)
    elif any(of_source.values()):
        raise ArgumentError(f"{', '.join(of_source)}: expected a path to open, found an open source")
    if on_source is not None:
        on_source(source)
    names = chosen_splits(source, chosen.splits)
    loaded = loaded_tokenizer(tokenizer, device, source)
    planned = plan_of(source, names, chosen, loaded, codebook)
    if complete is not None:
        spec = spec_of_part(source, names, chosen, planned.spec)
        refuse_other_conversion(TokenStore(complete), planned, spec)
    return _estimate(planned, free, resumes, complete)


def _estimate(
    planned: ConversionPlan | CodePlan, free: int | None, resumes: bool, complete: StoreFiles | None
) -> Estimate:
    """Return a plan's numbers: estimated from some samples, or those of the complete store at the target."""
    if complete is not None:
        some = _Measured(np.empty(0), {}, [], None, [], 0.0)
    elif isinstance(planned, ConversionPlan):
        some = _measured_images(planned)
    else:
        some = _measured_codes(planned)
    splits = {name: _split_estimate(planned, name) for name in planned.names}
    samples, spec = sum(split.samples for split in splits.values()), planned.spec
    steps = spec.preprocessing
    return Estimate(
        planned.source.kind,
        splits,
        spec.grid,
        spec.codebook_sizes,
        None if steps is None else (steps.height, steps.width),
        spec.codec,
        len(some.codes) + len(some.bad),
        tuple(some.bad),
        round(samples * some.nbytes(planned) + _further_nbytes(planned))
        if complete is None
        else complete.nbytes,
        None if some.facts is None else round(samples * float(some.facts[:, 2].mean())),
        samples * some.seconds,
        free,
        resumes,
        planned.size_note if isinstance(planned, ConversionPlan) else None,
        None if spec.views is None else spec.views.count,
        complete is not None,
    )


def _free_nbytes(place: Storage, *, writes: bool) -> int | None:
    """Return the bytes that are free on a place's disk; raise StorageError where `writes` is not allowed."""
    if place.root is None:
        return None
    folder = Path(os.path.realpath(place.root))
    while not folder.exists():
        folder = folder.parent
    if writes and not os.access(folder, os.W_OK):
        raise StorageError(f"{place}: cannot be written (no permission to write to {folder})")
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class _Measured:
    """Some samples as a store would have them, and the time that they took."""

    codes: npt.NDArray[Any]
    columns: Mapping[str, npt.NDArray[Any]]
    names: list[str]
    facts: npt.NDArray[np.int64] | None
    """The width, height and bytes of each image (n, 3)."""
    bad: list[tuple[str, str]]
    seconds: float
    """The seconds for a sample, with all processes at work."""

    def nbytes(self, planned: ConversionPlan | CodePlan) -> float:
        """Return the bytes of one sample of the store: its share of shards and tables."""
        count, spec = len(self.codes), planned.spec
        if not count:
            return 0.0
        full = -(-count // spec.chunk_samples) * spec.chunk_samples
        layouts = {TOKENS: spec.tokens_layout(count, full)}
        for name, rows in self.columns.items():
            layouts[name] = spec.column_layout(count, full, Column(rows.dtype, rows.shape[1:]))
        arrays = {TOKENS: self.codes.astype(layouts[TOKENS].dtype), **self.columns}
        total = sum(len(layouts[name].encode_shard(rows)) for name, rows in arrays.items())
        sizes = {}
        if self.facts is not None:
            sizes = dict(zip(("width", "height", "source_bytes"), self.facts.T, strict=True))
        table = io.BytesIO()
        rows = samples_table(np.arange(count), self.names, None, None, **sizes)
        pq.write_table(rows, table, compression="zstd")
        return (total + table.tell()) / count


def _spaced(planned: ConversionPlan | CodePlan) -> Iterator[tuple[str, int, int]]:
    """Yield the split, start and stop of some samples, spread over all that are converted."""
    splits: list[tuple[Split, range]] = [
        (planned.source.splits[name], planned.options.positions(len(planned.source.splits[name])))
        for name in planned.names
    ]
    for index, start, stop in spaced_samples(splits, SAMPLES):
        yield planned.names[index], start, stop


def _measured_images(planned: ConversionPlan) -> _Measured:
    """Decode and encode some images, in this process."""
    encoder = planned.encoder
    encoded = _EncodedBatches(encoder, planned.batch_size)
    names, facts, labels, bad = [], [], [], []
    decoding = 0.0
    with DecodePool(encoder.decoder, 0, encoder.masks) as pool:
        spaced = list(_spaced(planned))
        tasks = (
            (split, task)
            for split, *part in spaced
            for task in planned.request(SampleRange(split, *part)).tasks
        )
        of_splits, of_tasks = tee(tasks)
        for (split, _), task in zip(of_splits, fetched_many(task for _, task in of_tasks), strict=True):
            samples = planned.source.splits[split]
            sample_names = samples.names(task.start, task.stop).to_pylist()
            all_labels = samples.labels(task.start, task.stop)
            started = time.perf_counter()
            (decoded,) = pool.decode([task])
            decoding += time.perf_counter() - started
            for row, (name, outcome) in enumerate(zip(sample_names, decoded.outcomes, strict=True)):
                if isinstance(outcome, SampleError):
                    bad.append((name, str(outcome)))
                    continue
                encoded.add(decoded, row)
                labels += [] if all_labels is None else [int(all_labels[row])]
                names.append(name)
                facts.append((outcome.width, outcome.height, outcome.nbytes))
    if not names:
        reason = f"{bad[0][0]}: {bad[0][1]}" if bad else "none listed"
        raise SampleError(f"{planned.source.location}: no sample can be read; the first is {reason}")
    codes, columns = encoded.all()
    if labels:
        columns[LABELS] = np.array(labels, np.int32)
    tried = len(names) + len(bad)
    decoding, encoding = decoding / tried, encoded.seconds / tried
    workers = planned.options.workers
    seconds = decoding + encoding if workers < 1 else max(decoding / workers, encoding)
    if planned.encoder.tokenizer.device.type == "cpu" and workers:
        seconds = decoding / workers + encoding  # both use the same cores
    return _Measured(codes, columns, names, np.array(facts, np.int64).reshape(-1, 3), bad, seconds)


class _EncodedBatches:
    """The codes and columns of some samples, encoded batch by batch, and the seconds that it took."""

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._inputs: list[Any] = []
        self._masks: list[npt.NDArray[np.uint8]] = []
        self._codes: list[npt.NDArray[Any]] = []
        self._columns: list[Mapping[str, npt.NDArray[Any]]] = []
        self.seconds = 0.0

    def add(self, decoded: DecodedBatch, row: int) -> None:
        """Add one of the samples that were decoded, and encode the batch that it fills."""
        self._inputs.append(decoded.inputs[row].copy())
        if decoded.masks is not None:
            self._masks.append(decoded.masks[row].copy())
        if len(self._inputs) == self._batch_size:
            self._encode()

    def all(self) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
        """Return the codes and the columns of all samples, of which there is at least one."""
        if self._inputs:
            self._encode()
        columns = {
            name: np.concatenate([part[name] for part in self._columns]) for name in self._encoder.columns
        }
        return np.concatenate(self._codes), columns

    def _encode(self) -> None:
        batch = np.stack(self._inputs)
        label_maps = np.stack(self._masks) if self._masks else np.empty(0, np.uint8)
        if not self._codes:
            self._encoder(batch)  # the first batch takes longer than all others
        started = time.perf_counter()
        self._codes.append(self._encoder(batch))
        self._columns.append(self._encoder.column_values(batch, label_maps))
        self.seconds += time.perf_counter() - started
        self._inputs, self._masks = [], []


def _measured_codes(planned: CodePlan) -> _Measured:
    """Read some samples of ready codes."""
    started = time.perf_counter()
    codes, names = [], []
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    for name, *part in _spaced(planned):
        split, here = planned.source.splits[name], slice(*part)
        codes.append(np.asarray(split.codes(here.start, here.stop)))
        names.append(split.names(here.start, here.stop)[0].as_py())
        for column in split.columns:
            columns.setdefault(column, []).append(np.asarray(split.column(column, here.start, here.stop)))
        labels = split.labels(here.start, here.stop)
        if labels is not None:
            columns.setdefault(LABELS, []).append(labels)
    seconds = (time.perf_counter() - started) / max(1, len(codes))
    if not codes:
        codes.append(np.empty((0, *planned.spec.grid), np.uint8))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    same = {name: values for name, values in joined.items() if len(values) == len(names)}
    return _Measured(np.concatenate(codes), same, names, None, [], seconds)


def _further_nbytes(planned: ConversionPlan | CodePlan) -> float:
    """Return the bytes of the source's further columns in a store, by the first samples of each split."""
    total = 0.0
    for name in planned.names:
        here = planned.options.positions(len(planned.source.splits[name]))
        count = min(planned.spec.chunk_samples, len(here))
        kinds = further_kinds(planned.source, name) if count else {}
        values = further_values(planned.source, name, here.start, here.start + count)
        for column, kind in kinds.items():
            layout = planned.spec.column_layout(count, planned.spec.chunk_samples, kind)
            total += len(layout.encode_shard(values[column])) / count * len(here)
    return total


def _split_estimate(planned: ConversionPlan | CodePlan, name: str) -> SplitEstimate:
    split = planned.source.splits[name]
    here = planned.options.positions(len(split))
    classes = count_labels(split, here.start, here.stop)
    columns = dict(planned.columns(name))
    if classes is not None:
        columns = {LABELS: LABEL_COLUMN, **columns}
    shard = planned.spec.samples_per_shard(len(here), columns.values())
    return SplitEstimate(len(here), classes, tuple(columns), math.ceil(len(here) / shard))

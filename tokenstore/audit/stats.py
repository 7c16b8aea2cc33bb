"""The storage audit: where a store's bytes go, and how its codes are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from typing_extensions import Unpack

from tokenstore.audit.codes import (
    CodebookUse,
    CodeObserver,
    DistinctCounts,
    OnDamage,
    codebook_use,
    sampled_spans,
)
from tokenstore.audit.columns import BATCH_SIZE, StatsOptions, compute_columns, json_value
from tokenstore.audit.info import file_nbytes, file_sizes
from tokenstore.audit.overview import MILLION, Overview, overview
from tokenstore.codecs import bit_width
from tokenstore.errors import ArgumentError, DamageError, Parameter
from tokenstore.format import CODEBOOK, LABELS, ROOT, SYMMETRIES, SYNONYMS, TOKENS, Manifest
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath, as_store
from tokenstore.sources.options import OriginalsOptions, refuse_unknown

if TYPE_CHECKING:
    from tokenstore.audit.column_use import ColumnUse
    from tokenstore.audit.quality import SplitQuality
    from tokenstore.loading import Mixing
    from tokenstore.tokenizers.base import Tokenizer

LEAST_PROJECTED = 1000
"""The samples below which nothing is projected: files that do not grow with the samples weigh
most."""

_LISTED_CLASSES = 2**20
"""The most classes that counts are a list of; with larger labels, only labels that occur are counted."""
_LABELS_AT_ONCE = 2**20

_Made = TypeVar("_Made")

CONTEXT_MODEL = "context model"
"""The part that is the metadata of tokens, most of which is the model they are coded by."""


@dataclass(frozen=True)
class SplitAudit:
    """One split's samples, bytes and codes."""

    samples: int
    skipped: int
    codes_per_sample: int
    tokens_nbytes: int
    nbytes: int
    bits_per_code: float
    fixed_width_bits: int
    entropy_bits: float
    """The mean order-0 entropy over the codebooks."""
    source_nbytes: int | None
    codebooks: list[CodebookUse]
    class_counts: list[int] | dict[int, int] | None
    """The samples of each class by its index; of labels too large for a list, only those that occur."""
    counted_samples: int = 0
    """The samples whose codes were counted: all, but in a report of a very large or damaged store."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The values of the optional columns that were asked for, by name: see `tokenstore.audit.columns`."""

    @property
    def quality(self) -> SplitQuality | None:
        """The quality of reconstructions, if it was asked for."""
        return self.columns.get("quality")

    @property
    def shuffle(self) -> Mixing | None:
        """The mixing of the split by each order, if asked for; None if there is nothing to mix."""
        return self.columns.get("shuffle")

    @property
    def further(self) -> Mapping[str, ColumnUse] | None:
        """The values of each further column by its name, if they were asked for."""
        return self.columns.get("further")

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes, and the columns beside them, as JSON values."""
        sizes = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "columns"}
        sizes["codebooks"] = [asdict(use) for use in self.codebooks]
        return {**sizes, **{name: json_value(value) for name, value in self.columns.items()}}


@dataclass(frozen=True)
class StorageAudit:
    """A whole store's bytes, and its splits."""

    location: str
    codec: str
    nbytes: int
    nbytes_by_part: dict[str, int]
    samples: int
    source_nbytes: int | None
    million_nbytes: int | None
    """The bytes, about, of a million samples like the store's; None for a store of few samples."""
    splits: dict[str, SplitAudit]
    manifest: Manifest

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the store's classes, if it has any."""
        return self.manifest.class_names

    @property
    def overview(self) -> Overview:
        """The store and how small it is, as `tokenstore stats` and the report show it first."""
        return overview(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the audit and its overview as JSON values, without the manifest."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "manifest"}
        splits = {name: split.to_dict() for name, split in self.splits.items()}
        return {**values, "splits": splits, "overview": self.overview.to_dict()}


def stats(
    store: StorePath | TokenStore,
    *,
    quality: int | None = None,
    shuffle: bool = False,
    batch_size: int = BATCH_SIZE,
    shuffle_window: int | None = None,
    further: bool = False,
    images: StorePath | None = None,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **of_images: Unpack[OriginalsOptions],
) -> StorageAudit:
    """Audit `store`: every code is read and counted.

    Args:
        store: The store, or its path or URL.
        quality: The samples of each split to decode and compare with their images as the tokenizer saw them.
        shuffle: True to count the distinct classes and runs of samples in batches of each order, too.
        batch_size: The samples of these batches.
        shuffle_window: The samples in the window of the shuffle by blocks, by default TokenLoader's.
        further: True to read the further columns, too: empty and distinct values, numbers, lengths.
        images: The place of the images, by default that in the manifest.
        tokenizer: The store's tokenizer, by default the one that the manifest names.
        device: The device that a tokenizer given by its name runs on.
        storage_options: The options of a remote `store`.
        on_progress: Called with the samples counted so far and in all.
        **of_images: The options that the images are opened with.

    Raises ArgumentError for arguments without use, SourceError if no image can be compared, TokenizerError
    for a tokenizer that is unknown or not the store's, DamageError, and the errors of `tokenstore.open`.
    """
    refuse_unknown(of_images, OriginalsOptions.__annotations__, "stats")
    _check_arguments(quality, images=images, tokenizer=tokenizer, **of_images)
    opened = as_store(store, storage_options)
    asked = quality, shuffle, batch_size, shuffle_window, images, tokenizer, device, of_images, further
    return audit_store(opened, StatsOptions(*asked), on_progress)


def audit_store(
    store: TokenStore,
    options: StatsOptions,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    most_codes: int | None = None,
    observe: Callable[[str, int], CodeObserver] | None = None,
    on_damage: OnDamage | None = None,
) -> StorageAudit:
    """Audit an open store as `stats` does, and let others see its codes in the same pass.

    Of a store of more than `most_codes` codes, about as many are counted, in chunks evenly spaced over each
    split. `observe(split, samples)` returns the observer of a split's codes, of which it sees those of
    so many samples. With `on_damage`, which is called with each error, damaged chunks are not counted, and
    labels and columns that are damaged are left out. Raises what `stats` does.
    """
    # first: a missing image is said before hours of counting
    columns = _past_damage(on_damage, partial(compute_columns, store, options)) or {}
    manifest: Manifest = store.manifest
    total = sum(split.samples for split in manifest.splits.values())
    counted = {name: split.samples for name, split in manifest.splits.items()}
    if most_codes is not None and manifest.codes > most_codes:
        share = most_codes / manifest.codes
        counted = {name: math.ceil(samples * share) for name, samples in counted.items()}
    spans = {name: sampled_spans(store[name], counted[name]) for name in store.splits}
    counted = {name: sum(stop - start for start, stop in of_split) for name, of_split in spans.items()}
    splits: dict[str, SplitAudit] = {}
    done = 0
    for name in store.splits:
        report = partial(_report, on_progress, sum(counted.values()), done)
        observer = None if observe is None else observe(name, counted[name])
        of_split = columns.get(name, {})
        splits[name] = _audit_split(store, name, of_split, spans[name], report, observer, on_damage)
        done += counted[name]
    parts = _nbytes_by_part(store)
    return StorageAudit(
        location=store.files.storage.url,
        codec=", ".join(manifest.codecs),
        nbytes=sum(parts.values()),
        nbytes_by_part=parts,
        samples=total,
        source_nbytes=manifest.source_nbytes,
        million_nbytes=_projected(parts, total),
        splits=splits,
        manifest=manifest,
    )


def _projected(parts: Mapping[str, int], total: int) -> int | None:
    """Return the bytes, about, of a million samples; None for too few samples to tell."""
    if total < LEAST_PROJECTED:
        return None
    fixed = sum(parts.get(part, 0) for part in (CODEBOOK, SYNONYMS, SYMMETRIES, CONTEXT_MODEL))
    return fixed + round((sum(parts.values()) - fixed) / total * MILLION)


def _check_arguments(quality: int | None, **arguments: object) -> None:
    for name, value in arguments.items():
        if quality is None and value not in (None, False):
            idle, needed = Parameter(name), Parameter("quality")
            raise ArgumentError(f"{idle} goes with {needed}", parameters=[idle, needed])


def _report(on_progress: Callable[[int, int], None] | None, total: int, before: int, done: int) -> None:
    if on_progress is not None:
        on_progress(before + done, total)


def _audit_split(
    store: TokenStore,
    name: str,
    columns: Mapping[str, Any],
    spans: Sequence[tuple[int, int]],
    on_progress: Callable[[int], object],
    observer: CodeObserver | None,
    on_damage: OnDamage | None,
) -> SplitAudit:
    manifest: Manifest = store.manifest
    reader = store[name]
    summary = manifest.splits[name]
    codes_per_sample = math.prod(manifest.sample_shape)
    codebooks, counted = codebook_use(reader, spans, on_progress, observer, on_damage)
    tokens_nbytes = file_nbytes(store, f"{name}/{TOKENS}/")
    return SplitAudit(
        samples=summary.samples,
        skipped=summary.skipped,
        codes_per_sample=codes_per_sample,
        tokens_nbytes=tokens_nbytes,
        nbytes=file_nbytes(store, f"{name}/"),
        bits_per_code=8 * tokens_nbytes / max(1, summary.samples * codes_per_sample),
        fixed_width_bits=bit_width(manifest.codebook_size),
        entropy_bits=sum(use.entropy_bits for use in codebooks) / len(codebooks),
        source_nbytes=summary.source_bytes,
        codebooks=codebooks,
        class_counts=_past_damage(on_damage, partial(_class_counts, reader, manifest)),
        counted_samples=counted,
        columns=columns,
    )


def _past_damage(on_damage: OnDamage | None, made: Callable[[], _Made]) -> _Made | None:
    """Return what `made` returns; None after damage, if there is someone to call with its error."""
    try:
        return made()
    except DamageError as error:
        if on_damage is None:
            raise
        on_damage(error)
        return None


def _class_counts(reader: SplitReader, manifest: Manifest) -> list[int] | dict[int, int] | None:
    if LABELS not in reader.columns or not len(reader):
        return None
    column, counted = reader.array(LABELS).streamed(), DistinctCounts()
    for start in range(0, len(reader), _LABELS_AT_ONCE):
        counted.add(column.read_range(start, min(start + _LABELS_AT_ONCE, len(reader))))
    labels, counts = counted.values, counted.counts
    classes = max(int(labels[-1]) + 1, 0 if manifest.class_names is None else len(manifest.class_names))
    if labels[0] < 0 or classes > _LISTED_CLASSES:
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))
    listed = np.zeros(classes, np.int64)
    listed[labels] = counts
    return [int(count) for count in listed]


def _nbytes_by_part(store: TokenStore) -> dict[str, int]:
    manifest: Manifest = store.manifest
    parts: dict[str, int] = {}
    for path, nbytes in file_sizes(store):
        first, *rest = path.split("/")
        if path.endswith(f"/{TOKENS}/{ROOT}") and manifest.has_codec_tables:
            part = CONTEXT_MODEL
        elif path.endswith(ROOT):
            part = "metadata"
        elif first in (CODEBOOK, SYNONYMS, SYMMETRIES):
            part = first
        else:
            part = rest[0].replace(".parquet", " table")
        parts[part] = parts.get(part, 0) + nbytes
    parts["metadata"] = parts.get("metadata", 0) + store.files.root_nbytes
    return dict(sorted(parts.items(), key=lambda item: -item[1]))

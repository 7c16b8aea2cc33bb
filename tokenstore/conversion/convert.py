"""Conversion: a source and a tokenizer in, a store out.

Samples are taken in the source's order. A sample that cannot be read is reported and left out, together
with its label. A shard is a pure function of the source, the tokenizer and the position it begins at:
batches never reach over the end of a shard, so a conversion that was killed and resumed gives the same
bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.conversion.images import ImageConversion
from tokenstore.errors import ConversionError, SourceError, TokenizerError
from tokenstore.format.layout import LABELS
from tokenstore.format.manifest import Manifest, Preprocessing, TokenizerIdentity
from tokenstore.format.tables import Column, Skip, samples_table
from tokenstore.machine import available_cores
from tokenstore.reading.reader import TokenStore
from tokenstore.reading.store_files import Store
from tokenstore.sources.base import CodeSource, CodeSplit, ImageSource, MaskedSplit, Source, Split
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.sources.masks import LARGEST_VALUE, MaskDecoder
from tokenstore.storage.places import STAGING, Storage
from tokenstore.tokenizers import load_codebook
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of
from tokenstore.writing.choices import CHUNK_SAMPLES, MIN_DECODE_RATE
from tokenstore.writing.codec_choice import CodecChoice
from tokenstore.writing.operations import rewrite_into, skips_of
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import SplitWriter, StoreWriter

OnError: TypeAlias = Literal["limit", "skip", "fail"]
WHOLE = f"{STAGING}/.whole"
"""Where a store whose codebook is pruned, or whose codec its codes choose, is whole first; no split's
journal can have that name."""
_SCAN_SAMPLES = 4096


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion is to do; all but `batch_size`, `workers` and `on_error` decide the store's bytes."""

    codec: str = "bitpack"
    """bitpack, zstd, context, or auto: the smallest of these. The last two take the store's size twice
    meanwhile."""
    min_decode_rate: float = MIN_DECODE_RATE
    """Samples a second and core that what `auto` chooses has to decode at."""
    chunk_samples: int = CHUNK_SAMPLES
    shard_samples: int | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = None
    on_error: OnError = "limit"
    """Bad samples: skip and report up to 1 % of a split and fail beyond, skip any number, or fail at one."""
    image_size: int | None = None
    resize: Resize = "squash"
    max_pixels: int = ImageOptions(1).max_pixels
    mask_size: int | None = None
    """Side of the label maps, where the source has some; by default that of the images."""
    ignore_index: int = LARGEST_VALUE
    """The value of the label maps' pixels that have no class."""
    prune_codebook: bool = False
    """Keep only codes that occur, numbered anew; takes the store's size twice while it is done."""
    codebook_size: int | None = None
    """For codes whose source does not say; else the largest code + 1."""
    batch_size: int = 32
    workers: int = field(default_factory=available_cores)


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: samples of the source dealt with, of `total`, in one split."""

    split: str
    done: int
    total: int
    skipped: int


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    manifest: Manifest
    nbytes: int
    """Bytes of all files of the store."""
    skipped: Mapping[str, Sequence[Skip]]
    resumed_at: Mapping[str, int]
    """The first sample of each split that was not yet in the store."""
    already_complete: bool = False
    codec_reason: str | None = None
    """Why a codec was chosen, where `context` or `auto` was asked for."""


OnProgress: TypeAlias = Callable[[Progress], None]


def convert(
    source: Source,
    out: str | os.PathLike[str] | Storage,
    *,
    tokenizer: Tokenizer | None = None,
    tokenizer_spec: str | None = None,
    options: ConvertOptions | None = None,
    resume: bool = False,
    codebook: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Conversion:
    """Convert a source to a store at `out`: a folder, a `.zip` file or an fsspec URL, or a Storage of one.

    Images need a `tokenizer`; codes are stored as they are, with the vectors in the file `codebook` or those
    the source has. Whatever stops a conversion, it leaves a store that `resume=True` goes on with.

    Raises SourceError, TokenizerError, StoreExistsError, and ConversionError for too many bad samples or
    for a store that was begun with other inputs.
    """
    options = options or ConvertOptions()
    target = out if isinstance(out, Storage) else Storage(out, storage_options)
    if resume and finish_commit(target):
        store = Store(target.reopened())
        return Conversion(store.manifest, store.nbytes, {}, {}, already_complete=True)
    names = _chosen_splits(source, options.splits)
    if isinstance(source, ImageSource):
        if tokenizer is None:
            raise TokenizerError("a source of images needs a tokenizer, found none")
        encoder = _encoder(source, tokenizer, options)
        spec = _image_spec(source, encoder, options, tokenizer_spec)
    else:
        spec = _code_spec(source, names, options, codebook)
    inputs = _inputs(source, names, spec, options)
    if options.prune_codebook or options.codec in ("context", "auto"):
        with StoreWriter(target, spec, resume=resume, inputs=inputs) as writer:
            staged = writer.storage.below(WHOLE)
            whole = convert(
                source,
                staged,
                tokenizer=tokenizer,
                tokenizer_spec=tokenizer_spec,
                options=replace(options, prune_codebook=False, codec="bitpack"),
                resume=resume,
                codebook=codebook,
                on_progress=on_progress,
            )
            complete = TokenStore(Store(staged))
            reasons: list[CodecChoice] = []
            skips: dict[str, list[Skip]] = {name: skips_of(complete[name]) for name in complete.splits}
            manifest = rewrite_into(
                writer,
                complete,
                codec=options.codec,
                min_decode_rate=options.min_decode_rate,
                prune=options.prune_codebook,
                shard_samples=options.shard_samples,
                on_progress=partial(_report_rewriting, on_progress),
                on_choice=reasons.append,
            )
        nbytes = Store(target.reopened()).nbytes
        return Conversion(manifest, nbytes, skips, whole.resumed_at, codec_reason=str(reasons[0]))
    skipped: dict[str, list[Skip]] = {}
    resumed_at: dict[str, int] = {}
    with StoreWriter(target, spec, resume=resume, inputs=inputs) as writer:
        for name in names:
            split = source.splits[name]
            listed = len(split) if options.limit is None else min(options.limit, len(split))
            labels = split.labels(0, 0) is not None
            progress = _Reporter(name, listed, on_progress)
            if isinstance(source, ImageSource):
                part = writer.split(name, listed, labels=labels, columns=encoder.columns)
                resumed_at[name] = part.source_position
                allowed = _allowed(options, listed)
                conversion = ImageConversion(source.splits[name], part, encoder, source.class_names, allowed)
                conversion.run(listed, options.batch_size, options.workers, progress)
            else:
                part = writer.split(name, listed, labels=labels, columns=_columns(source.splits[name]))
                resumed_at[name] = part.source_position
                _convert_codes(source.splits[name], part, listed, source.class_names, progress)
            skipped[name] = part.skipped
        if not any(part.samples for part in writer.splits):
            raise ConversionError(
                f"{source.location}: no sample could be converted; the first reason: "
                f"{next((s.reason for part in skipped.values() for s in part), 'none listed')}"
            )
        manifest = writer.commit()
    return Conversion(manifest, Store(target.reopened()).nbytes, skipped, resumed_at)


def _report_rewriting(on_progress: OnProgress | None, what: str, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(Progress(what, done, total, 0))


class _Reporter:
    def __init__(self, split: str, total: int, on_progress: OnProgress | None) -> None:
        self._split, self._total, self._on_progress = split, total, on_progress

    def __call__(self, done: int, skipped: int) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._split, done, self._total, skipped))


def _convert_codes(
    split: CodeSplit,
    part: SplitWriter,
    listed: int,
    class_names: tuple[str, ...] | None,
    progress: Callable[[int, int], None],
) -> None:
    while (start := part.source_position) < listed:
        progress(start, 0)
        stop = min(start + part.shard_samples, listed)
        labels = split.labels(start, stop)
        columns = {name: np.asarray(split.column(name, start, stop)) for name in split.columns}
        if labels is not None:
            columns[LABELS] = labels
        rows = samples_table(np.arange(start, stop), split.names(start, stop), labels, class_names)
        part.write_shard(split.codes(start, stop), columns, rows, stop, [])
    progress(listed, 0)


def _allowed(options: ConvertOptions, listed: int) -> tuple[int, str] | None:
    """How many samples may be bad, and why; None for any number."""
    return {"limit": (listed // 100, f"1 % of {listed:,}"), "skip": None, "fail": (0, "--on-error fail")}[
        options.on_error
    ]


def _chosen_splits(source: Source, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    missing = [name for name in wanted or () if name not in source.splits]
    if missing:
        raise SourceError(f"{source.location}: no split {missing[0]!r}; it has {', '.join(source.splits)}")
    return wanted or tuple(name for name in source.splits if len(source.splits[name]))


def _encoder(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions) -> Encoder:
    images = ImageOptions(options.image_size or tokenizer.image_size, options.resize, options.max_pixels)
    masked = any(isinstance(split, MaskedSplit) for split in source.splits.values())
    masks = MaskDecoder(images, options.mask_size or images.height, options.ignore_index)
    return Encoder(tokenizer, images, masks if masked else None)


def _image_spec(
    source: ImageSource, encoder: Encoder, options: ConvertOptions, tokenizer_spec: str | None
) -> StoreSpec:
    tokenizer, images = encoder.tokenizer, encoder.options
    return StoreSpec(
        grid=encoder.grid,
        codebook_sizes=tokenizer.codebook_sizes,
        tokenizer=identity_of(tokenizer, tokenizer_spec),
        codec="bitpack" if options.codec == "auto" else options.codec,  # auto is chosen when codes are there
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        preprocessing=Preprocessing(images.height, images.width, images.resize),
        ignore_index=None if encoder.masks is None else encoder.masks.ignore_index,
        source_kind=source.kind,
        source_location=public_location(source.location),
        codebook=tokenizer.codebook,
    )


def _code_spec(
    source: CodeSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    codebook: str | Path | None,
) -> StoreSpec:
    vectors = source.codebook
    path = codebook or source.codebook_path
    if path is not None:
        vectors = load_codebook(path)
    if options.codebook_size is not None:
        sizes: tuple[int, ...] = (options.codebook_size,)
    elif source.codebook_sizes is not None:
        sizes = source.codebook_sizes
    elif vectors is not None:
        sizes = (vectors.shape[-2],) * (vectors.shape[0] if vectors.ndim == 3 else 1)
    else:
        sizes = (1 + max(_largest_code(source.splits[name], options.limit) for name in names),)
    return StoreSpec(
        grid=source.grid,
        codebook_sizes=sizes,
        tokenizer=TokenizerIdentity(
            source.tokenizer_name, None if vectors is None else codebook_fingerprint(vectors)
        ),
        codec="bitpack" if options.codec == "auto" else options.codec,  # auto is chosen when codes are there
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        source_kind=source.kind,
        source_location=public_location(source.location),
        codebook=vectors,
        synonyms=source.synonyms,
    )


def codebook_fingerprint(vectors: npt.NDArray[np.float32]) -> str:
    """SHA-256 (hex) of a codebook's shape and little-endian float32 values."""
    digest = hashlib.sha256(str(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors, "<f4").tobytes())
    return digest.hexdigest()


def public_location(location: str) -> str:
    """A location without the user and password that a URL may have."""
    return re.sub(r"(?<=://)[^/@]*@", "", location)


def _largest_code(split: CodeSplit, limit: int | None) -> int:
    samples = len(split) if limit is None else min(limit, len(split))
    blocks = range(0, samples, _SCAN_SAMPLES)
    return max((int(split.codes(b, min(b + _SCAN_SAMPLES, samples)).max()) for b in blocks), default=0)


def _columns(split: CodeSplit) -> dict[str, Column]:
    return {name: Column(np.dtype(dtype), shape) for name, (dtype, shape) in split.columns.items()}


def _inputs(
    source: Source, names: tuple[str, ...], spec: StoreSpec, options: ConvertOptions
) -> dict[str, Any]:
    """All that decides the store's bytes, as JSON values."""
    free = ("batch_size", "workers", "on_error")
    decisions = {name: value for name, value in asdict(options).items() if name not in free}
    names_digest = hashlib.sha256(repr(source.class_names).encode()).hexdigest()
    splits: dict[str, Split] = {name: source.splits[name] for name in names}
    return {
        "source": {"kind": source.kind, "splits": {n: [len(s), s.fingerprint()] for n, s in splits.items()}},
        "tokenizer": str(spec.tokenizer),
        "computed": [spec.tokenizer.device, spec.tokenizer.dtype],
        "grid": spec.grid,
        "codebook_sizes": spec.codebook_sizes,
        "class_names": names_digest,
        **decisions,
    }

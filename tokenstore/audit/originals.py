"""The images that a store was made from, as far as they are still to be had.

A sample is looked for by its position in the source, then by its name. The manifest says where the images
were and how they were preprocessed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import Unpack

from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.format import VIEW_BOXES, Manifest
from tokenstore.reading import Indices, TokenStore, normalised
from tokenstore.reading.open import StorePath
from tokenstore.sources import KINDS, Source, load_kind, open_source
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.images import Decoder, ImageOptions, PixelDecoder
from tokenstore.sources.options import OriginalsOptions
from tokenstore.sources.views import BoxDecoder, FixedDecoder, ViewDecoder
from tokenstore.tokenizers import options_of

BATCH = 32
"""The samples that are decoded or encoded at once unless the caller says otherwise."""

_IMAGES = Parameter("images")

Inputs: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Originals:
    """The images that some samples were made from, as far as they can still be read."""

    inputs: list[Inputs | None]
    """Each sample's image (H, W, 3) uint8, of all views (V, H, W, 3), or the decoder's result for its file;
    None for a missing one."""
    reason: str | None = None
    """The reason why the first missing image is missing."""
    changed_files: int = 0
    """The number of files whose size in bytes is not that of the conversion."""

    @property
    def missing(self) -> int:
        """The number of samples whose image cannot be read."""
        return sum(image is None for image in self.inputs)


@dataclass(frozen=True)
class ComparedSamples:
    """The samples of a split that were compared with their images."""

    samples: int = 0
    missing: int = 0
    """The number of samples whose image cannot be read."""
    reason: str | None = None
    """The reason why the first missing image is missing."""
    changed_files: int = 0
    """The number of image files whose size in bytes is not that of the conversion."""


def read_originals(
    store: TokenStore,
    split: str,
    indices: object,
    source: ImageSource | StorePath | None = None,
    decoder: Decoder | None = None,
    *,
    all_views: bool = False,
    **options: Unpack[OriginalsOptions],
) -> Originals:
    """Read the source's images of the samples at `indices` (m,), preprocessed as the manifest says.

    Of a store with views, an image is the part that view 0 shows, or with `all_views` those of all views.

    `source` is the place of the images, or the source itself; None means the place in the manifest. `options`
    are those of opening the place. A sample is found by its position in the source, or by its name if
    another image has that position now. `decoder` turns files into a tokenizer's inputs, for tokenizers of
    other inputs than pixels. An image that cannot be read is None in the result, with a reason.

    Raises IndexError for an index out of range, DamageError for a damaged samples table, and ManifestError
    for preprocessing that this version does not know.
    """
    positions = normalised(indices, len(store[split]))
    try:
        if source is None or isinstance(source, str | os.PathLike):
            source = open_images(store.manifest, source, folder_of(store), **options)
        part = _same_split(store, split, source)
        decoders = _decoders(store, split, positions, decoder, all_views)
    except SourceError as error:
        return Originals([None] * len(positions), str(error))
    rows = store[split].samples_table().take(pa.array(positions))
    names = rows["source"].to_pylist()
    places = _places(part, rows["source_index"].to_pylist(), names)
    inputs: list[Inputs | None] = []
    reasons, changed = [], 0
    sizes = rows["source_bytes"].to_pylist()
    for place, name, nbytes, decode in zip(places, names, sizes, decoders, strict=True):
        try:
            data = _read_file(part, place)
            out = np.empty(decode.shape, decode.dtype)
            decode.decode(data, out)
            if isinstance(decode, ViewDecoder):
                out = decode.pixels(out[None])[0] if all_views else decode.pixels(out[None])[0, 0]
        except SampleError as error:
            inputs.append(None)
            reasons.append(f"{source.location}: {name}: {error}")
            continue
        inputs.append(out)
        changed += nbytes is not None and nbytes != len(data)
    return Originals(inputs, reasons[0] if reasons else None, changed)


def open_images(
    manifest: Manifest,
    location: StorePath | None = None,
    near: Path | None = None,
    **options: Unpack[OriginalsOptions],
) -> ImageSource:
    """Open the source of a store's images: at `location`, or at the place that the manifest names.

    `options` are those that the conversion needed to find the images. A relative place in the manifest is
    looked for from the working folder, then from the folder `near`.

    Raises SourceError if the store was not made of images, or the images are not at that place.
    """
    if manifest.preprocessing is None:
        raise SourceError("the store was made of ready codes: there are no images it could be compared with")
    where = manifest.source_location if location is None else os.fspath(location)
    if where is None:
        raise SourceError(
            f"the store's manifest does not say where its images were; name the place by {_IMAGES}",
            parameters=[_IMAGES],
        )
    if location is None and near is not None and not Path(where).exists() and (near / where).exists():
        where = str(near / where)
    try:
        source = _open_unlabelled(where, manifest.source_kind, options)
    except SourceError as error:
        if location:
            raise
        raise SourceError(
            f"{error}. If the images are elsewhere now, name the place by {_IMAGES}",
            parameters=[*error.parameters, _IMAGES],
        ) from error
    if source.images is None:
        raise SourceError(f"{where}: expected the images that the store was made of, found codes")
    return source.images


def _open_unlabelled(where: str, kind: str | None, options: OriginalsOptions) -> Source:
    """List a source without labels, which originals do not need and which may have been left out before."""
    if kind in KINDS and "no_labels" in load_kind(kind).options:
        return open_source(where, kind, no_labels=True, **options)
    return open_source(where, kind, **options)


def folder_of(store: TokenStore) -> Path | None:
    """Return the folder that a store is in, or None for a store that is not on this machine."""
    root: Path | None = store.files.storage.root
    return None if root is None else root.parent


def image_options(manifest: Manifest) -> ImageOptions:
    """Return how a store's images were preprocessed.

    Raises SourceError for a store of ready codes, ManifestError for steps that this version does not know.
    """
    steps = manifest.preprocessing
    if steps is None:
        raise SourceError("the store was made of ready codes: its manifest has no preprocessing of images")
    return options_of(steps, "manifest.preprocessing")


def _decoders(
    store: TokenStore, split: str, positions: Indices, decoder: Decoder | None, all_views: bool
) -> Sequence[Decoder]:
    """Return the decoder of each sample's file: one for all, unless samples have boxes of views of their own.

    Raises SourceError for views of which nobody knows the boxes.
    """
    views = store.manifest.views
    if decoder is None and views is None:
        decoder = PixelDecoder(image_options(store.manifest))
    elif decoder is None and views is not None and views.boxes is not None:
        decoder = FixedDecoder(image_options(store.manifest), views.boxes)
    if decoder is not None:
        return [decoder] * len(positions)
    if VIEW_BOXES not in store[split].arrays:
        raise SourceError(f"split {split}: nobody knows where its views are in their images: it has no boxes")
    options = image_options(store.manifest)
    boxes = store[split].read(VIEW_BOXES, positions)[:, : None if all_views else 1].tolist()
    return [BoxDecoder(options, tuple(map(tuple, each))) for each in boxes]


def evenly_spaced(samples: int, count: int) -> Indices:
    """Return up to `count` indices (m,) int64 of `samples`, evenly spaced from the first one on."""
    count = min(samples, count)
    return np.arange(count, dtype=np.int64) * samples // max(1, count)


class Comparison:
    """A pass over samples of one split and their images that counts what it could compare."""

    def __init__(
        self,
        store: TokenStore,
        split: str,
        source: ImageSource,
        decoder: Decoder | None = None,
        *,
        all_views: bool = False,
    ) -> None:
        self._store, self._split = store, split
        self._source, self._decoder, self._all_views = source, decoder, all_views
        self.counts: dict[str, Any] = {"samples": 0, "missing": 0, "reason": None, "changed_files": 0}
        """The fields of a ComparedSamples."""

    def batches(self, count: int) -> Iterator[tuple[Indices, Inputs]]:
        """Yield indices (m,) and inputs (m, ...) of up to `count` evenly spaced samples.

        Inputs are the decoder's, or without one images (H, W, 3) of view 0 or (V, H, W, 3) of all views.

        Samples whose image is missing are left out and counted. Raises like `read_originals`.
        """
        indices, counts = evenly_spaced(len(self._store[self._split]), count), self.counts
        for start in range(0, len(indices), BATCH):
            here = indices[start : start + BATCH]
            originals = read_originals(
                self._store, self._split, here, self._source, self._decoder, all_views=self._all_views
            )
            readable = np.array([image is not None for image in originals.inputs])
            counts["samples"] += int(readable.sum())
            counts["missing"] += originals.missing
            counts["reason"] = counts["reason"] or originals.reason
            counts["changed_files"] += originals.changed_files
            if readable.any():
                yield here[readable], np.stack([image for image in originals.inputs if image is not None])


def check_some_compared(splits: Mapping[str, ComparedSamples]) -> None:
    """Raise SourceError, with the first reason, unless some sample of some split was compared."""
    if not any(split.samples for split in splits.values()):
        reasons = [split.reason for split in splits.values() if split.reason is not None]
        raise SourceError(
            f"expected images to compare the store with, found none: {[*reasons, 'it has no samples'][0]}. "
            f"If they are elsewhere now, name the place by {_IMAGES}",
            parameters=[_IMAGES],
        )


def _same_split(store: TokenStore, split: str, source: ImageSource) -> ImageSplit:
    # subtle: a source with no folders for splits takes its split from its name, which moving may change
    if split in source.splits:
        return source.splits[split]
    if len(source.splits) == len(store.splits) == 1:
        return next(iter(source.splits.values()))
    raise SourceError(f"{source.location}: expected a split {split!r}, found {', '.join(source.splits)}")


def _places(part: ImageSplit, indices: Sequence[int], names: Sequence[str]) -> list[int | None]:
    """Return the samples' positions in a source's split now, None for a sample that is gone."""
    places: list[int | None] = [
        index if index < len(part) and part.names(index, index + 1)[0].as_py() == name else None
        for index, name in zip(indices, names, strict=True)
    ]
    if None in places:
        named = pc.index_in(pa.array(names, pa.string()), part.names(0, len(part))).to_pylist()
        places = [by_name if place is None else place for place, by_name in zip(places, named, strict=True)]
    return places


def _read_file(part: ImageSplit, place: int | None) -> bytes:
    """Read the bytes of a sample's file; raises SampleError if it is gone or cannot be read."""
    if place is None:
        raise SampleError("no longer there under this name")
    (data,) = part.request(place, place + 1).read()
    if isinstance(data, SampleError):
        raise data
    return data

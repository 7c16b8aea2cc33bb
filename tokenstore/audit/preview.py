"""The preview of a store: samples on one sheet, as images, as their codes decode, and their label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from typing_extensions import Unpack

from tokenstore.audit.originals import evenly_spaced, read_originals
from tokenstore.audit.pictures import coloured_map, image_path, save_image
from tokenstore.audit.reconstruct import (
    Images,
    decode_samples,
    positions_of,
    split_with_samples,
    tokenizer_for,
)
from tokenstore.augment import augmented_examples, load_adapter
from tokenstore.errors import AdapterError, ArgumentError, Parameter
from tokenstore.format import MASKS, TOKENS
from tokenstore.reading import Indices, SplitReader, TokenStore
from tokenstore.reading.open import StorePath, as_store
from tokenstore.sheet import GAP, draw_sheet
from tokenstore.sources.options import OriginalsOptions, refuse_unknown
from tokenstore.texts import printable
from tokenstore.tokenizers.base import Tokenizer

SAMPLES = 16
"""The number of samples on a sheet unless the caller says otherwise."""
AUGMENTED_SAMPLES = 4
"""The number of samples on a sheet of augmented samples, each of which has more images."""
AS_STORED = "codes as stored"
"""The name of a sample's first image on a sheet of augmented samples: its decoded codes, no photograph."""
_FRAMES = 4
"""The frames of a video that a sheet shows."""


@dataclass(frozen=True)
class Preview:
    """A sheet of samples, and how many of their original images are on it."""

    image: Image.Image
    path: Path | None
    """The file that the sheet was written to."""
    split: str
    indices: Indices
    """The samples (m,) int64, counted from the split's first."""
    headings: tuple[str, ...] = ()
    """The names of a sample's images on a sheet of augmented samples."""
    missing: int = 0
    """The number of samples whose original image cannot be read."""
    reason: str | None = None
    """The reason why the first of them is missing."""
    label_maps: bool = False
    """True if each sample's label map is on the sheet, behind its decoded codes."""

    @property
    def originals(self) -> int:
        """The number of samples whose original image is on the sheet."""
        return 0 if self.headings else len(self.indices) - self.missing


def preview(
    store: StorePath | TokenStore,
    out: StorePath | None = None,
    *,
    split: str | None = None,
    indices: Sequence[int] | Indices | None = None,
    count: int | None = None,
    columns: int | None = None,
    augment: Literal["seitpp"] | None = None,
    adapter: str = "default",
    images: StorePath | None = None,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    **of_images: Unpack[OriginalsOptions],
) -> Preview:
    """Draw samples of `store` on one sheet: each image if it can still be read, and what its codes give.

    Of a store with views, view 0 is shown. A store with label maps (the array `masks`) has each sample's
    beside them, a colour a class; pixels of the ignored label are white.

    Args:
        store: The store, or its path or URL.
        out: The file that the sheet is written to, PNG, JPEG or WebP by its ending; None for none.
        split: The split, by default the first that has samples.
        indices: The positions of the samples in the split.
        count: The number of evenly spaced samples, where no `indices` are given.
        columns: The samples side by side.
        augment: "seitpp" to show instead what the augmentation of SeiT++ makes of each sample's codes: as
            stored, a flip and a crop, naive and by TokenAdapt, and ColorAdapt.
        adapter: The file of that TokenAdapt's weights, or "default".
        images: The place of the images, by default that in the manifest.
        tokenizer: The tokenizer that decodes, by default the one that the manifest names.
        device: The device that a tokenizer given by its name runs on.
        storage_options: The options of a remote `store`.
        **of_images: The options that the images are opened with.

    Raises ArgumentError for arguments that exclude each other, an index out of range or a path that is no
    image's; StoreError for an unknown split, a store without samples or a sheet that is too large;
    TokenizerError and AdapterError if those do not fit the store; DamageError for damaged codes; OSError if
    the sheet cannot be written; and the errors of `tokenstore.open`.
    """
    refuse_unknown(of_images, OriginalsOptions.__annotations__, "preview")
    path = None if out is None else image_path(out)
    _check_arguments(indices, count, augment, adapter, {"images": images, **of_images})
    opened = as_store(store, storage_options)
    reader = split_with_samples(opened, split)
    count = count or (SAMPLES if augment is None else AUGMENTED_SAMPLES)
    positions = positions_of(reader, evenly_spaced(len(reader), count) if indices is None else indices)
    maker = tokenizer_for(opened.manifest, tokenizer, device)
    draw = _Drawing(opened, reader, positions, maker, columns)
    sheet = draw.beside_originals(images, of_images) if augment is None else draw.augmented(adapter)
    if path is not None:
        save_image(sheet.image, path)
    return replace(sheet, path=path)


def _check_arguments(
    indices: object,
    count: int | None,
    augment: str | None,
    adapter: str,
    of_images: Mapping[str, object],
) -> None:
    names = {name: Parameter(name) for name in ("indices", "count", "adapter", "augment")}
    if augment not in (None, "seitpp"):
        raise ArgumentError(f"augment: expected 'seitpp' or None, found {augment!r}")
    if indices is not None and count is not None:
        used = (names["indices"], names["count"])
        raise ArgumentError(f"expected {used[0]} or {used[1]}, found both", parameters=used)
    if adapter != "default" and augment is None:
        used = (names["adapter"], names["augment"])
        raise ArgumentError(f"{used[0]} goes with {used[1]}", parameters=used)
    given = next((name for name, value in of_images.items() if value not in (None, False)), None)
    if given is not None and augment is not None:
        used = (Parameter(given), names["augment"])
        raise ArgumentError(f"{used[0]} goes with a sheet without {used[1]}", parameters=used)


@dataclass(frozen=True)
class _Drawing:
    """The samples of a sheet and the tokenizer that decodes them."""

    store: TokenStore
    reader: SplitReader
    indices: Indices
    tokenizer: Tokenizer
    columns: int | None

    def beside_originals(self, place: StorePath | None, options: OriginalsOptions) -> Preview:
        """Draw each sample's image, if any can be read at `place`, and the image that its codes give."""
        split, indices = self.reader.name, self.indices
        rebuilt = [sample_strip(part) for part in decode_samples(self.store, split, indices, self.tokenizer)]
        originals = read_originals(self.store, split, indices, place, **options)
        samples: list[tuple[Images | None, ...]] = list(zip(originals.inputs, rebuilt, strict=True))
        if originals.missing == len(indices):
            samples = [(strip,) for strip in rebuilt]
        maps = self._maps([(strip.shape[0], strip.shape[1]) for strip in rebuilt])
        if maps is not None:
            samples = [(*images, drawn) for images, drawn in zip(samples, maps, strict=True)]
        sheet = draw_sheet(samples, captions(self.store, self.reader, indices), self.columns)
        missing, reason = originals.missing, originals.reason
        return Preview(
            sheet, None, split, indices, missing=missing, reason=reason, label_maps=maps is not None
        )

    def _maps(self, sizes: Sequence[tuple[int, int]]) -> list[Images] | None:
        """Draw the samples' label maps at the sizes (H, W) of their images; None for a store without any."""
        if MASKS not in self.reader.arrays:
            return None
        column = self.reader.column(MASKS)
        if len(column.shape) != 2 or column.dtype.kind not in "uib":
            return None
        ignored = self.store.manifest.ignore_index
        values = self.reader.read(MASKS, self.indices)
        return [coloured_map(each, size, ignored) for each, size in zip(values, sizes, strict=True)]

    def augmented(self, adapter: str) -> Preview:
        """Draw what augmentation makes of each sample."""
        examples = augmented_images(self.store, self.reader, self.indices, self.tokenizer, adapter)
        headings = tuple(examples)
        sheet = draw_sheet(
            list(zip(*examples.values(), strict=True)),
            captions(self.store, self.reader, self.indices),
            self.columns or 1,
            headings,
        )
        return Preview(sheet, None, self.reader.name, self.indices, headings)


def augmented_images(
    store: TokenStore, reader: SplitReader, indices: Indices, tokenizer: Tokenizer, adapter: str = "default"
) -> dict[str, Images]:
    """Decode samples' codes, as they are and as the augmentation of SeiT++ makes them: images (n, H, W, 3).

    The images are by the name of what was done. `adapter` is the file of TokenAdapt's weights, or "default".
    Raises AdapterError if it does not fit the store, DamageError for damaged codes.
    """
    view = None if store.manifest.views is None else 0
    codes = torch.from_numpy(reader.read(TOKENS, indices, view=view).astype(np.int64))
    stored = store.manifest.tokenizer
    identity = replace(stored, fingerprint=stored.fingerprint or tokenizer.fingerprint)
    loaded = load_adapter(adapter, tokenizer=identity)
    codebook = np.empty(0) if tokenizer.codebook is None else tokenizer.codebook
    expected, actual = (loaded.config.codebook_size, loaded.config.channels), codebook.shape
    if expected != actual or codes.ndim != 3:
        parameter = Parameter("adapter", adapter)
        raise AdapterError(
            f"{parameter}: it is for codes (H, W) and a codebook of {expected}; the store's are "
            f"{tuple(codes.shape[1:])} of {actual}. seitpp_models.adapter.train_tokenadapt trains one",
            parameters=[parameter],
        )
    examples = augmented_examples(codes, codebook, loaded, symmetries=store.symmetries)
    decoded = {name: tokenizer.decode(part) for name, part in ({AS_STORED: codes} | examples).items()}
    return {name: images.movedim(1, -1).cpu().numpy() for name, images in decoded.items()}


def captions(store: TokenStore, reader: SplitReader, indices: Indices) -> list[str]:
    """Return each sample's index, and its class if it has one."""
    if reader.labels is None:
        return [str(index) for index in indices]
    names = store.class_names
    labels = reader.labels[indices].tolist()
    texts = [str(label) if names is None else printable(names[label]) for label in labels]
    return [f"{index}  {text}" for index, text in zip(indices, texts, strict=True)]


def sample_strip(images: Images) -> Images:
    """Return an image (H, W, 3) as it is; of video (T, H, W, 3), some frames side by side."""
    if images.ndim == 3:
        return images
    frames = images[evenly_spaced(len(images), _FRAMES)]
    gap = np.full((frames.shape[1], GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1)

"""Samples of a store as images again: decoded in memory, or written as image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenstore.audit.originals import BATCH
from tokenstore.audit.pictures import FORMATS, save_image
from tokenstore.errors import ArgumentError, StoreError, did_you_mean
from tokenstore.format import TOKENS, Manifest
from tokenstore.reading import Indices, SplitReader, TokenStore, normalised
from tokenstore.reading.open import StorePath, as_store
from tokenstore.tokenizers.base import FileTokenizer, Tokenizer
from tokenstore.tokenizers.decoded import decoded_images
from tokenstore.tokenizers.store_tokenizer import fitted, tokenizer_of

Images: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reconstruction:
    """The image files that samples of a split were written as."""

    folder: Path
    split: str
    samples: int
    files: tuple[Path, ...]
    """The image files in the order of the samples; several for a sample of video."""


def reconstruct(
    store: StorePath | TokenStore,
    indices: Sequence[int] | Indices,
    out: StorePath,
    *,
    split: str | None = None,
    format: str = "png",
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
) -> Reconstruction:
    """Decode the samples of `store` at `indices` (m,) and write them as images `out`/INDEX.`format`.

    A sample of video gives `out`/INDEX-FRAME.`format` for each frame. A negative index counts from the end.
    The folder `out` is made if it is missing; images of these names are overwritten. `split` is by default
    the first that has samples, `tokenizer` the one that the manifest names.

    Raises ArgumentError for an index out of range or an unknown format, StoreError for an unknown split or a
    store without samples, TokenizerError if the tokenizer is unknown or is not the store's, DamageError for
    damaged codes, OSError if an image cannot be written, and the errors of `tokenstore.open`.
    """
    if f".{format}" not in FORMATS:
        expected = ", ".join(ending.removeprefix(".") for ending in FORMATS)
        near = did_you_mean(f".{format}", FORMATS)
        raise ArgumentError(f"format: expected one of {expected}; found {format!r}{near}")
    opened = as_store(store, storage_options)
    reader = split_with_samples(opened, split)
    positions = np.unique(positions_of(reader, indices))
    decoder = tokenizer_for(opened.manifest, tokenizer, device)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for start in range(0, len(positions), BATCH):
        here = positions[start : start + BATCH]
        for index, image in zip(
            here.tolist(), decode_samples(opened, reader.name, here, decoder), strict=True
        ):
            frames = [image] if image.ndim == 3 else list(image)
            for number, frame in enumerate(frames):
                name = f"{index}" if image.ndim == 3 else f"{index}-{number}"
                files.append(folder / f"{name}.{format}")
                save_image(Image.fromarray(frame), files[-1])
    return Reconstruction(folder, reader.name, len(positions), tuple(files))


def decode_samples(
    store: TokenStore, split: str, indices: object, tokenizer: Tokenizer, batch: int = BATCH
) -> Images:
    """Decode the samples at `indices` (m,) to images (m, H, W, 3) uint8, or to video (m, T, H, W, 3).

    The tokenizer decodes `batch` samples at a time, with the aligned columns it keeps beside the codes. Of a
    store with views, it decodes view 0.
    Raises IndexError for an index out of range, StoreError for an unknown split, DamageError for damaged
    codes, and TokenizerError if decoding gives anything but such images.
    """
    reader = store[split]
    positions = normalised(indices, len(reader))
    columns = tokenizer.columns if isinstance(tokenizer, FileTokenizer) else {}
    view = None if store.manifest.views is None else 0
    parts = []
    for start in range(0, max(1, len(positions)), batch):
        here = positions[start : start + batch]
        beside = {name: reader.read(name, here) for name in columns}
        parts.append(decoded_images(tokenizer, reader.read(TOKENS, here, view=view), beside))
    return np.concatenate(parts)


def tokenizer_for(manifest: Manifest, tokenizer: str | Tokenizer | None, device: str) -> Tokenizer:
    """Return the tokenizer of a store: loaded by its name, or by the manifest's, or an object that fits.

    `device` is that of a tokenizer loaded here. Raises TokenizerError if none is known, or it does not fit.
    """
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer_of(manifest, tokenizer, device)
    return fitted(manifest, tokenizer, trusted=True)


def split_with_samples(store: TokenStore, split: str | None = None) -> SplitReader:
    """Return a split by its name, or the first that has samples.

    Raises StoreError for an unknown name, and for a store without samples.
    """
    if split is None:
        split = next((name for name in store.splits if len(store[name])), None)
    if split is None:
        raise StoreError(f"{store.files.storage}: expected samples, found none in any split")
    return store[split]


def positions_of(reader: SplitReader, indices: Sequence[int] | Indices) -> Indices:
    """Return indices (m,) of a split counted from its first sample.

    Raises ArgumentError for an index out of range, StoreError for a split without samples.
    """
    samples = len(reader)
    if not samples:
        raise StoreError(f"split {reader.name} has no samples")
    outside = next((index for index in indices if not -samples <= index < samples), None)
    if outside is not None:
        raise ArgumentError(f"index {outside} is out of range: split {reader.name} has {samples:,} samples")
    return normalised(indices, samples)

"""The images that a tokenizer is trained on, as random crops, and those that are held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tokenstore.errors import Parameter, SampleError, SourceError, TokenizerError
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.detect import open_source
from tokenstore.sources.images import load_image

__all__ = ["Crops", "ImageRef", "ImageSet", "is_held_out", "list_images", "open_image_set", "open_images"]

HELD_OUT_SPLITS = frozenset({"val", "valid", "validation", "test"})
"""The splits that are held out whole."""
SMALL_SIDE = 128
"""The shorter side in pixels below which an image is a thumbnail, which is trained on pixel by pixel."""
CACHE_NBYTES = 2**31
"""The bytes of decoded images that `Crops` keeps in memory."""
_PROBED_IMAGES = 15
_LARGEST_ZOOM = 2.0
_BAD_DRAWS = 100


@dataclass(frozen=True)
class ImageRef:
    """One image of one split of a source."""

    split: ImageSplit
    index: int

    def data(self) -> bytes:
        """Read the image file's bytes; raise SampleError if that fails."""
        data = self.split.request(self.index, self.index + 1).read()[0]
        if isinstance(data, SampleError):
            raise data
        return data


@dataclass(frozen=True)
class ImageSet:
    """The images of some sources: to train on, and held out."""

    photographs: Sequence[ImageRef]
    thumbnails: Sequence[ImageRef]
    held_out_photographs: Sequence[ImageRef]
    held_out_thumbnails: Sequence[ImageRef]
    digest: str
    """A hex digest that changes when the listed images do."""
    locations: tuple[str, ...] = ()
    """The places of the sources, as the user named them."""


_NO_LABELS = Parameter("no_labels", True)


def is_held_out(name: str, share: float) -> bool:
    """Return whether an image is held out, which its file name alone decides."""
    digest = hashlib.sha256(PurePosixPath(name).name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def open_images(images: str | Path | ImageSource) -> ImageSource:
    """Return a source of images, opened if it is a path, without labels where they would be refused.

    Raises SourceError if it holds ready codes.
    """
    try:
        source = open_source(images) if isinstance(images, str | os.PathLike) else images
    except SourceError as error:
        if _NO_LABELS not in error.parameters:
            raise
        source = open_source(str(images), no_labels=True)
    if source.images is None:
        raise SourceError(f"{images}: expected images to train on, found ready codes ({source.kind})")
    return source.images


def list_images(sources: Sequence[ImageSource], held_out_share: float) -> ImageSet:
    """List the images of sources: splits named val or test are held out, and a share of all other images.

    Raises TokenizerError if nothing is left to train on.
    """
    photographs: list[ImageRef] = []
    thumbnails: list[ImageRef] = []
    held_out_photographs: list[ImageRef] = []
    held_out_thumbnails: list[ImageRef] = []
    digest = hashlib.sha256(repr(held_out_share).encode())
    for source in sources:
        for split_name, split in source.splits.items():
            digest.update(split.fingerprint().encode())
            refs = [ImageRef(split, index) for index in range(len(split))]
            small = _are_small(refs)
            training, held_out = (
                (thumbnails, held_out_thumbnails) if small else (photographs, held_out_photographs)
            )
            for ref, name in zip(refs, split.names(0, len(split)).to_pylist(), strict=True):
                out = split_name in HELD_OUT_SPLITS or is_held_out(name, held_out_share)
                (held_out if out else training).append(ref)
    if not photographs and not thumbnails:
        raise TokenizerError(
            f"expected images to train on, found none that is not held out in "
            f"{', '.join(source.location for source in sources)}"
        )
    return ImageSet(
        photographs,
        thumbnails,
        held_out_photographs,
        held_out_thumbnails,
        digest.hexdigest(),
        tuple(source.location for source in sources),
    )


def _are_small(refs: Sequence[ImageRef]) -> bool:
    """Return whether most of a few images are thumbnails."""
    sides = []
    for ref in refs[:: max(1, len(refs) // _PROBED_IMAGES)]:
        try:
            sides.append(min(load_image(ref.data()).size))
        except SampleError:
            continue
    return bool(sides) and float(np.median(sides)) < SMALL_SIDE


def open_image_set(
    images: str | Path | ImageSource | Sequence[str | Path | ImageSource], held_out: float
) -> ImageSet:
    """Open sources of images, or one of them, and list their images as `list_images` does.

    Raises SourceError for images that cannot be used.
    """
    places = [images] if isinstance(images, str | Path | ImageSource) else images
    return list_images([open_images(place) for place in places], held_out)


class Crops:
    """The batches of random crops, each a pure function of (seed, step).

    A batch is a list with crops (n, 3, side, side) uint8 of photographs and of thumbnails; a kind without
    images is left out. Photographs are resized in three ways: squashed to `image_size`, and with a shorter
    side of once and of five quarters of `image_size`. Thumbnails keep their size, or are enlarged up to
    twice. Decoded images stay in memory up to
    `CACHE_NBYTES`.

    Raises TokenizerError if there are no crops, or if a hundred images in a row cannot be read.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        image_size: int,
        photographs: int,
        photograph_crop: int,
        thumbnails: int,
        thumbnail_crop: int,
        enlarged_share: float,
        seed: int,
    ) -> None:
        self._kinds = [
            (refs, count, crop, views)
            for refs, count, crop, views in (
                (images.photographs, photographs, photograph_crop, ("squash", "shorter", "larger")),
                (images.thumbnails, thumbnails, thumbnail_crop, ("as it is",)),
            )
            if refs and count
        ]
        if not self._kinds:
            raise TokenizerError("expected crops of photographs or of thumbnails, found 0 of each")
        self._image_size = image_size
        self._enlarged_share = enlarged_share
        self._seed = seed
        self._cache: dict[tuple[int, int, str], Tensor] = {}
        self._room = CACHE_NBYTES

    def batches(self, start: int, stop: int) -> Iterator[list[Tensor]]:
        """Yield the batches of steps [start, stop), each made while the one before is used."""
        with ThreadPoolExecutor(1) as pool:
            following: Future[list[Tensor]] | None = None
            for step in range(start, stop):
                batch = self.batch(step) if following is None else following.result()
                following = pool.submit(self.batch, step + 1) if step + 1 < stop else None
                yield batch

    def batch(self, step: int) -> list[Tensor]:
        """Return the batch of a step."""
        rng = np.random.default_rng((self._seed, step))
        return [
            torch.stack([self._crop(kind, crop, rng) for _ in range(count)])
            for kind, (_, count, crop, _) in enumerate(self._kinds)
        ]

    def _crop(self, kind: int, crop: int, rng: np.random.Generator) -> Tensor:
        image = self._draw(kind, rng)
        least = max(1.0, crop / min(image.shape[1:]))
        views = self._kinds[kind][3]
        scale = (
            rng.uniform(least, max(_LARGEST_ZOOM, least)) if rng.random() < self._enlarged_share else least
        )
        if len(views) == 1 and scale != 1:
            sides = [max(crop, round(side * scale)) for side in image.shape[1:]]
            resized = F.interpolate(image[None].float(), sides, mode="bicubic", align_corners=False)
            image = resized[0].round().clamp(0, 255).to(torch.uint8)
        top, left = (int(rng.integers(side - crop + 1)) for side in image.shape[1:])
        image = image[:, top : top + crop, left : left + crop]
        return image.flip(2) if rng.random() < 0.5 else image

    def _draw(self, kind: int, rng: np.random.Generator) -> Tensor:
        refs, _, crop, views = self._kinds[kind]
        for _ in range(_BAD_DRAWS):
            index, view = int(rng.integers(len(refs))), views[rng.integers(len(views))]
            key = (kind, index, view)
            if key in self._cache:
                return self._cache[key]
            try:
                image = self._read(refs[index], view, crop)
            except SampleError:
                continue
            if image.nbytes <= self._room:
                self._room -= image.nbytes
                self._cache[key] = image
            return image
        raise TokenizerError(
            f"{_BAD_DRAWS} images drawn in a row cannot be read; `tokenstore convert` lists why"
        )

    def _read(self, ref: ImageRef, view: str, crop: int) -> Tensor:
        image = load_image(ref.data())
        if view != "as it is":
            shorter = max(crop, self._image_size * 5 // 4 if view == "larger" else self._image_size)
            scale = shorter / min(image.size)
            width, height = (max(shorter, round(side * scale)) for side in image.size)
            sides = (shorter, shorter) if view == "squash" else (width, height)
            image = image.resize(sides, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

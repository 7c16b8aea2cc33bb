"""The pairs that TokenAdapt learns from: tokens of images, and of the same images after augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tokenstore.augment import DrawnGeometry, Geometry
from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources.images import ImageOptions, load_image, resized
from tokenstore.tokenizers import Tokenizer
from tokenstore.tokenizers.train.images import ImageRef

__all__ = ["Pairs", "PairsBatch", "Pictures", "augmented_images"]

_BAD_DRAWS = 100


@dataclass(frozen=True)
class PairsBatch:
    """A batch of pairs of tokens (T_x, T_A(x)) of images x, with the augmentations A."""

    codes: Tensor
    """The codes of the images, (B, H, W) int64."""
    geometry: DrawnGeometry
    """The augmentations A, in the coordinates of f's map."""
    targets: Tensor
    """The codes of the augmented images, (B, h, w) int64."""


class Pictures:
    """A source of random pictures (3, side, side) uint8, drawn from images of any size.

    An image at least half as large as a picture gets its size as a conversion by `options` gives it: the same
    pixels. Smaller images would only be blur. So 2x2, 4x4 ... of them are laid side by side, each enlarged at
    most twice.
    """

    def __init__(self, refs: Sequence[ImageRef], options: ImageOptions) -> None:
        """Draw from images; `options` have the size of a square."""
        self._refs = refs
        self._options = options
        self._side = options.height

    def draw(self, rng: np.random.Generator) -> Tensor:
        """Draw a picture (3, side, side) uint8; raise TokenizerError if no image drawn can be read."""
        first = self._read(rng)
        shorter = min(first.size)
        most = max(1, self._side // max(1, shorter))
        tiles = 1
        while 2 * tiles <= most:
            tiles *= 2
        if tiles > 1 and rng.random() < 0.5:
            tiles //= 2
        if tiles == 1:
            return _pixels(resized(first, self._options))
        tile = ImageOptions(self._side // tiles, self._options.resize)
        images = [first, *(self._read(rng) for _ in range(tiles * tiles - 1))]
        sheet = Image.new("RGB", (tile.width * tiles, tile.height * tiles))
        for number, image in enumerate(images):
            row, column = divmod(number, tiles)
            sheet.paste(resized(image, tile), (tile.width * column, tile.height * row))
        return _pixels(resized(sheet, self._options))

    def _read(self, rng: np.random.Generator) -> Image.Image:
        for _ in range(_BAD_DRAWS):
            ref = self._refs[int(rng.integers(len(self._refs)))]
            try:
                return load_image(ref.data())
            except SampleError:
                continue
        raise TokenizerError(
            f"{_BAD_DRAWS} images drawn in a row cannot be read; `tokenstore convert` lists why"
        )


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels (3, H, W) uint8 of an image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Pairs(Dataset[PairsBatch]):
    """The batches of pairs of a run: `pairs[step]` is a pure function of (seed, step).

    One batch in `uncropped_every` has the whole grid, so that g also learns other sizes than a crop's.
    """

    def __init__(
        self,
        pictures: Pictures,
        tokenizer: Tokenizer,
        geometry: Geometry,
        map_grid: tuple[int, int],
        batch_size: int,
        uncropped_every: int,
        seed: int,
    ) -> None:
        self._pictures = pictures
        self._tokenizer = tokenizer
        self._geometry = geometry
        self._whole = Geometry(geometry.flip, geometry.affine)
        self._map_grid = map_grid
        self._batch_size = batch_size
        self._uncropped_every = uncropped_every
        self._seed = seed

    def __getitem__(self, step: int) -> PairsBatch:
        rng = np.random.default_rng((self._seed, step))
        images = torch.stack([self._pictures.draw(rng) for _ in range(self._batch_size)])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        uncropped = self._uncropped_every and step % self._uncropped_every == 0
        geometry = self._whole if uncropped else self._geometry
        drawn = geometry.draw(len(images), self._map_grid, generator)
        augmented = augmented_images(images, drawn)
        return PairsBatch(self._tokenizer.encode(images), drawn, self._tokenizer.encode(augmented))


def augmented_images(images: Tensor, geometry: DrawnGeometry) -> Tensor:
    """Return images (B, 3, H, W) uint8 after a geometry; H and W are multiples of the sides of its grid."""
    return geometry.apply(images.float() / 255).mul(255).round().clamp(0, 255).to(torch.uint8)

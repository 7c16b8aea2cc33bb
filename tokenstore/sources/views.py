"""The views that a conversion cuts from each image: how they are asked for, their boxes, and their decoders.

This module runs in decode processes, so it imports no torch.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from typing_extensions import override

from tokenstore.codecs.views import MAX_VIEWS, Box, Views
from tokenstore.errors import ArgumentError, Parameter, SampleError, did_you_mean
from tokenstore.randomness import hashed_key
from tokenstore.sources.images import Decoder, Pixels, decoding_reason, load_image, resized
from tokenstore.sources.options import ImageOptions

__all__ = [
    "BoxDecoder",
    "FixedDecoder",
    "FlipPair",
    "RandomCrops",
    "TenCrop",
    "ViewDecoder",
    "ViewRule",
    "parse_views",
]

LARGEST_FACTOR = 4.0
"""The most times that an image is larger than its ten crops."""
LEAST_SHARE = 0.08
"""The least share of the image that a random crop shows."""
WIDEST_ASPECT = 4 / 3
"""The most that a random crop is wider than high, or higher than wide, in a squashed image."""
_TRIES = 10
"""The draws of a crop that fits, after which it is the whole image."""
_FORMS = "'flip', 'ten-crop:FACTOR' such as ten-crop:1.1, or 'random:VIEWS' such as random:8"

Boxes = npt.NDArray[np.int32]


class ViewDecoder(Decoder):
    """A decoder of image files to the pixels of V views, each of one size (H, W)."""

    options: ImageOptions
    """The size of a view, and how images come to it."""

    @property
    @abstractmethod
    def views(self) -> Views:
        """The views, with their boxes where all samples have the same."""

    @abstractmethod
    def pixels(self, inputs: npt.NDArray[Any]) -> Pixels:
        """Return the pixels (n, V, H, W, 3) uint8 of decoded inputs (n, ...)."""

    @abstractmethod
    def boxes(self, inputs: npt.NDArray[Any]) -> Boxes | None:
        """Return the boxes (n, V, 5) of decoded inputs in pixels of the image; None for fixed boxes."""

    @abstractmethod
    def boxes_of(self, data: bytes, width: int, height: int) -> Boxes | None:
        """Return the boxes (V, 5) of a file whose image has that size in pixels; None for fixed boxes."""


@dataclass(frozen=True)
class FixedDecoder(ViewDecoder):
    """The decoder of views whose boxes lie in the resized image, the same for every image.

    The image is resized, by the rule of `options`, to the height and width that the boxes reach.
    """

    options: ImageOptions
    fixed: tuple[Box, ...]

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return (len(self.fixed), self.options.height, self.options.width, 3)

    @property
    @override
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    @override
    def views(self) -> Views:
        return Views(len(self.fixed), self.fixed)

    @override
    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        height = max(top + rows for top, _, rows, _, _ in self.fixed)
        width = max(left + columns for _, left, _, columns, _ in self.fixed)
        if height * width > self.options.max_pixels:
            raise SampleError(
                f"views of an image resized to {width} x {height} are of more than the "
                f"{self.options.max_pixels} pixels allowed"
            )
        image = load_image(data, self.options.max_pixels)
        size = (self.options.width, self.options.height)
        try:
            whole = resized(image, replace(self.options, size=(height, width)))
            for view, (top, left, rows, columns, mirrored) in zip(out, self.fixed, strict=True):
                part = whole.crop((left, top, left + columns, top + rows))
                pixels = np.asarray(
                    part if part.size == size else part.resize(size, Image.Resampling.BICUBIC)
                )
                view[:] = pixels[:, ::-1] if mirrored else pixels
        except Exception as error:
            raise SampleError(decoding_reason(error)) from error
        return image.width, image.height

    @override
    def pixels(self, inputs: npt.NDArray[Any]) -> Pixels:
        return inputs

    @override
    def boxes(self, inputs: npt.NDArray[Any]) -> None:
        return None

    @override
    def boxes_of(self, data: bytes, width: int, height: int) -> None:
        return None


@dataclass(frozen=True)
class _OwnBoxesDecoder(ViewDecoder):
    """A decoder of views whose boxes lie in the image itself, upright, and differ from image to image."""

    options: ImageOptions

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of views."""

    @abstractmethod
    @override
    def boxes_of(self, data: bytes, width: int, height: int) -> Boxes: ...

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    @override
    def dtype(self) -> np.dtype[Any]:
        pixels = (self.count, self.options.height, self.options.width, 3)
        return np.dtype([("pixels", np.uint8, pixels), ("boxes", np.int32, (self.count, 5))])

    @property
    @override
    def views(self) -> Views:
        return Views(self.count)

    @override
    def decode(self, data: bytes, out: npt.NDArray[Any]) -> tuple[int, int]:
        image = load_image(data, self.options.max_pixels)
        boxes = self.boxes_of(data, image.width, image.height)
        _check_inside(boxes, image)
        size = (self.options.width, self.options.height)
        try:
            for view, (top, left, rows, columns, mirrored) in zip(out["pixels"], boxes.tolist(), strict=True):
                place = (left, top, left + columns, top + rows)
                part = np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=place))
                view[:] = part[:, ::-1] if mirrored else part
        except Exception as error:
            raise SampleError(decoding_reason(error)) from error
        out["boxes"] = boxes
        return image.width, image.height

    @override
    def pixels(self, inputs: npt.NDArray[Any]) -> Pixels:
        pixels: Pixels = inputs["pixels"]
        return pixels

    @override
    def boxes(self, inputs: npt.NDArray[Any]) -> Boxes:
        boxes: Boxes = inputs["boxes"]
        return boxes


@dataclass(frozen=True)
class _RandomDecoder(_OwnBoxesDecoder):
    """The decoder of random crops."""

    rule: RandomCrops

    @property
    @override
    def count(self) -> int:
        return self.rule.count

    @override
    def boxes_of(self, data: bytes, width: int, height: int) -> Boxes:
        return self.rule.boxes_of(data, width, height, self.options)


@dataclass(frozen=True)
class BoxDecoder(_OwnBoxesDecoder):
    """The decoder of one sample's views, whose boxes in pixels of its image are known."""

    known: tuple[Box, ...]

    @property
    @override
    def count(self) -> int:
        return len(self.known)

    @override
    def boxes_of(self, data: bytes, width: int, height: int) -> Boxes:
        return np.array(self.known, np.int32)


def _check_inside(boxes: Boxes, image: Image.Image) -> None:
    """Raise SampleError for a box that does not lie in the image."""
    bottom, right = (boxes[:, axis] + boxes[:, axis + 2] for axis in (0, 1))
    if boxes.min() < 0 or boxes[:, 2:4].min() < 1 or bottom.max() > image.height or right.max() > image.width:
        raise SampleError(
            f"expected views inside an image of {image.width} x {image.height}, found boxes "
            f"{boxes.tolist()!r:.200}"
        )


class ViewRule(ABC):
    """A rule by which views are cut from every image; its text is what `parse_views` takes."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of views."""

    @abstractmethod
    def decoder(self, options: ImageOptions) -> ViewDecoder:
        """Return the decoder of views of the size of `options`; raise ArgumentError for unfit options."""


@dataclass(frozen=True)
class FlipPair(ViewRule):
    """The image as it is without views, and its mirror image."""

    def __str__(self) -> str:
        return "flip"

    @property
    @override
    def count(self) -> int:
        return 2

    @override
    def decoder(self, options: ImageOptions) -> FixedDecoder:
        plain = (0, 0, options.height, options.width)
        return FixedDecoder(options, ((*plain, 0), (*plain, 1)))


@dataclass(frozen=True)
class TenCrop(ViewRule):
    """Ten crops of an image that is enlarged by a factor: corners and centre, then those of its mirror image.

    The order is top left, top right, bottom left, bottom right, centre. Each of the last five is exactly the
    mirror image of one of the first five, also where the centre is between two pixels.
    """

    factor: float

    def __str__(self) -> str:
        return f"ten-crop:{self.factor!r}".removesuffix(".0")

    @property
    @override
    def count(self) -> int:
        return 10

    @override
    def decoder(self, options: ImageOptions) -> FixedDecoder:
        sides = options.height, options.width
        spare = [int(side * self.factor) - side for side in sides]
        if min(spare) < 1:
            named = Parameter("views", str(self))
            raise ArgumentError(
                f"{named}: expected crops smaller than the image, found both of {options.height} x "
                f"{options.width} pixels; give a larger factor",
                parameters=[named],
            )
        middle = [round(each / 2) for each in spare]
        places = [(top, left) for top in (0, spare[0]) for left in (0, spare[1])] + [(middle[0], middle[1])]
        plain = tuple((top, left, *sides, 0) for top, left in places)
        # subtle: the mirror image's corners on the left are the image's on the right
        mirrored = tuple((*plain[at][:4], 1) for at in (1, 0, 3, 2, 4))
        return FixedDecoder(options, plain + mirrored)


@dataclass(frozen=True)
class RandomCrops(ViewRule):
    """The image as it is without views, then crops at random places, each mirrored half of the time.

    Seed and the bytes of its file decide an image's crops. Each shows a share of the image that is drawn
    evenly between `LEAST_SHARE` and all. With the resize `squash` its sides are, against those of the
    image, up to `WIDEST_ASPECT` apart; with `crop` it has the shape of a view, so that nothing is squashed.
    """

    number: int
    seed: int = 0

    def __str__(self) -> str:
        return f"random:{self.number}" + (f":{self.seed}" if self.seed else "")

    @property
    @override
    def count(self) -> int:
        return self.number

    @override
    def decoder(self, options: ImageOptions) -> ViewDecoder:
        if options.resize == "pad":
            named = Parameter("resize", "pad")
            raise ArgumentError(
                f"{named}: random crops have no padding; take squash or crop", parameters=[named]
            )
        return _RandomDecoder(options, self)

    def boxes_of(self, data: bytes, width: int, height: int, options: ImageOptions) -> Boxes:
        """Return the boxes (V, 5) of an image file, whose image has that size in pixels."""
        file = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        largest = width, height
        if options.resize == "crop":
            scale = min(width / options.width, height / options.height)
            largest = max(1, round(scale * options.width)), max(1, round(scale * options.height))
        centre = [(height - largest[1]) // 2, (width - largest[0]) // 2, largest[1], largest[0], 0]
        boxes = [centre]
        for view in range(1, self.number):
            draw = _Draw((self.seed, file, view))
            columns, rows = draw.sides(largest, WIDEST_ASPECT if options.resize == "squash" else 1.0)
            top, left = draw.below(height - rows + 1), draw.below(width - columns + 1)
            boxes.append([top, left, rows, columns, draw.below(2)])
        return np.array(boxes, np.int32)


class _Draw:
    """The random numbers of one view, in order."""

    def __init__(self, key: tuple[int, ...]) -> None:
        self._key, self._drawn = key, 0

    def share(self) -> float:
        """Return a number in [0, 1)."""
        self._drawn += 1
        return (hashed_key(*self._key, self._drawn) >> 11) / 2**53

    def below(self, stop: int) -> int:
        """Return a whole number in [0, stop)."""
        return int(self.share() * stop)

    def sides(self, largest: tuple[int, int], widest: float) -> tuple[int, int]:
        """Return the width and height of a crop of an image whose largest crop has these sides."""
        for _ in range(_TRIES):
            area = LEAST_SHARE + (1 - LEAST_SHARE) * self.share()
            aspect = widest ** (2 * self.share() - 1)
            parts = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if max(parts) <= 1:
                return max(1, round(largest[0] * parts[0])), max(1, round(largest[1] * parts[1]))
        return largest


def parse_views(text: str) -> ViewRule:
    """Return the rule that a text such as `flip`, `ten-crop:1.1` or `random:8` asks for.

    `random:8:3` draws the crops of seed 3 instead of 0. Raises ArgumentError for another text.
    """
    name, *rest = str(text).split(":")
    try:
        match name, rest:
            case "flip", []:
                return FlipPair()
            case "ten-crop", [factor] if 1 < float(factor) <= LARGEST_FACTOR:
                return TenCrop(float(factor))
            case "random", [count] if 2 <= int(count) <= MAX_VIEWS:
                return RandomCrops(int(count))
            case "random", [count, seed] if 2 <= int(count) <= MAX_VIEWS and 0 <= int(seed) < 2**63:
                return RandomCrops(int(count), int(seed))
    except ValueError:
        pass
    named = Parameter("views")
    limits = {
        "ten-crop": f", with a factor above 1, up to {LARGEST_FACTOR:g}",
        "random": f", with 2 to {MAX_VIEWS} views, and a seed behind them if wanted: random:8:3",
    }
    near = limits.get(name) or did_you_mean(name, ("flip", *limits))
    raise ArgumentError(f"{named}: expected {_FORMS}, found {text!r}{near}", parameters=[named])

"""Label maps: a PNG file of class indices becomes values that lie over the pixels of an image's input."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tokenstore.errors import SampleError
from tokenstore.sources.images import (
    ImageOptions,
    Pixels,
    decoding_reason,
    pillow_to_ourselves,
    place,
    upright,
)

LARGEST_VALUE = 255
_DEPTH_BYTE = 24
"""Where a PNG file says how many bits a value has."""
_STRETCH = {bits: LARGEST_VALUE // (2**bits - 1) for bits in (2, 4)}
"""By what Pillow multiplies grey values of few bits."""


@dataclass(frozen=True)
class MaskDecoder:
    """Makes label maps (size, size) uint8 of files, by the geometry that images of `images` go through."""

    images: ImageOptions
    size: int
    ignore_index: int = LARGEST_VALUE
    """The value of pixels that have no class, among them those that the resize `pad` adds."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"mask size: expected at least 1 pixel a side, got {self.size}")
        if not 0 <= self.ignore_index <= LARGEST_VALUE:
            raise ValueError(f"ignore index: expected 0 to {LARGEST_VALUE}, got {self.ignore_index}")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size)

    def decode(self, data: bytes, width: int, height: int, out: Pixels) -> None:
        """Fill `out` with the label map of an image of that size. Raises SampleError.

        A value is that of the map's pixel in which the centre of the value's own pixel lies.
        """
        values = load_mask(data, self.images.max_pixels)
        if values.shape != (height, width):
            found = f"{values.shape[1]} x {values.shape[0]}"
            raise SampleError(
                f"expected its image's size, {width} x {height}, found {found}; give both as they were drawn"
            )
        box, corner, placed = place(width, height, self.images)
        columns = _nearest(self.size, self.images.width, corner[0], placed[0], box[0], box[2])
        rows = _nearest(self.size, self.images.height, corner[1], placed[1], box[1], box[3])
        out[:] = values[np.ix_(rows, columns)]
        out[rows < 0] = self.ignore_index
        out[:, columns < 0] = self.ignore_index


def load_mask(data: bytes, max_pixels: int = ImageOptions(1).max_pixels) -> Pixels:
    """The indices (H, W) uint8 of a PNG file of one channel, palette or grey of any depth, upright.

    Raises SampleError with the reason, in one line, for any other file and for values above 255.
    """
    try:
        with pillow_to_ourselves(max_pixels):
            image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG",))
            mode = image.mode
            values = np.asarray(upright(image))
    except UnidentifiedImageError:
        found = f"found one that begins with {data[:12]!r}" if data else "found an empty one"
        raise SampleError(f"expected a PNG file, {found}; save the class indices as PNG") from None
    except Exception as error:
        raise SampleError(decoding_reason(error)) from error
    if values.ndim != 2:
        raise SampleError(
            f"expected one channel of class indices, palette or grey, found {mode}; convert its colours to "
            "indices"
        )
    if mode == "L":
        values = values // _STRETCH.get(data[_DEPTH_BYTE], 1)
    if (largest := int(values.max())) > LARGEST_VALUE:
        raise SampleError(
            f"expected class indices up to {LARGEST_VALUE}, found {largest}; number the classes anew"
        )
    return values.astype(np.uint8)


def _nearest(
    size: int, length: int, start: int, extent: int, first: float, last: float
) -> npt.NDArray[np.intp]:
    """Along one side, the pixel of an image under each of `size` values (size,); -1 where there is none.

    Both cover the `length` pixels of an input, of which [start, start + extent) show the image's
    [first, last).
    """
    centres: npt.NDArray[Any] = (np.arange(size) + 0.5) * length - start * size
    pixels = first + centres * (last - first) / (extent * size)
    # subtle: a centre on the edge of two pixels is the latter's, on whichever side of it rounding leaves it
    nearest = np.floor(np.round(pixels, 6)).astype(np.intp)
    return np.where((centres >= 0) & (centres < extent * size), nearest, -1)

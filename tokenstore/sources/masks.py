"""The decoder of label maps: PNG files of class indices to values aligned with the pixels of an input."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tokenstore.errors import SampleError
from tokenstore.sources.ancillary import readings
from tokenstore.sources.images import Pixels, check_pixels, decoding_reason, pillow_limits, place, upright
from tokenstore.sources.options import LARGEST_VALUE, MAX_PIXELS, ImageOptions
from tokenstore.sources.png_rows import check_rows

__all__ = ["LARGEST_VALUE", "MaskDecoder", "load_mask"]

_DEPTH_BYTE = 24
"""The offset of the byte in which a PNG file says how many bits a value has."""
_STRETCH = {bits: LARGEST_VALUE // (2**bits - 1) for bits in (2, 4)}
"""The factors by which Pillow multiplies grey values of few bits."""


@dataclass(frozen=True)
class MaskDecoder:
    """A decoder of label maps (size, size) uint8, by the same geometry as the images of `images`.

    Raises ValueError for a size below 1 and an ignore index outside 0..255.
    """

    images: ImageOptions
    size: int
    ignore_index: int = LARGEST_VALUE
    """The value of pixels without a class, those that the resize `pad` adds among them."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"mask size: expected at least 1 pixel a side, got {self.size}")
        if not 0 <= self.ignore_index <= LARGEST_VALUE:
            raise ValueError(f"ignore index: expected 0 to {LARGEST_VALUE}, got {self.ignore_index}")

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of a label map."""
        return (self.size, self.size)

    def decode(self, data: bytes, width: int, height: int, out: Pixels) -> None:
        """Fill `out` with the label map of an image of that size, in pixels.

        Each value is copied from the pixel of the map in which the centre of the value's own pixel lies.

        Raises SampleError for a file that `load_mask` refuses, or that has another size than the image.
        """
        values = load_mask(data, self.images.max_pixels)
        if values.shape != (height, width):
            actual = f"{values.shape[1]} x {values.shape[0]}"
            raise SampleError(
                f"expected its image's size, {width} x {height}, found {actual}; give both as they were drawn"
            )
        box, corner, extent = place(width, height, self.images)
        columns = _nearest(self.size, self.images.width, corner[0], extent[0], box[0], box[2])
        rows = _nearest(self.size, self.images.height, corner[1], extent[1], box[1], box[3])
        out[:] = values[np.ix_(rows, columns)]
        out[rows < 0] = self.ignore_index
        out[:, columns < 0] = self.ignore_index


def load_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read the class indices (H, W) uint8 of a PNG file of one channel, turned upright.

    The channel is a palette or grey of any depth. Raises SampleError with the reason, in one line, for any
    other file and for values above 255.
    """
    mode, values = _decode(data, max_pixels)
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


def _decode(data: bytes, max_pixels: int) -> tuple[str, npt.NDArray[Any]]:
    """Return the mode and the values (H, W) or (H, W, C) of a PNG file, turned upright."""
    last: Exception | None = None
    for reading in readings(data):
        try:
            with pillow_limits(max_pixels):
                image: Image.Image = Image.open(io.BytesIO(reading), formats=("PNG",))
                check_pixels(image, max_pixels)
                image.load()
                check_rows(reading, image)
                return image.mode, np.asarray(upright(image))
        except SampleError:
            raise
        except Exception as error:
            last = error
    assert last is not None
    if isinstance(last, UnidentifiedImageError):
        actual = f"found one that begins with {data[:12]!r}" if data else "found an empty one"
        raise SampleError(f"expected a PNG file, {actual}; save the class indices as PNG") from last
    raise SampleError(decoding_reason(last)) from last


def _nearest(
    size: int, length: int, start: int, extent: int, first: float, last: float
) -> npt.NDArray[np.intp]:
    """Return the image's pixel under each of `size` values (size,) along one side, or -1 outside the image.

    The values cover the `length` pixels of an input, of which [start, start + extent) show the image's
    [first, last).
    """
    centres: npt.NDArray[Any] = (np.arange(size) + 0.5) * length - start * size
    pixels = first + centres * (last - first) / (extent * size)
    # subtle: a centre on the edge of two pixels belongs to the second one, whichever way rounding goes
    nearest = np.floor(np.round(pixels, 6)).astype(np.intp)
    return np.where((centres >= 0) & (centres < extent * size), nearest, -1)

"""A sheet of images: rows and columns of samples, each with its images side by side above a caption."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tokenstore.errors import StoreError

__all__ = ["GAP", "MAX_PIXELS", "draw_sheet", "shortened"]

MIN_WIDTH = 128
"""The width in pixels of an image below which a sheet enlarges it, for captions to fit."""
MAX_PIXELS = 200_000_000
"""The largest number of pixels of a sheet."""
GAP = 4
"""The pixels between images."""
FONT_SIZE = 12
CAPTION_HEIGHT = FONT_SIZE + 6
PAPER, INK, EMPTY = "white", "black", (224, 224, 224)
ASPECT = 1.5
"""The width over the height that the number of columns aims at."""

Images: TypeAlias = npt.NDArray[np.uint8]


def draw_sheet(
    samples: Sequence[tuple[Images | None, ...]],
    captions: Sequence[str],
    columns: int | None = None,
    headings: Sequence[str] = (),
) -> Image.Image:
    """Draw every sample's images (H, W, 3) side by side above its caption.

    An image that is None leaves a grey place. `headings` name a sample's images at the top of the sheet.
    `columns` is the number of samples side by side, by default as they fit best.

    Raises StoreError for a sheet of more than MAX_PIXELS.
    """
    scale, height, width = _image_size(samples)
    cell = (len(samples[0]) * (width + GAP) + GAP, height + CAPTION_HEIGHT + GAP)
    columns = min(len(samples), columns or round(math.sqrt(ASPECT * len(samples) * cell[1] / cell[0])) or 1)
    head = CAPTION_HEIGHT if headings else 0
    size = (columns * cell[0] + GAP, -(-len(samples) // columns) * cell[1] + GAP + head)
    if math.prod(size) > MAX_PIXELS:
        raise StoreError(
            f"a sheet of {size[0]:,} x {size[1]:,} pixels is more than the {MAX_PIXELS:,} allowed: ask for "
            "fewer samples, or use `tokenstore reconstruct`"
        )
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for column in range(columns):
        for place, heading in enumerate(headings):
            left = GAP + column * cell[0] + place * (width + GAP)
            draw.text((left, GAP), shortened(heading, font, width), INK, font)
    for number, (images, caption) in enumerate(zip(samples, captions, strict=True)):
        row, column = divmod(number, columns)
        top, left = GAP + head + row * cell[1], GAP + column * cell[0]
        for place, image in enumerate(images):
            corner = (left + place * (width + GAP), top)
            if image is None:
                sheet.paste(EMPTY, (*corner, corner[0] + width, corner[1] + height))
            else:
                enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
                sheet.paste(Image.fromarray(enlarged), corner)
        draw.text((left, top + height + 1), shortened(caption, font, cell[0] - 2 * GAP), INK, font)
    return sheet


def shortened(text: str, font: Any, width: int) -> str:
    """Return a text cut as late as it fits into `width` pixels, with `...` if it was cut."""
    if font.getlength(text) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: font.getlength(f"{text[:length]}..."))
    return f"{text[: max(0, fitting - 1)]}..."


def _image_size(samples: Sequence[tuple[Images | None, ...]]) -> tuple[int, int, int]:
    """Return the whole factor that images are enlarged by, and height and width of the largest after it."""
    sizes = [image.shape[:2] for images in samples for image in images if image is not None]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    scale = max(1, math.ceil(MIN_WIDTH / width))
    return scale, scale * height, scale * width

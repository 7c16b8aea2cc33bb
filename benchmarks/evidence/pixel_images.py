"""The images of the pixel baseline: reduced in size or quality, with the bytes that they take."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from evidence.cells import EvidenceError
from tokenstore.errors import SampleError
from tokenstore.sources.images import ImageOptions, PixelDecoder

__all__ = ["Form", "PixelImages", "read_images"]

Quality: TypeAlias = int | Literal["files", "raw"]
_APP0, _QUANTISATION, _HUFFMAN, _SCAN = 0xE0, 0xDB, 0xC4, 0xDA
_MARKER = 0xFF


@dataclass(frozen=True)
class Form:
    """The form that images are stored in: squashed to a square, then as JPEG, as raw bytes, or as they came.

    Raises EvidenceError for a side or a quality that no image can have.
    """

    side: int
    """The side in pixels of the square."""
    quality: Quality
    """The quality of JPEG, 1 to 95; raw: three bytes a pixel; files: the bytes of the original files."""

    def __post_init__(self) -> None:
        number = isinstance(self.quality, int) and not isinstance(self.quality, bool)
        if not (number and 1 <= int(self.quality) <= 95) and self.quality not in ("files", "raw"):
            raise EvidenceError(f"quality: expected 1 to 95, raw or files, found {self.quality!r:.80}")
        if not isinstance(self.side, int) or self.side < 1:
            raise EvidenceError(f"side: expected pixels, found {self.side!r:.80}")


@dataclass(frozen=True)
class PixelImages:
    """Images as a network gets them, and the bytes that they were stored in."""

    pixels: npt.NDArray[np.uint8]
    """The images (N, side, side, 3), after whatever the form loses."""
    nbytes: int
    """The bytes of all of them. Tables that all JPEG files share count once."""


def read_images(folder: Path, names: Sequence[str], form: Form) -> PixelImages:
    """Read the images of a folder by their names, and bring them to a form.

    Raises EvidenceError for an image that cannot be read.
    """
    decoder = PixelDecoder(ImageOptions(form.side))
    pixels = np.empty((len(names), *decoder.shape), np.uint8)
    nbytes = shared = 0
    for name, out in zip(names, pixels, strict=True):
        try:
            data = (folder / name).read_bytes()
            decoder.decode(data, out)
        except (OSError, SampleError) as error:
            raise EvidenceError(f"{folder / name}: expected an image: {error}") from error
        if form.quality == "files":
            nbytes += len(data)
        elif form.quality == "raw":
            nbytes += out.size
        else:
            file = as_jpeg(out, int(form.quality))
            out[:] = np.asarray(Image.open(io.BytesIO(file)))
            shared = shared_bytes(file)
            nbytes += len(file) - shared
    return PixelImages(pixels, nbytes + shared)


def as_jpeg(pixels: npt.NDArray[Any], quality: int) -> bytes:
    """Return pixels (H, W, 3) uint8 as a JPEG file with the usual tables and chroma at half the size."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def shared_bytes(file: bytes) -> int:
    """Return the bytes of a JPEG file that all files of its quality share: tables and the JFIF segment."""
    position, shared = 2, 0
    while file[position] == _MARKER and file[position + 1] != _SCAN:
        length = 2 + int.from_bytes(file[position + 2 : position + 4], "big")
        if file[position + 1] in (_APP0, _QUANTISATION, _HUFFMAN):
            shared += length
        position += length
    return shared

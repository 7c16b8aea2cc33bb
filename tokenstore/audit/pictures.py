"""The pictures of previews and reconstructions: label maps in colours, and the files that are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError
from tokenstore.files import whole_file

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The format of an image file, by its ending."""
_SAVING: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}

_COLOURS = 256
"""The number of colours: labels that differ by a multiple of it look alike."""


def coloured_map(
    values: npt.NDArray[Any], size: tuple[int, int], ignored: int | None
) -> npt.NDArray[np.uint8]:
    """Draw a label map (H, W) in `size`, (h, w): (h, w, 3), each pixel of the nearest value's colour.

    A label's colour is the one of PASCAL VOC, in which 0 is black; pixels of the label `ignored` are white.
    """
    rows, columns = (
        (np.arange(side) * 2 + 1) * stored // (2 * side)
        for side, stored in zip(size, values.shape, strict=True)
    )
    nearest = values.astype(np.int64)[np.ix_(rows, columns)]
    drawn = _palette()[nearest % _COLOURS]
    if ignored is not None:
        drawn[nearest == ignored] = 255
    return drawn


def _palette() -> npt.NDArray[np.uint8]:
    """Return PASCAL VOC's colours (256, 3): bits 0, 3, 6 of a label are red's highest, 1, 4, 7 green's."""
    labels = np.arange(_COLOURS)
    colours = np.zeros((_COLOURS, 3), np.uint8)
    for channel in range(3):
        for bit in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def image_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of an image that can be written.

    Raises ArgumentError for an ending that is none of FORMATS, for a path that is no file, and for a folder
    that does not exist.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ArgumentError(f"expected a name ending in {', '.join(FORMATS)}; found {str(path)!r}")
    if target.exists() and not target.is_file():
        raise ArgumentError(f"{path} is no file, and is left as it is")
    if not target.absolute().parent.is_dir():
        raise ArgumentError(f"the folder of {path} does not exist; make it first")
    return target


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file whole or not at all; an old file stays until the new one is whole.

    Raises OSError if the file cannot be written.
    """
    kind = FORMATS[path.suffix.lower()]
    with whole_file(path) as file:
        image.save(file, kind, **_SAVING[kind])

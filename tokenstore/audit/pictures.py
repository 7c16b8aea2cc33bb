"""The image files that previews and reconstructions are written as."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    with whole_file(path, temporary=path.with_name(f".{path.name}.partial")) as file:
        image.save(file, kind, **_SAVING[kind])

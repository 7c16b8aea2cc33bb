"""Folders of tiny images."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image


def jpeg(grey: int = 0) -> bytes:
    """Return a JPEG file of one grey level."""
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "JPEG")
    return file.getvalue()


def fill(root: Path, *paths: str | bytes) -> None:
    """Put an image at each path."""
    for path in paths:
        full = root / os.fsdecode(path)
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(jpeg())

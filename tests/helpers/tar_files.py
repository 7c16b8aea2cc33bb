"""Tar files of images, and shards as WebDataset has them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

Content = Mapping[str, bytes | str | int]


def write_tar(path: Path, members: Content | list[tuple[str, bytes]], format: str = "gnu") -> Path:
    """Write a tar file; values that are not bytes become their text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            data = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, first: int = 0, count: int = 2) -> Path:
    """Write a WebDataset shard whose labels are the numbers of its keys."""
    members: dict[str, bytes | int] = {}
    for number in range(first, first + count):
        members[f"{number:04}.jpg"] = b"image %d" % number
        members[f"{number:04}.cls"] = number
    return write_tar(path, members)

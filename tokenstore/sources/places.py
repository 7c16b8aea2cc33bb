"""The places that options of a source name: a local path or a URL, as a file or as a tree of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenstore.errors import SourceError
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.image_walk import ImageTree, TreeOnDisk
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.remote_files import split_url
from tokenstore.sources.remote_tree import RemoteTree
from tokenstore.storage import is_remote, public_url

__all__ = ["file_at", "image_tree"]


def image_tree(
    location: str | Path, storage_options: Mapping[str, Any] | None, listings: SavedListings | None = None
) -> ImageTree:
    """Return the tree of images at a local path or a URL, whose folders' listings are saved in `listings`."""
    if not is_remote(str(location)):
        return TreeOnDisk(location)
    folders = None if listings is None else listings.folders
    return RemoteTree(*split_url(str(location), storage_options), listings=folders, saves=True)


def file_at(location: str | Path, storage_options: Mapping[str, Any] | None) -> SourceFile:
    """Return the file at a local path or a URL; raise SourceError for a URL where no file is."""
    if not is_remote(str(location)):
        return LocalFile.of(Path(location))
    place, path = split_url(str(location), storage_options)
    try:
        return place.file(path)
    except FileNotFoundError as error:
        raise SourceError(f"{public_url(str(location))}: no such file") from error

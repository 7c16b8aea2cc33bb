"""Opening the storage that a path or URL names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenstore.storage.base import Storage
from tokenstore.storage.local import open_local

if TYPE_CHECKING:
    from tokenstore.storage.remote.retries import Retries

__all__ = ["open_storage"]


def open_storage(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    retries: Retries | None = None,
) -> Storage:
    """Open the folder or zip file at a local path, or at any URL that fsspec knows.

    A zip file is a name that ends in ".zip"; `zip::URL` and `zip://folder::URL` name one on remote storage as
    well. `storage_options` and `retries` are for remote places: the arguments that fsspec takes, and how long
    a request may take. Nothing has to exist at the place yet.

    Raises StoreError for a kind of storage that is not known, DamageError for a local zip file that is not
    whole.
    """
    text = os.fspath(url)
    path = text.removeprefix("file://")
    if "://" in path or "::" in path:
        from tokenstore.storage.remote.opening import (
            open_remote,  # imports fsspec, which local paths don't need
        )

        return open_remote(path, storage_options, retries)
    return open_local(text)

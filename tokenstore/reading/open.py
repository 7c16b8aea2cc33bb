"""The one way from what a caller names a store by to an open store, and to the place of a new one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from tokenstore.reading.store import TokenStore, open_store
from tokenstore.storage import Storage, open_storage

StorePath: TypeAlias = str | os.PathLike[str]
"""A path of a folder or a `.zip` file, or an fsspec URL."""


def as_store(store: StorePath | TokenStore, storage_options: Mapping[str, Any] | None = None) -> TokenStore:
    """Return an open store as it is, or open the one at a path or URL.

    Raises NotAStoreError, IncompleteStoreError, VersionError, ManifestError, DamageError, and StorageError
    where storage does not answer.
    """
    if isinstance(store, TokenStore):
        return store
    return open_store(store, storage_options=storage_options)


def as_storage(place: StorePath | Storage, storage_options: Mapping[str, Any] | None = None) -> Storage:
    """Return a storage as it is, or the storage of a path or URL, whether or not anything is at it."""
    return place if isinstance(place, Storage) else open_storage(place, storage_options)

"""The one way from what a caller names a store by to an open store, and to the place of a new one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from tokenstore.reading.store import TokenStore, open_store
from tokenstore.storage import Storage, is_remote, open_storage, refuse_options

StorePath: TypeAlias = str | os.PathLike[str]
"""A path of a folder or a `.zip` file, or an fsspec URL."""


def as_store(store: StorePath | TokenStore, storage_options: Mapping[str, Any] | None = None) -> TokenStore:
    """Return an open store as it is, or open the one at a path or URL.

    Raises NotAStoreError, IncompleteStoreError, VersionError, ManifestError, DamageError, and StorageError
    where storage does not answer; ArgumentError for options that have no use.
    """
    if isinstance(store, TokenStore):
        refuse_options(storage_options, "a store that is open already")
        return store
    return open_store(store, storage_options=storage_options)


def as_storage(place: StorePath | Storage, storage_options: Mapping[str, Any] | None = None) -> Storage:
    """Return a storage as it is, or the storage of a path or URL, whether or not anything is at it.

    Raises StoreError for a kind of storage that is not known, and ArgumentError for options without use.
    """
    if isinstance(place, Storage):
        refuse_options(storage_options, "a storage that is open already")
        return place
    return open_storage(place, storage_options)


def takes_options(place: StorePath | TokenStore | Storage) -> bool:
    """Return True for a URL of remote storage, which is not open yet."""
    return not isinstance(place, TokenStore | Storage) and is_remote(place)

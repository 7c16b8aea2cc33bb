"""Opening the storage that a path or URL names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenstore.errors import ArgumentError, Parameter
from tokenstore.storage.base import Storage
from tokenstore.storage.local import open_local

if TYPE_CHECKING:
    from tokenstore.storage.remote.retries import Retries

__all__ = ["is_remote", "open_storage", "refuse_options"]


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
    whole, and ArgumentError for `storage_options` with a local path, which has no use for them.
    """
    text = os.fspath(url)
    path = text.removeprefix("file://")
    if is_remote(text):
        from tokenstore.storage.remote.opening import (
            open_remote,  # imports fsspec, which local paths don't need
        )

        return open_remote(path, storage_options, retries)
    refuse_options(storage_options, text)
    return open_local(text)


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Return True if a path or URL names a place that fsspec opens, and so takes `storage_options`."""
    path = os.fspath(url).removeprefix("file://")
    return "://" in path or "::" in path


def refuse_options(
    storage_options: Mapping[str, Any] | None, place: object, name: str = "storage_options"
) -> None:
    """Raise ArgumentError if there are options for a place that is local or open already.

    `name` is the name of the parameter that the caller knows them by.
    """
    if storage_options:
        parameter = Parameter(name)
        raise ArgumentError(
            f"{parameter} has no use: expected the URL of remote storage, found {place}. Leave it out",
            parameters=[parameter],
        )

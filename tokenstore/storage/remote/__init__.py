"""Files on object storage and web servers, read and written with retries, deadlines and no secrets in errors.

`opening.open_remote` is the entry point, and `tokenstore.storage.open_storage` calls it. `folder` and
`zipped` are the two kinds of places; `connection` keeps an fsspec file system and its event loop for each
process; `access` and `s3` make single requests; `retrying` repeats them; `faults` says what a failed
request means.

Importing this package alone does not import fsspec, so that `Retries` is cheap. It may import the ground and
`tokenstore.storage`'s own modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.storage.remote.folder import RemoteFolder
    from tokenstore.storage.remote.opening import open_remote
    from tokenstore.storage.remote.retries import Retries
    from tokenstore.storage.remote.zipped import RemoteZip

__all__ = ["RemoteFolder", "RemoteZip", "Retries", "open_remote"]

_HOMES = {"RemoteFolder": "folder", "RemoteZip": "zipped", "Retries": "retries", "open_remote": "opening"}


# imported on first use: a folder imports fsspec and asyncio, Retries neither
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

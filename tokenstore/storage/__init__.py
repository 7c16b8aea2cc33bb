"""Places where a store's files are: local folders, local zip files, and any URL that fsspec knows.

`open_storage(url)` is the one entry point: it returns a `Storage`, whose methods are the same for all places.
`local` and `zipped` are the places on this machine; `remote` is object storage and web servers. `Cache` keeps
fetched bytes on the local disk, within a limit.

Importing this package, or opening a local folder, imports neither fsspec nor numpy. This wing may import only
the ground: `errors` and `files`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.storage.base import IN_PLACE_MARKER, SCRATCH, STAGING, Range, Storage
    from tokenstore.storage.cache import Cache, Policy, parse_size
    from tokenstore.storage.opening import is_remote, open_storage, refuse_options
    from tokenstore.storage.redaction import public_url
    from tokenstore.storage.remote.retries import Retries

__all__ = [
    "IN_PLACE_MARKER",
    "SCRATCH",
    "STAGING",
    "Cache",
    "Policy",
    "Range",
    "Retries",
    "Storage",
    "is_remote",
    "open_storage",
    "parse_size",
    "public_url",
    "refuse_options",
]

_HOMES = {
    **dict.fromkeys(("IN_PLACE_MARKER", "SCRATCH", "STAGING", "Range", "Storage"), "tokenstore.storage.base"),
    **dict.fromkeys(("Cache", "Policy", "parse_size"), "tokenstore.storage.cache"),
    "Retries": "tokenstore.storage.remote.retries",
    "is_remote": "tokenstore.storage.opening",
    "open_storage": "tokenstore.storage.opening",
    "refuse_options": "tokenstore.storage.opening",
    "public_url": "tokenstore.storage.redaction",
}


def __getattr__(name: str) -> Any:
    # imported on first use, so that who needs one name does not pay for all
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

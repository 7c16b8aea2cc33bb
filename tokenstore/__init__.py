"""tokenstore: vision datasets kept as discrete tokens, small, checked and fast to read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.combining import concat, mix
    from tokenstore.dataset import TokenDataset
    from tokenstore.errors import TokenstoreError
    from tokenstore.loader import TokenLoader
    from tokenstore.manifest import Manifest
    from tokenstore.reader import TokenStore
    from tokenstore.reader import open_store as open
    from tokenstore.remote import Retries

__version__ = "0.1.0"
__all__ = [
    "Manifest",
    "Retries",
    "TokenDataset",
    "TokenLoader",
    "TokenStore",
    "TokenstoreError",
    "__version__",
    "concat",
    "mix",
    "open",
]

_HOMES = {
    "Manifest": ("tokenstore.manifest", "Manifest"),
    "Retries": ("tokenstore.remote", "Retries"),
    "TokenDataset": ("tokenstore.dataset", "TokenDataset"),
    "TokenLoader": ("tokenstore.loader", "TokenLoader"),
    "TokenStore": ("tokenstore.reader", "TokenStore"),
    "TokenstoreError": ("tokenstore.errors", "TokenstoreError"),
    "concat": ("tokenstore.combining", "concat"),
    "mix": ("tokenstore.combining", "mix"),
    "open": ("tokenstore.reader", "open_store"),
}


def __getattr__(name: str) -> Any:
    # imported on first use, so that `import tokenstore` needs neither torch nor zarr
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenstore' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

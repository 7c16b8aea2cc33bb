"""tokenstore: vision datasets kept as discrete tokens, small, checked and fast to read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.dataset import TokenDataset
    from tokenstore.errors import TokenstoreError
    from tokenstore.manifest import Manifest
    from tokenstore.reader import TokenStore
    from tokenstore.reader import open_store as open

__version__ = "0.1.0"
__all__ = ["Manifest", "TokenDataset", "TokenStore", "TokenstoreError", "__version__", "open"]

_HOMES = {
    "Manifest": ("tokenstore.manifest", "Manifest"),
    "TokenDataset": ("tokenstore.dataset", "TokenDataset"),
    "TokenStore": ("tokenstore.reader", "TokenStore"),
    "TokenstoreError": ("tokenstore.errors", "TokenstoreError"),
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

"""tokenstore: vision datasets kept as discrete tokens, small, checked and fast to read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenstore.version import __version__

if TYPE_CHECKING:
    from tokenstore.audit.diff import diff
    from tokenstore.audit.info import info
    from tokenstore.audit.preview import preview
    from tokenstore.audit.reconstruct import reconstruct
    from tokenstore.audit.report.report import report
    from tokenstore.audit.stats import stats
    from tokenstore.audit.verify import verify
    from tokenstore.conversion.append import append
    from tokenstore.conversion.convert import convert
    from tokenstore.conversion.dry_run import plan
    from tokenstore.errors import TokenstoreError
    from tokenstore.format import Manifest
    from tokenstore.loading.dataset import TokenDataset
    from tokenstore.loading.loader import TokenLoader
    from tokenstore.loading.mixing import concat, mix
    from tokenstore.progress import progress_bar
    from tokenstore.reading.store import TokenStore
    from tokenstore.reading.store import open_store as open
    from tokenstore.storage.remote.retries import Retries
    from tokenstore.writing.copy import copy
    from tokenstore.writing.editing.dedupe import dedupe
    from tokenstore.writing.editing.partition import split
    from tokenstore.writing.editing.relabel import relabel, rename_class
    from tokenstore.writing.editing.relate import relate
    from tokenstore.writing.editing.select import select
    from tokenstore.writing.export.export import export
    from tokenstore.writing.merge import merge
    from tokenstore.writing.recode import recode
    from tokenstore.writing.write import write

__all__ = [
    "Manifest",
    "Retries",
    "TokenDataset",
    "TokenLoader",
    "TokenStore",
    "TokenstoreError",
    "__version__",
    "append",
    "concat",
    "convert",
    "copy",
    "dedupe",
    "diff",
    "export",
    "info",
    "merge",
    "mix",
    "open",
    "plan",
    "preview",
    "progress_bar",
    "recode",
    "reconstruct",
    "relabel",
    "relate",
    "rename_class",
    "report",
    "select",
    "split",
    "stats",
    "verify",
    "write",
]

_HOMES = {
    "Manifest": ("tokenstore.format.manifest", "Manifest"),
    "Retries": ("tokenstore.storage.remote.retries", "Retries"),
    "TokenDataset": ("tokenstore.loading.dataset", "TokenDataset"),
    "TokenLoader": ("tokenstore.loading.loader", "TokenLoader"),
    "TokenStore": ("tokenstore.reading.store", "TokenStore"),
    "TokenstoreError": ("tokenstore.errors", "TokenstoreError"),
    "append": ("tokenstore.conversion.append", "append"),
    "concat": ("tokenstore.loading.mixing", "concat"),
    "convert": ("tokenstore.conversion.convert", "convert"),
    "copy": ("tokenstore.writing.copy", "copy"),
    "diff": ("tokenstore.audit.diff", "diff"),
    "dedupe": ("tokenstore.writing.editing.dedupe", "dedupe"),
    "export": ("tokenstore.writing.export.export", "export"),
    "info": ("tokenstore.audit.info", "info"),
    "merge": ("tokenstore.writing.merge", "merge"),
    "mix": ("tokenstore.loading.mixing", "mix"),
    "open": ("tokenstore.reading.store", "open_store"),
    "plan": ("tokenstore.conversion.dry_run", "plan"),
    "preview": ("tokenstore.audit.preview", "preview"),
    "progress_bar": ("tokenstore.progress", "progress_bar"),
    "recode": ("tokenstore.writing.recode", "recode"),
    "reconstruct": ("tokenstore.audit.reconstruct", "reconstruct"),
    "relabel": ("tokenstore.writing.editing.relabel", "relabel"),
    "relate": ("tokenstore.writing.editing.relate", "relate"),
    "rename_class": ("tokenstore.writing.editing.relabel", "rename_class"),
    "report": ("tokenstore.audit.report.report", "report"),
    "select": ("tokenstore.writing.editing.select", "select"),
    "split": ("tokenstore.writing.editing.partition", "split"),
    "stats": ("tokenstore.audit.stats", "stats"),
    "verify": ("tokenstore.audit.verify", "verify"),
    "write": ("tokenstore.writing.write", "write"),
}
"""The module and name of every public name, imported on first use."""


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

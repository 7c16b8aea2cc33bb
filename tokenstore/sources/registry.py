"""The table of all kinds of sources by name, those of other packages included.

Nothing is imported until a kind is used, so that listing the names costs no time. Another package adds a kind
by an entry point of the group `tokenstore.sources`, whose name is the kind's and whose object is a
`SourceKind`:

    [project.entry-points."tokenstore.sources"]
    lmdb = "my_package.lmdb_images:SOURCE"
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from tokenstore.errors import SourceError, did_you_mean
from tokenstore.plugins import plugins

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.sources.folders import FolderAtUrl

GROUP = "tokenstore.sources"
"""The group of entry points by which other packages add kinds."""

_BUILT_IN = {
    "imagefolder": "tokenstore.sources.imagefolder",
    "tar": "tokenstore.sources.tar",
    "parquet": "tokenstore.sources.parquet",
    "seit": "tokenstore.sources.seit",
    "array": "tokenstore.sources.arrays",
    "memmap": "tokenstore.sources.layouts.memory_maps",
    "safetensors": "tokenstore.sources.layouts.safetensors_files",
    "jsonl": "tokenstore.sources.layouts.json_lines",
    "zarr": "tokenstore.sources.layouts.zarr_arrays",
    "llamagen": "tokenstore.sources.layouts.llamagen",
    "4m": "tokenstore.sources.layouts.four_m",
    "commavq": "tokenstore.sources.layouts.commavq",
    "1x": "tokenstore.sources.layouts.world_model",
    "datasets": "tokenstore.sources.layouts.hf_datasets",
    "mds": "tokenstore.sources.layouts.mds",
}
"""The module of each kind of this package; its `SOURCE` is the kind."""


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: how its places are recognised and opened."""

    open: Callable[..., Source]
    """A function that lists the samples of a path: `open(location)`. It raises SourceError."""
    holds: Callable[[Path], bool]
    """A test of whether a folder holds samples of this kind."""
    looked_for: str
    """The files that make a folder one of this kind, for messages."""
    endings: tuple[str, ...] = ()
    """The endings, in lower case, of single files of this kind."""
    options: frozenset[str] = frozenset()
    """The keyword arguments that `open` takes besides: names of `SourceOptions`, and `listings`.

    A kind that can be read by URL takes `source_storage_options`. `listings` are the `SavedListings` of an
    unfinished conversion.
    """
    holds_file: Callable[[Path], bool] | None = None
    """A test of whether a local file with one of the endings is of this kind; by default each is."""
    holds_url: Callable[[FolderAtUrl], bool] | None = None
    """A test of whether a remote folder holds samples of this kind."""
    precedence: int = 0
    """The place among kinds that hold the same folder: the highest is taken."""


def kind_names() -> tuple[str, ...]:
    """Return the names of all kinds: those of this package, then those of others, sorted."""
    return (*_BUILT_IN, *sorted(_entry_points()))


def load_kind(name: str) -> SourceKind:
    """Import the kind of a name.

    Raises SourceError where no kind has the name, or where another package's kind cannot be imported.
    """
    if name in _BUILT_IN:
        kind: SourceKind = importlib.import_module(_BUILT_IN[name]).SOURCE
        return kind
    entry_point = _entry_points().get(name)
    if entry_point is None:
        known = kind_names()
        raise SourceError(
            f"kind of source: expected one of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"
        )
    try:
        loaded = entry_point.load()
    except Exception as error:  # whatever another package's module raises
        raise SourceError(
            f"kind of source {name!r}: {entry_point.value} cannot be imported ({type(error).__name__}: "
            f"{error}); repair or uninstall the package that adds the kind"
        ) from error
    if not isinstance(loaded, SourceKind):
        raise SourceError(
            f"kind of source {name!r}: expected {entry_point.value} to be a SourceKind, found "
            f"{type(loaded).__name__}"
        )
    return loaded


def _entry_points() -> dict[str, EntryPoint]:
    """Return the kinds of other packages by name; names of this package cannot be taken."""
    return {name: point for name, point in plugins(GROUP).items() if name not in _BUILT_IN}

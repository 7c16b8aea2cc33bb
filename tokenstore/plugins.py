"""The entry points by which other packages add tokenizers, sources and commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType

__all__ = ["plugins"]


def plugins(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name, as the packages now installed declare them.

    Reading the declarations of all packages takes milliseconds, so they are read again only where a folder of
    packages has changed.
    """
    return _declared(group, tuple((path, _changed(path)) for path in sys.path))


@functools.lru_cache(maxsize=16)
def _declared(group: str, folders: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:
    return MappingProxyType({point.name: point for point in entry_points(group=group)})


def _changed(path: str) -> int:
    """Return the time at which a folder of packages last changed, in nanoseconds; 0 for none."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0

"""The files and folders that a listing of remote storage shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_VERSION_KEYS = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "VersionId"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)
"""The keys by which kinds of storage tell a file's version, best first; the last are times."""


class Entry(NamedTuple):
    """A file or a folder below some folder."""

    name: str
    """The last part of its path; in the listing of a tree, the path below the tree's root."""
    is_folder: bool
    nbytes: int
    """The size of a file; in the listing of a tree, -1 where it tells none."""
    version: str
    """A text that changes when the file is replaced; empty for a folder and where the storage tells none."""


class Page(NamedTuple):
    """A part of a folder's listing."""

    entries: list[Entry]
    token: str | None
    """The token by which the next part is asked for; None for the last part."""


def plain_version(version: str) -> str:
    """Return a version without what servers add in one answer and leave out in another."""
    return version.removeprefix("W/").strip('"')


def entry_of(info: Mapping[str, Any], key: str) -> Entry:
    """Return the entry of one file; raise FileNotFoundError for a folder."""
    entry = _entry(info)
    if entry.is_folder:
        raise FileNotFoundError(key)
    return entry


def entries_of(infos: Iterable[Mapping[str, Any]], prefix: str) -> list[Entry]:
    """Return the entries of a listing, without the folder itself, which object storage may list with it."""
    own = prefix.strip("/")
    return [_entry(info) for info in infos if str(info["name"]).strip("/") != own]


def tree_entries(infos: Mapping[str, Mapping[str, Any]], root: str) -> list[Entry]:
    """Return the entries of the listing of all files below a root, by their keys."""
    length = len(root.strip("/"))
    entries = []
    for key, info in infos.items():
        if not key.endswith("/"):
            entry = _entry(info if info.get("size") is not None else {**info, "size": -1})
            entries.append(entry._replace(name=key.strip("/")[length:].lstrip("/")))
    return entries


def _entry(info: Mapping[str, Any]) -> Entry:
    name = str(info["name"]).rstrip("/").rpartition("/")[2]
    if info["type"] == "directory":
        return Entry(name, True, 0, "")
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return Entry(name, False, int(info["size"]), version)

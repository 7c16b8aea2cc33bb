"""Opening the remote storage that a URL names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tokenstore.storage.base import Storage
from tokenstore.storage.remote.folder import RemoteFolder
from tokenstore.storage.remote.retries import Retries
from tokenstore.storage.remote.zipped import RemoteZip

__all__ = ["open_remote"]

_ZIP_URL = re.compile(r"zip(?:://(?P<folder>[^:]*))?::(?P<outer>.+)", re.DOTALL)


def open_remote(
    url: str, storage_options: Mapping[str, Any] | None = None, retries: Retries | None = None
) -> Storage:
    """Open the files at an fsspec URL, or the members of the zip file that the URL names.

    A zip file's URL is `….zip`, `zip::URL` or `zip://folder::URL`. For a chained URL, `storage_options` may
    hold the options of each protocol under its name, as fsspec takes them.

    Raises StoreError for a kind of storage that is not known.
    """
    options = dict(storage_options or {})
    chained = _ZIP_URL.match(url)
    if chained is None:
        remote = RemoteFolder(_absolute(url), options, retries)
        is_zip = PurePosixPath(urlsplit(url).path).suffix == ".zip"
        return RemoteZip(remote) if is_zip else remote
    outer = _absolute(chained["outer"])
    of_protocol = options.get(outer.split("://", 1)[0])
    if "::" not in outer and isinstance(of_protocol, Mapping):
        options = dict(of_protocol)
    return RemoteZip(RemoteFolder(outer, options, retries), chained["folder"] or "")


def _absolute(url: str) -> str:
    """Return a URL of fsspec's own local files with its path of now, which stays the same after a chdir."""
    protocol, mark, path = url.partition("://")
    if protocol not in ("file", "local") or "::" in url:
        return url
    return f"{protocol}{mark}{Path(path).expanduser().absolute().as_posix()}"

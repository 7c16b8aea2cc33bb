"""The recognition of sources: which kind a path is, by its ending or by what a folder holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import Source
from tokenstore.sources.code_grid import with_grid
from tokenstore.sources.folder_listings import FolderListings
from tokenstore.sources.folders import FolderAtUrl
from tokenstore.sources.layouts.loose_arrays import array_advice
from tokenstore.sources.layouts.pickles import pickle_advice
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import counted
from tokenstore.sources.naming import named, with_columns
from tokenstore.sources.options import SourceOptions, refuse_unknown
from tokenstore.sources.registry import SourceKind, kind_names, load_kind
from tokenstore.sources.remote_files import split_url
from tokenstore.sources.shard_files import COMPRESSED_TARS, is_pattern
from tokenstore.storage import is_remote, public_url, refuse_options

__all__ = ["open_source"]

_COMPRESSED_TAR = re.compile(rf"({'|'.join(map(re.escape, COMPRESSED_TARS))})$", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|rar|7z)$", re.IGNORECASE)
_AS_IT_WAS = "folders are listed as they were when the conversion began; images added since are left out"
"""The note on a source whose listing was saved."""
_LOOKED_AT = 1000
"""The files of a folder of nothing known that are looked at to find out whether they are pickles."""
_BY_URL = "source_storage_options"
"""The option of kinds that can be read by URL."""
_OPTION_NEEDS = {
    "labels": "a labels file goes with a folder of images",
    "columns": f"{Parameter('columns')} goes with Parquet files, tar shards, arrays, or a table of columns",
    "masks": "label maps go with a folder of images",
    "image_column": f"{Parameter('image_column')} goes with Parquet files or a labels file",
    "label_column": f"{Parameter('label_column')} goes with columns, tensors, fields and arrays by name, or "
    "a labels file",
    "window": f"{Parameter('window')} goes with videos of ready codes",
    "stride": f"{Parameter('stride')} goes with videos of ready codes",
    "token_column": f"{Parameter('token_column')} goes with ready codes that are found by a name",
    "no_labels": f"{Parameter('no_labels', True)} goes with images",
    "allow_outside_paths": f"{Parameter('allow_outside_paths', True)} goes with Parquet files",
}


def open_source(
    src: str | Path,
    kind: str | None = None,
    *,
    listings: SavedListings | None = None,
    **options: Unpack[SourceOptions],
) -> Source:
    """List the samples of a local path, or of a URL that fsspec knows.

    Without a `kind`, one of `kind_names()`, the kind is recognised by the path's ending or by what the folder
    holds. `options` are the fields of SourceOptions that fit the kind; `class_names` fits any with labels.
    The files of a kind that saves listings are listed only where `listings` has none of them.

    Raises SourceError for a path that does not exist, holds no known kind, or holds more than one, for an
    unknown kind, and for whatever the kind's own opener refuses; ArgumentError for `source_storage_options`
    with a local path; StorageError where remote storage does not answer.
    """
    refuse_unknown(options, SourceOptions.__annotations__, "open_source")
    where, storage_options = public_url(str(src)), options.get("source_storage_options")
    chosen = None if kind is None else load_kind(kind)
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if not options.get("columns"):  # none chosen is none asked for
        given.pop("columns", None)
    listings = SavedListings() if listings is None else listings
    if is_remote(str(src)):
        if chosen is None:
            kind = _kind_of_url(str(src), "labels" in given, storage_options, listings.folders)
            chosen = load_kind(kind)
        if _BY_URL not in chosen.options:
            raise SourceError(f"{where}: kind {kind} is read from a local disk only; copy it to one first")
    else:
        refuse_options(storage_options, where, _BY_URL)
        src = str(src).removeprefix("file://")
        if not Path(src).exists() and not is_pattern(src):
            raise SourceError(f"{where}: no such file or folder")
        if chosen is None:
            kind = "imagefolder" if "labels" in given and not Path(src).is_file() else _detect(Path(src))
            chosen = load_kind(kind)
    for name in ("class_names", "tokenizer_name", "table", "soft_labels", "soft_top", "grid"):  # for any kind
        given.pop(name, None)
    if options.get("table") is not None:
        given.pop("columns", None)
        if "labels" in chosen.options and options.get("labels") is None:
            given.pop("image_column", None)
    for name, value in given.items():
        if name not in chosen.options:
            parameters = [Parameter(name, value if value is True else None)]
            raise SourceError(f"{where}: {_OPTION_NEEDS[name]}, not with kind {kind}", parameters=parameters)
    if "listings" in chosen.options:
        source = chosen.open(src, **given, listings=listings)
    else:
        source = chosen.open(src, **given)
    listings.flush()
    listings.folders.forget()
    if listings.folders.took_saved:
        source = replace(source, notes=(*source.notes, _AS_IT_WAS))
    source = with_grid(source, options.get("grid"))
    named_source = named(source, options.get("class_names"), options.get("tokenizer_name"))
    return with_columns(named_source, options)


def _kind_of_url(
    url: str, labelled: bool, storage_options: Mapping[str, Any] | None, listings: FolderListings
) -> str:
    """Return the name of the kind that a URL is of: by its ending, or by the files of the folder there."""
    kinds = {name: load_kind(name) for name in kind_names()}
    named = None if labelled else _kind_of_name(url.partition("?")[0] if "?" in url else url, kinds)
    if named is not None:
        return named
    where = public_url(url)
    place, path = split_url(url, storage_options)
    if listings.known(place, path, saved=True) is not None:  # which only folders of images are
        return "imagefolder"
    folder = FolderAtUrl(place, path, listings)
    if not folder.exists():
        raise SourceError(f"{where}: no such file or folder")
    if labelled:
        return "imagefolder"
    by_url = {name: kind for name, kind in kinds.items() if kind.holds_url is not None}
    names = [name for name, kind in by_url.items() if kind.holds_url is not None and kind.holds_url(folder)]
    return _only(names, by_url, where, [file.name for file in folder.files([""])])


def _detect(path: Path) -> str:
    """Return the name of the kind that a path is of."""
    kinds = {name: load_kind(name) for name in kind_names()}
    if path.is_dir():
        return _kind_of_folder(path, kinds)
    named = _kind_of_name(str(path), kinds)
    if named is not None:
        return named
    advice = pickle_advice([path.name], path.resolve().parent.name)
    if advice is not None:
        raise SourceError(f"{path}: expected a source, found {advice}")
    endings = ", ".join(dict.fromkeys(ending for facts in kinds.values() for ending in facts.endings))
    raise SourceError(f"{path}: expected a folder, or a file ending in {endings}")


def _kind_of_name(name: str, kinds: Mapping[str, SourceKind]) -> str | None:
    """Return the kind of a file by its ending, or None.

    Raises SourceError for a compressed tar file and for an archive that is none.
    """
    for kind, facts in kinds.items():
        fits = facts.endings and name.lower().endswith(facts.endings)
        if fits and (facts.holds_file is None or (Path(name).is_file() and facts.holds_file(Path(name)))):
            return kind
    if _COMPRESSED_TAR.search(name):
        raise SourceError(
            f"{public_url(name)}: a compressed tar file, whose samples cannot be reached singly; "
            "decompress it first"
        )
    if _ARCHIVE.search(name) and "::" not in name:
        raise SourceError(
            f"{public_url(name)}: expected a folder, tar files or Parquet files, found an archive of another "
            "kind; unpack it, or pack its files into tar files"
        )
    return None


def _kind_of_folder(folder: Path, kinds: dict[str, SourceKind]) -> str:
    """Return the one kind whose samples a folder holds."""
    names = [name for name, kind in kinds.items() if kind.holds(folder)]
    inside = sorted(folder.iterdir())
    for each in (folder, *inside) if not names else ():
        advice = pickle_advice(islice(_names_in(each), _LOOKED_AT), each.resolve().name)
        if advice is not None:
            raise SourceError(f"{each}: expected a source, found {advice}")
    advice = None if names else array_advice(folder)
    if advice is not None:
        raise SourceError(f"{folder}: expected a source, found {advice}")
    return _only(names, kinds, str(folder), [path.name for path in inside])


def _names_in(folder: Path) -> Iterator[str]:
    """Yield the names of a folder's files, of none if it is no folder."""
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        yield from (entry.name for entry in entries)


def _only(names: Sequence[str], kinds: Mapping[str, SourceKind], where: str, files: Sequence[str]) -> str:
    """Return the one kind that fits a place with some files; raise SourceError for none and for several."""
    highest = max((kinds[name].precedence for name in names), default=0)
    names = [name for name in names if kinds[name].precedence == highest]
    if len(names) > 1:
        raise SourceError(f"{where}: could be of kind {' or '.join(names)}; say which, or take them apart")
    if not names:
        looked_for = ", ".join(kind.looked_for for kind in kinds.values())
        packed = [name for name in files if _COMPRESSED_TAR.search(name) or _ARCHIVE.search(name)]
        more = counted(". Archives that have to be unpacked first", len(packed), packed[0]) if packed else ""
        raise SourceError(f"{where}: nothing known found; looked for {looked_for}{more}")
    return names[0]

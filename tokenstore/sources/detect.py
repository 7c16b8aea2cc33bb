"""The recognition of sources: which kind a path is, by its ending or by what a folder holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Unpack

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import Source
from tokenstore.sources.naming import named
from tokenstore.sources.options import SourceOptions
from tokenstore.sources.registry import SourceKind, kind_names, load_kind
from tokenstore.sources.shard_files import is_pattern

__all__ = ["open_source"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:")
_COMPRESSED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$", re.IGNORECASE)
_OPTION_NEEDS = {
    "labels": "a labels file goes with a folder of images",
    "masks": "label maps go with a folder of images",
    "image_column": f"{Parameter('image_column')} goes with Parquet files or a labels file",
    "label_column": f"{Parameter('label_column')} goes with Parquet files or a labels file",
    "no_labels": f"{Parameter('no_labels', True)} goes with images",
    "allow_outside_paths": f"{Parameter('allow_outside_paths', True)} goes with Parquet files",
}


def open_source(
    src: str | Path,
    kind: str | None = None,
    **options: Unpack[SourceOptions],
) -> Source:
    """List the samples of a local path.

    Without a `kind`, one of `kind_names()`, the kind is recognised by the path's ending or by what the folder
    holds. `options` are the fields of SourceOptions that fit the kind; `class_names` fits any with labels.

    Raises SourceError for a path that does not exist, holds no known kind, or holds more than one, for an
    unknown kind, and for whatever the kind's own opener refuses.
    """
    where = str(src)
    if _URL.match(where):
        raise SourceError(f"{where}: sources have to be local for now; copy it to a disk first")
    chosen = None if kind is None else load_kind(kind)
    if not Path(src).exists() and not is_pattern(where):
        raise SourceError(f"{where}: no such file or folder")
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if chosen is None:
        kind = "imagefolder" if "labels" in given else _detect(Path(src))
        chosen = load_kind(kind)
    for name in ("class_names", "tokenizer_name"):  # which fit any kind
        given.pop(name, None)
    for name, value in given.items():
        if name not in chosen.options:
            parameters = [Parameter(name, value if value is True else None)]
            raise SourceError(f"{where}: {_OPTION_NEEDS[name]}, not with kind {kind}", parameters=parameters)
    source = chosen.open(src, **given)
    return named(source, options.get("class_names"), options.get("tokenizer_name"))


def _detect(path: Path) -> str:
    """Return the name of the kind that a path is of."""
    kinds = {name: load_kind(name) for name in kind_names()}
    if path.is_dir():
        return _kind_of_folder(path, kinds)
    name = str(path)
    if _COMPRESSED_TAR.search(name):
        raise SourceError(
            f"{name}: a compressed tar file, whose samples cannot be reached singly; decompress it first"
        )
    for kind, facts in kinds.items():
        if facts.endings and name.lower().endswith(facts.endings):
            return kind
    endings = ", ".join(ending for facts in kinds.values() for ending in facts.endings)
    raise SourceError(f"{path}: expected a folder, or a file ending in {endings}")


def _kind_of_folder(folder: Path, kinds: dict[str, SourceKind]) -> str:
    """Return the one kind whose samples a folder holds."""
    if (folder / "zarr.json").exists():
        raise SourceError(
            f"{folder}: a Zarr hierarchy, such as a token store; expected images or codes to convert"
        )
    names = [name for name, kind in kinds.items() if kind.holds(folder)]
    if len(names) > 1:
        raise SourceError(f"{folder}: could be of kind {' or '.join(names)}; say which, or take them apart")
    if not names:
        looked_for = ", ".join(kind.looked_for for kind in kinds.values())
        raise SourceError(f"{folder}: nothing known found; looked for {looked_for}")
    return names[0]

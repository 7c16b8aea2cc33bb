"""Which kind of source a path is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tokenstore.errors import SourceError
from tokenstore.sources import arrays, imagefolder, parquet, seit, tar
from tokenstore.sources.base import Source
from tokenstore.sources.shard_files import has_shards, is_pattern

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:")
_COMPRESSED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$", re.IGNORECASE)
_OPENERS: dict[str, Callable[[str | Path], Source]] = {
    "imagefolder": imagefolder.open_imagefolder,
    "tar": tar.open_tar,
    "parquet": parquet.open_parquet,
    "seit": seit.open_seit,
    "array": arrays.open_arrays,
}
_ENDINGS = {"tar": tar.ENDINGS, "parquet": parquet.ENDINGS, "array": arrays.ENDINGS}

KINDS = tuple(_OPENERS)
"""The kinds of sources there are."""


def open_source(
    src: str | Path,
    kind: str | None = None,
    *,
    labels: str | Path | None = None,
    masks: str | Path | None = None,
) -> Source:
    """List the samples of a local path, whose kind is found out unless it is given.

    `labels` is a CSV file of paths and labels, `masks` a folder of label maps, both for a folder of images.
    Raises SourceError where there is nothing at the path, nothing known, or more than one kind of thing.
    """
    where = str(src)
    if _URL.match(where):
        raise SourceError(f"{where}: sources have to be local for now; copy it to a disk first")
    if kind is not None and kind not in KINDS:
        raise SourceError(f"kind of source: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not Path(src).exists() and not is_pattern(where):
        raise SourceError(f"{where}: no such file or folder")
    kind = kind or ("imagefolder" if labels is not None else _detect(Path(src)))
    if labels is None and masks is None:
        return _OPENERS[kind](src)
    if kind != "imagefolder":
        what = "a labels file goes" if labels is not None else "label maps go"
        raise SourceError(f"{where}: {what} with a folder of images, not with kind {kind}")
    return imagefolder.open_imagefolder(src, labels, masks)


def _detect(path: Path) -> str:
    kind = _kind_of_folder(path) if path.is_dir() else _kind_by_ending(str(path))
    if kind is None:
        endings = ", ".join(ending for endings in _ENDINGS.values() for ending in endings)
        raise SourceError(f"{path}: expected a folder, or a file ending in {endings}")
    return kind


def _kind_by_ending(name: str) -> str | None:
    if _COMPRESSED_TAR.search(name):
        raise SourceError(
            f"{name}: a compressed tar file, whose samples cannot be reached singly; decompress it first"
        )
    return next((kind for kind, endings in _ENDINGS.items() if name.lower().endswith(endings)), None)


def _kind_of_folder(folder: Path) -> str:
    if (folder / "zarr.json").exists():
        raise SourceError(
            f"{folder}: a Zarr hierarchy, such as a token store; expected images or codes to convert"
        )
    holds = {
        "seit": any(folder.glob(f"*{seit.DATA_ENDING}")),
        "tar": has_shards(folder, tar.ENDINGS),
        "parquet": has_shards(folder, parquet.ENDINGS),
        "array": arrays.is_array_folder(folder),
        "imagefolder": imagefolder.has_images(folder),
    }
    kinds = [kind for kind, here in holds.items() if here]
    if len(kinds) > 1:
        raise SourceError(f"{folder}: could be of kind {' or '.join(kinds)}; say which, or take them apart")
    if not kinds:
        raise SourceError(
            f"{folder}: nothing known found; looked for images in class folders or flat, .tar shards, "
            f".parquet files, the SeiT release (*{seit.DATA_ENDING}) and arrays (train.npy, train.npz)"
        )
    return kinds[0]

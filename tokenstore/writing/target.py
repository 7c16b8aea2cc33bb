"""The place of a new store: whether it is free, and the clearing up and packing after its manifest."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tokenstore.errors import Parameter, StoreExistsError
from tokenstore.files import whole_file
from tokenstore.format import ROOT
from tokenstore.reading import StoreFiles
from tokenstore.storage import SCRATCH, STAGING, Storage

HEADER = f"{STAGING}/conversion.json"
LOCK = f"{STAGING}/lock"


def check_target(target: Storage, resume: bool) -> bool:
    """Return True if an unfinished conversion is at `target`, False if nothing is.

    A conversion that has written nothing yet counts as nothing. Raises StoreExistsError for anything else at
    `target`, and without `resume` for an unfinished conversion.
    """
    storage = target.working_storage()
    files = [path for path in storage.files() if path not in (LOCK, SCRATCH)]
    unfinished = HEADER in files and len(files) > 1
    if unfinished and not resume:
        again = Parameter("resume", True)
        raise StoreExistsError(
            f"{target}: an unfinished conversion is there. Go on with it by {again}, or remove it",
            parameters=[again],
        )
    occupied = storage is not target and target.exists()
    if not unfinished:
        occupied = occupied or any(not path.startswith(f"{STAGING}/") for path in files)
    if occupied:
        raise StoreExistsError(f"{target}: something is already there; remove it or choose another path")
    return unfinished


def finish_commit(target: Storage) -> bool:
    """Clear up after a store's manifest was written, also after a crash; return True if the store is whole.

    The conversion's own files are removed, and a store that is to be a zip file is packed. Nothing is touched
    unless a whole store is at `target`. Raises the errors of opening that store.
    """
    storage = target.working_storage()
    if storage.exists(ROOT):
        StoreFiles(storage)
        storage.remove(STAGING)
        if storage is not target and storage.root is not None and target.root is not None:
            _pack(storage.root, target.root)
    elif storage is target or not target.exists():
        return False
    else:
        StoreFiles(target.reopened())
    if storage is not target:
        # subtle: the root goes first, or a crash here would have a half removed folder packed
        storage.remove(ROOT)
        storage.remove("")
    return True


def _pack(folder: Path, target: Path) -> None:
    """Pack a complete store into one zip file, uncompressed, always the same bytes."""
    scratch = folder / "packed"
    with (
        whole_file(target, temporary=scratch) as opened,
        zipfile.ZipFile(opened, "w", zipfile.ZIP_STORED) as packed,
    ):
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and path != scratch):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.file_size = file.stat().st_size
            with packed.open(info, "w") as member, file.open("rb") as data:
                while block := data.read(2**20):
                    member.write(block)

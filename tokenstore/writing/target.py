"""The place of a new store: its one writer, what is there, and the clearing up and packing at the end."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tokenstore.errors import ArgumentError, Parameter, StoreExistsError
from tokenstore.files import whole_file
from tokenstore.format import ROOT
from tokenstore.locks import LOCK_INSIDE, lock_file
from tokenstore.reading import StoreFiles
from tokenstore.storage import SCRATCH, STAGING, Storage
from tokenstore.writing.owner import OWNER, LocalOwner, Owner, RemoteOwner, owner_of

HEADER = f"{STAGING}/conversion.json"
LISTINGS = f"{STAGING}/.listings"
"""The folder of what a conversion's source lists, which says nothing about the target; no split's journal can
have that name."""


def own(target: Storage, resume: bool) -> Owner:
    """Become the one writer of `target`, until the owner's `release`.

    Raises ConversionError where another process is writing there, ArgumentError for a place in the folder of
    a store, and without `resume` StoreExistsError for a remote place that has an owner.
    """
    if target.root is not None:
        _refuse_inside(target, target.root)
    return RemoteOwner(target, resume) if target.root is None else LocalOwner(target)


def _refuse_inside(target: Storage, root: Path) -> None:
    """Raise ArgumentError for a place in the folder of a store, with which it would be removed or moved."""
    for folder in root.resolve().parents:
        try:
            is_store = b'"tokenstore"' in (folder / ROOT).read_bytes()
        except OSError:
            continue
        if is_store:
            raise ArgumentError(
                f"{target}: expected a place outside of any store, found one inside of the store {folder}. "
                "Choose another path"
            )


def check_target(target: Storage, resume: bool) -> bool:
    """Return True if an unfinished conversion is at `target`, False if nothing is.

    A local conversion that has written nothing but its header counts as nothing: no other process can be
    writing there. Raises StoreExistsError for anything else at `target`, and without `resume` for an
    unfinished conversion; ConversionError where another process is writing a local store there.
    """
    if target.root is None or not target.root.parent.exists():
        return look(target, resume)
    owner = own(target, resume)
    try:
        return look(target, resume)
    finally:
        owner.release()


def look(target: Storage, resume: bool) -> bool:
    """Return what `check_target` returns, for the owner of `target`."""
    storage = target.working_storage()
    between = target.interrupted_exchange()
    if between is not None:
        raise StoreExistsError(
            f"{target}: a store was here, and lies in {between}, since recoding it in its place was "
            "interrupted. Repeat that first, or choose another path"
        )
    files = [path for path in storage.files() if not _is_passing(path)]
    unfinished = HEADER in files and (target.root is None or len(files) > 1)
    if unfinished and not resume:
        again = Parameter("resume", True)
        other = owner_of(target) if target.root is None else None
        whose = f" ({other} is writing it, or was killed while it did)" if other is not None else ""
        raise StoreExistsError(
            f"{target}: an unfinished conversion is there{whose}. Go on with it by {again}, or remove it",
            parameters=[again],
        )
    occupied = storage is not target and target.exists()
    if not unfinished:
        occupied = occupied or any(not path.startswith(f"{STAGING}/") for path in files)
    if occupied:
        raise StoreExistsError(f"{target}: something is already there; remove it or choose another path")
    return unfinished


def _is_passing(path: str) -> bool:
    """Return True for a file that says nothing about its place: it comes and goes with a conversion."""
    return path in (SCRATCH, LOCK_INSIDE) or path.startswith((OWNER, f"{LISTINGS}/"))


def whole_store(target: Storage) -> StoreFiles | None:
    """Return the whole store at `target`, or that waits to be packed there; None if there is none.

    Nothing is written. Raises the errors of opening that store.
    """
    storage = target.working_storage()
    if storage.exists(ROOT):
        return StoreFiles(storage.reopened())
    return StoreFiles(target.reopened()) if storage is not target and target.exists() else None


def finish_commit(target: Storage) -> bool:
    """Clear up after a store's manifest was written, also after a crash; return True if the store is whole.

    The conversion's own files are removed, and a store that is to be a zip file is packed. Nothing is touched
    unless a whole store is at `target`. Raises the errors of opening that store, and ConversionError where
    another process is writing a local store there.
    """
    storage = target.working_storage()
    if not storage.exists(ROOT) and (storage is target or not target.exists()):
        return False
    is_clear = not storage.exists(STAGING if storage is target else "")
    if target.root is None or (is_clear and not lock_file(target.root).exists()):
        return finish(target)  # which does nothing in a local place then: perhaps it cannot be written
    owner = own(target, resume=True)
    try:
        return finish(target)
    finally:
        owner.release()


def finish(target: Storage) -> bool:
    """Do what `finish_commit` does, for the owner of `target`."""
    storage = target.working_storage()
    if storage.exists(ROOT):
        digest = StoreFiles(storage).root_digest
        storage.remove(STAGING)
        if storage is not target and storage.root is not None and target.root is not None:
            if target.exists() and StoreFiles(target.reopened()).root_digest != digest:
                raise StoreExistsError(f"{target}: expected the store of {storage}, found another. Move it")
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

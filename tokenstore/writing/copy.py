"""A complete store, copied file by file to another place, every digest checked on the way.

The target is written like a conversion: what is unfinished has no root `zarr.json`, and goes on with
`resume`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from tokenstore.errors import DamageError, StoreExistsError
from tokenstore.format.layout import ROOT
from tokenstore.format.manifest import FileRecord, Manifest
from tokenstore.reading.reader import TokenStore
from tokenstore.reading.store_files import Store
from tokenstore.storage.places import STAGING, Storage, working_storage
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import StoreWriter

OnProgress: TypeAlias = Callable[[int, int], None]

_AT_ONCE = 4
"""Files under way at one time; of each a block is in memory, or what an upload sends in one piece."""
_ATTEMPTS = 2
"""How often a file is copied before a wrong digest counts: a network may change a bit."""


def copy(
    source: TokenStore, target: Storage, *, resume: bool = False, on_progress: OnProgress | None = None
) -> Manifest:
    """Copy a store's files, and no others, to a folder, a `.zip` file or an fsspec URL.

    Every file is checked against the manifest while it is read, written whole, and read back; the root
    `zarr.json` comes last. `resume` keeps the files of an interrupted copy that have the right digest.
    `on_progress` is told, from any thread but one at a time, how many of how many bytes are there.

    Raises DamageError where bytes are not those of the manifest, StoreExistsError where something else is
    in the way, ConversionError where the unfinished store there is of another source.
    """
    store, manifest = source.files, source.files.manifest
    if resume and finish_commit(target):
        return _already_there(store, target)
    spec = StoreSpec(manifest.grid, manifest.codebook_sizes, manifest.tokenizer)
    progress = _Progress(store.nbytes, on_progress)
    with StoreWriter(target, spec, resume=resume, inputs={"copied": store.root_digest}) as writer:
        there = {path for path in writer.storage.files() if not path.startswith(f"{STAGING}/")}
        strangers = sorted(there - set(manifest.files))
        if strangers:
            raise StoreExistsError(
                f"{target}: expected only files of the copy that was begun, found {strangers[0]}. Remove it, "
                "or choose another path"
            )
        _copy_files(store, writer.storage, there, progress)
        root = b"".join(_checked(store.storage, ROOT, FileRecord(store.root_nbytes, store.root_digest)))
        writer.storage.write(ROOT, root)
        writer.close()
        finish_commit(target)
    if working_storage(target) is not target:
        packed = Storage(target.url)
        for path, record in manifest.files.items():
            _read_back(packed, path, record)
    progress.add(len(root))
    return manifest


def _already_there(store: Store, target: Storage) -> Manifest:
    found = Store(target if working_storage(target) is target else Storage(target.url))
    if found.root_digest != store.root_digest:
        raise StoreExistsError(
            f"{target}: expected nothing, or the store of {store.storage}, found another store. Choose "
            "another path, or remove it"
        )
    return found.manifest


def _copy_files(store: Store, target: Storage, there: set[str], progress: _Progress) -> None:
    scratch = target.root / STAGING if target.is_local_folder and target.root is not None else None
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            copies = [
                pool.submit(
                    _copy_file, store, target, path, Path(folder, str(number)), path in there, progress
                )
                for number, path in enumerate(store.manifest.files)
            ]
            for copied in as_completed(copies):
                copied.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _copy_file(
    store: Store, target: Storage, path: str, scratch: Path, there: bool, progress: _Progress
) -> None:
    record = store.manifest.files[path]
    if there and _holds(target, path, record):
        progress.add(record.size)
        return
    for attempt in range(_ATTEMPTS):
        done = 0
        try:
            with scratch.open("wb") as file:
                for block in _checked(store.storage, path, record):
                    file.write(block)
                    progress.add(len(block))
                    done += len(block)
            target.move_into_place(scratch, path)
            _read_back(target, path, record)
        except DamageError:
            progress.add(-done)
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


def _holds(storage: Storage, path: str, record: FileRecord) -> bool:
    try:
        _read_back(storage, path, record)
    except DamageError:
        return False
    return True


def _read_back(storage: Storage, path: str, record: FileRecord) -> None:
    for _ in _checked(storage, path, record):
        pass


def _checked(storage: Storage, path: str, expected: FileRecord) -> Iterator[bytes]:
    """A file's blocks; raises DamageError after the last where they are not what the manifest says."""
    digest, size = hashlib.sha256(), 0
    try:
        for block in storage.blocks(path):
            digest.update(block)
            size += len(block)
            yield block
    except FileNotFoundError as error:
        raise DamageError(f"{storage}/{path}: the file is missing. Restore it from another copy") from error
    if (size, digest.hexdigest()) != (expected.size, expected.sha256):
        raise DamageError(
            f"{storage}/{path}: expected {expected.size} bytes with SHA-256 {expected.sha256}, found {size} "
            f"bytes with {digest.hexdigest()}. Restore the file from another copy"
        )


class _Progress:
    """Bytes done, added up by several threads."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

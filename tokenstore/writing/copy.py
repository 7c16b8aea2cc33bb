"""The copy of a complete store, file by file to another place, every digest checked on the way.

The target is written like a conversion: an unfinished copy has no root `zarr.json`, and goes on with
`resume`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from tokenstore.errors import DamageError, StoreExistsError
from tokenstore.files import full_disk_named
from tokenstore.format import ROOT, FileRecord, Manifest
from tokenstore.locks import LOCK_INSIDE
from tokenstore.machine import in_order
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.storage import STAGING, Storage, refuse_options
from tokenstore.writing import choices
from tokenstore.writing.choices import checked_jobs
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import StoreWriter

OnProgress: TypeAlias = Callable[[int, int], None]
"""A progress callback: the bytes done, and the bytes in all."""

_PROGRESS_NBYTES = 2**22
"""The bytes after which a progress callback is called again."""
_ATTEMPTS = 2
"""The number of times a file is copied before a wrong digest counts: a network may change a bit."""


@dataclass(frozen=True)
class CopyResult:
    """A store that was copied."""

    location: str
    """The place of the copy, without a URL's user, password and query."""
    manifest: Manifest
    files: int
    """The number of files, the root `zarr.json` among them."""
    nbytes: int


def copy(
    source: StorePath | TokenStore,
    target: StorePath | Storage,
    *,
    jobs: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> CopyResult:
    """Copy the files of the store `source`, and no others, to a folder, a `.zip` file or an fsspec URL.

    Every file is checked against the manifest while it is read, written whole, and read back; the root
    `zarr.json` comes last. `jobs` files are under way at a time, by default 4. `resume` keeps the files of an
    interrupted copy that have the right digest. `storage_options` are those of `source`, or of `target` where
    `source` is local and has no use for them; `target_storage_options` are those of `target`. `on_progress`
    is called with the bytes copied so far and in all, from any thread but one at a time.

    Raises DamageError if bytes are not those of the manifest, StoreChangedError if another store takes the
    place of `source` meanwhile, StoreExistsError if something else is at `target`, ConversionError if an
    unfinished store at `target` is of another source, ArgumentError for options that no remote place has a
    use for and for `jobs` below 1, and the errors of `tokenstore.open`.
    """
    if target_storage_options is None and takes_options(target) and not takes_options(source):
        storage_options, target_storage_options = None, storage_options
    if not takes_options(target):
        refuse_options(target_storage_options, target, "target_storage_options")
    at_once = checked_jobs(jobs, choices.COPY_JOBS)
    opened = as_store(source, storage_options)
    place = as_storage(target, target_storage_options)
    store, manifest = opened.files, opened.files.manifest
    result = CopyResult(str(place), manifest, store.files, store.nbytes)
    if resume and finish_commit(place):
        _check_same_store(store, place)
        return result
    spec = StoreSpec(**manifest.shared())
    progress = Progress(store.nbytes, on_progress)
    with StoreWriter(place, spec, resume=resume, inputs={"copied": store.root_digest}) as writer:
        existing = {path for path in writer.storage.files() if not path.startswith(f"{STAGING}/")}
        strangers = sorted(path for path in existing if path != LOCK_INSIDE and not store.lists(path))
        if strangers:
            raise StoreExistsError(
                f"{place}: expected only files of the copy that was begun, found {strangers[0]}. Remove it, "
                "or choose another path"
            )
        _copy_files(store, writer, existing, progress, at_once)
        writer.storage.settle(path for path, _ in store.records())
        store.check_unchanged()
        root = _root(store)
        writer.complete(root)
    if place.working_storage() is not place:
        packed = place.reopened()
        deque(in_order(lambda file: read_back(packed, *file), store.records(), at_once), maxlen=0)
    progress.add(len(root))
    return result


def _check_same_store(store: StoreFiles, target: Storage) -> None:
    copied = StoreFiles(target.reopened())
    if copied.root_digest != store.root_digest:
        raise StoreExistsError(
            f"{target}: expected nothing, or the store of {store.storage}, found another store. Choose "
            "another path, or remove it"
        )


def _copy_files(
    store: StoreFiles, writer: StoreWriter, existing: set[str], progress: Progress, jobs: int
) -> None:
    target = writer.storage.folder
    with tempfile.TemporaryDirectory(dir=None if target is None else target / STAGING) as scratch:

        def copied(numbered: tuple[int, tuple[str, FileRecord]]) -> None:
            number, (path, record) = numbered
            copy_file(store, writer, path, record, Path(scratch, str(number)), path in existing, progress)

        deque(in_order(copied, enumerate(store.records()), jobs), maxlen=0)


def _root(store: StoreFiles) -> bytes:
    """Return the root's bytes; raises DamageError, and StoreChangedError where another store is by now."""
    try:
        return b"".join(_checked(store.storage, ROOT, FileRecord(store.root_nbytes, store.root_digest)))
    except DamageError:
        store.rule_out_change()
        raise


def copy_file(
    store: StoreFiles,
    writer: StoreWriter,
    path: str,
    record: FileRecord,
    scratch: Path,
    exists: bool,
    progress: Progress,
) -> None:
    """Copy one file of a store to the place of a writer, checked while it is read and once it is written.

    `scratch` is a temporary path for it, in the file system of a local place. A file that `exists` there with
    the right digest stays. Raises DamageError, and what storage raises.
    """
    target = writer.storage
    if exists and _has_digest(target, path, record):
        progress.add(record.size)
        return
    for attempt in range(_ATTEMPTS):
        done = reported = 0
        try:
            named = scratch if target.folder is None else target.folder / path
            with full_disk_named(named, record.size), scratch.open("wb") as file:
                for block in _checked(store.storage, path, record):
                    file.write(block)
                    done += len(block)
                    if done - reported >= _PROGRESS_NBYTES or done == record.size:
                        progress.add(done - reported)
                        reported = done
            writer.check()
            target.move_into_place(scratch, path)
            read_back(target, path, record)
        except DamageError:
            progress.add(-reported)
            if attempt + 1 == _ATTEMPTS:
                store.rule_out_change()
                raise
        else:
            return


def _has_digest(storage: Storage, path: str, record: FileRecord) -> bool:
    try:
        read_back(storage, path, record)
    except DamageError:
        return False
    return True


def read_back(storage: Storage, path: str, record: FileRecord) -> None:
    """Raise DamageError unless a file has the size and digest of its record."""
    for _ in _checked(storage, path, record):
        pass


def _checked(storage: Storage, path: str, expected: FileRecord) -> Iterator[bytes]:
    """Yield a file's blocks; raises DamageError after the last if they are not those of the manifest."""
    digest, size = hashlib.sha256(), 0
    try:
        for block in storage.blocks(path):
            digest.update(block)
            size += len(block)
            if size > expected.size:
                break
            yield block
    except FileNotFoundError as error:
        raise DamageError(f"{storage}/{path}: the file is missing. Restore it from another copy") from error
    if (size, digest.hexdigest()) != (expected.size, expected.sha256):
        raise DamageError(
            f"{storage}/{path}: expected {expected.size} bytes with SHA-256 {expected.sha256}, found {size} "
            f"bytes with {digest.hexdigest()}. Restore the file from another copy"
        )


class Progress:
    """A count of the bytes done, added up by several threads."""

    def __init__(self, total: int, on_progress: OnProgress | None = None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        """Count some bytes, or take back those of a file that is copied again."""
        with self._lock:
            self._done += nbytes
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

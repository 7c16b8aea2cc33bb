"""A file of a complete store as a file of another one: hard-linked where that is possible, else copied.

No writer changes a file of a store: it makes a new one and renames it. So two stores may share one file on
the disk.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from tokenstore.errors import DamageError
from tokenstore.format import FileRecord, file_record
from tokenstore.reading import StoreFiles
from tokenstore.storage import Storage

__all__ = ["StoredFile", "take"]


@dataclass(frozen=True)
class StoredFile:
    """A file of a complete store."""

    store: StoreFiles
    path: str
    record: FileRecord

    def read(self) -> bytes:
        """Return the file's bytes, their digest checked; raises DamageError and StoreChangedError."""
        try:
            data = self.store.storage.read(self.path, self.record.size)
        except (FileNotFoundError, DamageError) as error:
            self.store.rule_out_change()
            raise DamageError(f"{self.store.storage}/{self.path}: {error}. Restore it from a copy") from error
        if file_record(data) != self.record:
            self.store.rule_out_change()
            raise DamageError(
                f"{self.store.storage}/{self.path}: expected {self.record.size} bytes with SHA-256 "
                f"{self.record.sha256}, found others. Restore the file from a copy"
            )
        return data


def take(storage: Storage, path: str, file: StoredFile) -> bool:
    """Make a store's file the file `path` of a place, and return True if it was linked.

    A linked file is not read. A power cut may lose its name before `Storage.settle`. Raises StoreChangedError
    where another store has taken the place of the file's, DamageError where the file is copied, and what
    storage raises.
    """
    if linked(storage, path, file):
        return True
    storage.write_ahead(path, file.read())
    return False


def linked(storage: Storage, path: str, file: StoredFile) -> bool:
    """Hard-link a store's file as the file `path` of a place; return False where that is not possible.

    Raises StoreChangedError where another store is in the place of the file's by then.
    """
    if not _is_linked(storage, path, file):
        return False
    # subtle: a store that took the place before the link may have another file of this name and size
    file.store.check_unchanged()
    return True


def _is_linked(storage: Storage, path: str, file: StoredFile) -> bool:
    source = file.store.storage.folder
    if source is None or storage.folder is None:
        return False
    target, original = storage.folder / path, source / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another file system, or one without links, or too many of them
        # subtle: a link to a symbolic link would not be a file of the store's own
        if original.is_symlink() or original.stat().st_size != file.record.size:
            return False
        target.unlink(missing_ok=True)
        os.link(original, target)
        return True
    return False

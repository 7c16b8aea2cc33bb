"""Operations in a local store's place: the new store is whole beside the old one before they change places.

All that such an operation needs lies in one working folder beside the store: a marker that names the old
store and the new one by their root digests, the new store, and after the exchange the old one. Whoever works
there owns the store's place. So the place has the old store or the new one, whole, whenever the process is
killed. Only where the system cannot exchange two folders at once, a process that is killed between two
renames leaves nothing there; the marker then says so to every reader, and the next call goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tokenstore.errors import ConversionError, DamageError, StorageError, StoreError
from tokenstore.files import exchange, move_file, rename, write_file
from tokenstore.format import ROOT, encode_json
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.storage import IN_PLACE_MARKER, SCRATCH, Storage, open_storage
from tokenstore.storage.local import exchanged_store, working_folder
from tokenstore.version import __version__
from tokenstore.writing.copy import read_back
from tokenstore.writing.target import HEADER, finish_commit, own

_SCRATCH = f"{IN_PLACE_MARKER}.partial"
_T = TypeVar("_T")


def replace_store(
    place: Storage,
    settings: Mapping[str, Any],
    write: Callable[[TokenStore, Storage], _T],
    doing: str = "recode",
) -> _T | None:
    """Put a new store where one is, and return what `write` returns, which writes it.

    `write` gets the old store and a target, at which it may find what an interrupted call with the same
    `settings` (JSON values) has written. The result is None if such a call had written the new store already.
    A file that the new store shares with the old one, by a hard link, is not read back. `doing` is the verb
    of the operation, for messages.

    Raises StoreError for a store that is not local or cannot be moved, and for a working folder that is not
    ours or cannot be made; ConversionError where another process writes the store or has replaced it
    meanwhile; and the errors of `tokenstore.open`.
    """
    if place.root is None:
        raise StoreError(
            f"{place}: expected a local store to {doing} in its place. Name another place for the new one"
        )
    if place.interrupted_exchange() is None:
        StoreFiles(place.reopened())  # before anything is made beside it
    owner = own(place, resume=True)
    try:
        return _InPlace(place, place.root, settings).run(write)
    finally:
        owner.release()


@dataclass(frozen=True)
class _Marker:
    """The content of the file that makes a working folder ours."""

    store: str
    """The name of the store's folder or file."""
    old: str
    """The root digest of the store that is replaced."""
    new: str | None = None
    """The root digest of the store that takes its place, once it is whole."""
    settings: Mapping[str, Any] | None = None
    """All that decides the new store's bytes; None if what is left is of no use."""


class _InPlace:
    """An operation under way, and its working folder, for the owner of the place."""

    def __init__(self, place: Storage, root: Path, settings: Mapping[str, Any]) -> None:
        self.place = place
        self.root = Path(os.path.realpath(root))
        if os.path.ismount(self.root):
            raise StoreError(
                f"{place}: a mount point cannot change places with another folder. Name another place for "
                "the new store"
            )
        self.folder = working_folder(self.root)
        self.new = self.folder / ("new.zip" if self.root.is_file() else "new")
        self.old = exchanged_store(self.folder)
        self.settings = json.loads(encode_json({"tokenstore": __version__, **settings}))

    def run(self, write: Callable[[TokenStore, Storage], _T]) -> _T | None:
        marker = self._read_marker()
        if marker is not None:
            here = self._recover(marker)
            if here == marker.new:
                self._clear()
                if marker.settings == self.settings:
                    return None
                marker = None
            elif not self._goes_on(marker, here):
                self._discard(marker)
                marker = None
        store = TokenStore(StoreFiles(self.place.reopened()))
        if marker is None:
            self._make_folder()
            marker = _Marker(self.root.name, store.files.root_digest, settings=self.settings)
            self._write_marker(marker)
        result = self._written(store, marker, write)
        self._exchange(marker)
        return result

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.place}: expected room for the new store beside it ({error}). Name another place"
            ) from error

    def _goes_on(self, marker: _Marker, here: str | None) -> bool:
        """Return True if what an earlier call has left is of the same store and settings, and of use."""
        is_same = here == marker.old and marker.settings == self.settings
        return is_same and marker.new in (None, _digest(self.new))

    def _written(
        self, store: TokenStore, marker: _Marker, write: Callable[[TokenStore, Storage], _T]
    ) -> _T | None:
        """Write the new store, unless it is whole already."""
        target = open_storage(self.new)
        if finish_commit(target):
            return None
        try:
            return write(store, target)
        except BaseException:
            if set(target.working_storage().files()) <= {HEADER, SCRATCH}:  # nothing to go on with
                self._clear()
            raise

    def _exchange(self, marker: _Marker) -> None:
        """Check both stores, let them change places, and remove the old one."""
        new = StoreFiles(open_storage(self.new))
        try:
            for path, record in new.records():
                if not self._is_shared(path):
                    read_back(new.storage, path, record)
        except DamageError as error:
            self._discard(marker)
            raise ConversionError(
                f"{self.place}: what was written beside it reads back otherwise ({error}); the store is as "
                "it was. Repeat the call"
            ) from error
        self._write_marker(replace(marker, new=new.root_digest))
        if _digest(self.root) != marker.old:
            self._discard(marker)
            raise ConversionError(
                f"{self.place}: another process has replaced the store since it was read. Repeat the call"
            )
        try:
            if self.root.is_file():
                move_file(self.new, self.root)
            elif not exchange(self.root, self.new):
                rename(self.root, self.old)
                rename(self.new, self.root)
        except OSError as error:
            raise StoreError(
                f"{self.place}: cannot be moved ({error}). The new store is whole, at {self.new}: copy it, "
                "or repeat the call when the place can be changed"
            ) from error
        self._clear()

    def _is_shared(self, path: str) -> bool:
        """Return True for a path at which both stores have one file, which this call did not write."""
        try:
            return (self.root / path).samefile(self.new / path)
        except OSError:
            return False

    def _recover(self, marker: _Marker) -> str | None:
        """Put a store where an interrupted exchange left none; return the root digest of what is there.

        Raises StoreError if the place has another store by now, and the working folder the only old one.
        """
        if not os.path.lexists(self.root):
            for path, digest in ((self.new, marker.new), (self.old, marker.old)):
                if self.old.exists() and digest is not None and _digest(path) == digest:
                    rename(path, self.root)
                    return digest
        here = _digest(self.root)
        if here is None:
            raise StoreError(
                f"{self.place}: expected a store there or in {self.folder}, found none that is whole"
            )
        has_old = os.path.lexists(self.old) or _digest(self.new) == marker.old
        if has_old and here not in (marker.old, marker.new):
            raise StoreError(
                f"{self.place}: expected one of the stores that {self.folder / IN_PLACE_MARKER} names, found "
                f"another, and the old one in {self.folder}. Move that folder away, or remove it"
            )
        return here

    def _read_marker(self) -> _Marker | None:
        """Return the marker that an earlier call has left, or None; raise StoreError for a foreign folder."""
        if not os.path.lexists(self.folder):
            return None
        try:
            if not self.folder.is_symlink():
                if {path.name for path in self.folder.iterdir()} <= {_SCRATCH}:
                    return None  # of a call that was killed before it wrote its marker
                marker = _Marker(**json.loads((self.folder / IN_PLACE_MARKER).read_bytes()))
                if marker.store == self.root.name:
                    return marker
        except (OSError, ValueError, TypeError):
            pass
        raise StoreError(
            f"{self.folder}: expected nothing, or what recoding {self.place} has left there, found something "
            "else. Move it away"
        )

    def _write_marker(self, marker: _Marker) -> None:
        data = encode_json(asdict(marker))
        write_file(self.folder / IN_PLACE_MARKER, data, temporary=self.folder / _SCRATCH)

    def _discard(self, marker: _Marker) -> None:
        # subtle: a new store that is removed by half must not count as one
        self._write_marker(replace(marker, new=None, settings=None))
        self._clear()

    def _clear(self) -> None:
        """Remove the working folder, its marker last."""
        for path in self.folder.iterdir():
            if path.name != IN_PLACE_MARKER:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        (self.folder / IN_PLACE_MARKER).unlink(missing_ok=True)
        self.folder.rmdir()


def _digest(path: Path) -> str | None:
    """Return the root digest of the store in a folder or a zip file, None where no store is."""
    try:
        return hashlib.sha256(open_storage(path).read(ROOT)).hexdigest()
    except (OSError, DamageError):
        return None

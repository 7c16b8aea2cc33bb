"""The writing of an export: unit by unit, each read back before it counts, resumable, the list of files last.

While an export is under way, its folder `.partial` has what it is of (`export.json`) and a note of each unit
whose files are whole. The list of all files, `tokenstore-export.json`, is written at the end: with it, the
export is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenstore.errors import DamageError, Parameter, StoreExistsError, TokenstoreError
from tokenstore.files import full_disk_named, resumable, sync_files, sync_names
from tokenstore.format import encode_json
from tokenstore.locks import LOCK_INSIDE, lock_file
from tokenstore.storage import STAGING, Storage
from tokenstore.writing.export.base import Exported, Layout, Unit
from tokenstore.writing.export.contents import Digests, Values
from tokenstore.writing.owner import OWNER, Owner
from tokenstore.writing.target import own

__all__ = ["EXPORT_HEADER", "EXPORT_LIST", "OnProgress", "UnitRecord", "existing_list", "write_export"]

EXPORT_LIST = "tokenstore-export.json"
"""The list of an export's files, and what they are of."""
EXPORT_HEADER = f"{STAGING}/export.json"
"""The note of an unfinished export on what it is of."""
WRITING = "writing"
READING_BACK = "reading back"
_UNITS = f"{STAGING}/units"
_SCRATCH = "unit-"
"""The beginning of the name of a folder in which a unit's files are written."""

OnProgress = Callable[[str, int, int], None]
"""A progress callback: a split and what is done with it, the samples that are done, and all of them."""


@dataclass(frozen=True)
class UnitRecord:
    """The files of a unit that is whole."""

    files: int
    nbytes: int
    records: Mapping[str, Sequence[Any]]
    """The size and SHA-256 of each file by its path; none for a tree of many files."""
    values: Mapping[str, Sequence[Any]]
    """The number of values and their digest, of each column."""


def existing_list(target: Storage, inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the list of a complete export of the same `inputs` at a place; None where there is none.

    Raises StoreExistsError for a complete export of others.
    """
    try:
        listed: Mapping[str, Any] = json.loads(target.read(EXPORT_LIST))
    except FileNotFoundError:
        return None
    except ValueError:
        listed = {}
    found = listed.get("inputs")
    if found != json.loads(json.dumps(inputs)) or not isinstance(listed.get("splits"), dict):
        raise StoreExistsError(
            f"{target}: a complete export is there, of another store or other options. Choose another path, "
            "or remove it"
        )
    _clear(target)
    return listed


def _clear(target: Storage) -> None:
    """Remove what an export leaves that was killed at its very end: its working folder, and its lock."""
    has_lock = target.root is not None and lock_file(target.root).exists()
    if not has_lock and not target.exists(STAGING):
        return  # perhaps the place cannot be written
    owner = own(target, resume=True) if target.root is not None else None
    try:
        target.remove(STAGING)
    finally:
        if owner is not None:
            owner.release()


def write_export(
    target: Storage,
    layout: Layout,
    exported: Exported,
    inputs: Mapping[str, Any],
    *,
    resume: bool,
    about: Callable[[Sequence[UnitRecord]], Mapping[str, Any]],
    on_progress: OnProgress | None = None,
) -> Mapping[str, Any]:
    """Write an export of `inputs`, or go on with it, and return its list of files.

    `about` gives what the list says beside the files. Raises StoreExistsError if something else is at the
    target, ConversionError where another process is writing there, DamageError if a file that was written
    does not read back to the same values, and the errors of storage.
    """
    if target.root is None:
        _look(target, resume, inputs)  # before an owner is written there
    owner = own(target, resume)
    try:
        _begin(target, resume, inputs)
        if target.folder is not None:
            for scratch in (target.folder / STAGING).glob(f"{_SCRATCH}*"):  # of an export that was killed
                shutil.rmtree(scratch)
        job = _Job(target, layout, exported, owner, _Progress(exported, on_progress))
        records = list(job.records())
        for path, data in layout.extras(exported).items():
            target.write(path, data)
        listed = {
            "inputs": dict(inputs),
            **about(records),
            "files": {path: record for unit in records for path, record in unit.records.items()},
        }
        owner.check()
        target.create(EXPORT_LIST, encode_json(json.loads(json.dumps(listed))))
        owner.stop()
        target.remove(STAGING)
    except OSError as error:
        if (full := resumable(error)) is not None:
            raise full from error
        raise
    finally:
        owner.release()
    return listed


def _begin(target: Storage, resume: bool, inputs: Mapping[str, Any]) -> None:
    if not _look(target, resume, inputs):
        target.remove(EXPORT_HEADER)
        target.write(EXPORT_HEADER, encode_json(json.loads(json.dumps(inputs))))


def _look(target: Storage, resume: bool, inputs: Mapping[str, Any]) -> bool:
    """Return True if an unfinished export of the same inputs is at the target; raise StoreExistsError.

    A local export without any unit counts as nothing: no other process can be writing there.
    """
    files = [path for path in target.files() if path != LOCK_INSIDE and not path.startswith(OWNER)]
    again = Parameter("resume", True)
    begun = [path for path in files if path != EXPORT_HEADER and not path.startswith(f"{STAGING}/{_SCRATCH}")]
    if EXPORT_HEADER in files and (begun or target.root is None):
        if not resume:
            raise StoreExistsError(
                f"{target}: an unfinished export is there. Go on with it by {again}, or remove it",
                parameters=[again],
            )
        written, expected = json.loads(target.read(EXPORT_HEADER)), json.loads(json.dumps(inputs))
        different = [key for key in {**written, **expected} if written.get(key) != expected.get(key)]
        if different:
            was, now = (f"{values.get(different[0])!r:.200}" for values in (written, expected))
            raise StoreExistsError(
                f"{target}: cannot go on with other inputs: {different[0]} was {was}, is now {now}. Use what "
                "it was begun with, or remove the unfinished export"
            )
        return True
    if any(not path.startswith(f"{STAGING}/") for path in files):
        raise StoreExistsError(f"{target}: something is already there; remove it or choose another path")
    return False


class _Progress:
    """The progress callback of an export, and how many values of each split and step are done."""

    def __init__(self, exported: Exported, on_progress: OnProgress | None) -> None:
        self._exported = exported
        self._on_progress = on_progress
        self._done: dict[str, int] = {}

    def add(self, split: str, step: str, values: int) -> None:
        """Count the values of some samples, of one or more columns, as done."""
        contents, name = self._exported.splits[split], f"{split}, {step}"
        self._done[name] = self._done.get(name, 0) + values
        if self._on_progress is not None:
            self._on_progress(name, self._done[name] // len(contents.names), len(contents))


@dataclass(frozen=True)
class _Job:
    """One export: its target, its layout, and what is exported."""

    target: Storage
    layout: Layout
    exported: Exported
    owner: Owner
    progress: _Progress

    def records(self) -> Iterator[UnitRecord]:
        """Write the units that are not whole yet, and yield the records of all."""
        for number, unit in enumerate(self.layout.units(self.exported)):
            record = self._noted(number, unit)
            if record is None:
                record = self._written(number, unit)
            else:
                values = (unit.stop - unit.start) * len(unit.columns)
                self.progress.add(unit.split, WRITING, values)
                self.progress.add(unit.split, READING_BACK, values)
            yield record

    def _noted(self, number: int, unit: Unit) -> UnitRecord | None:
        """Return the record of a unit that an earlier call wrote, if its files are still there."""
        try:
            values = json.loads(self.target.read(_note_path(number)))
        except FileNotFoundError:
            return None
        record = UnitRecord(**values)
        for path, (size, _) in record.records.items():
            try:
                if self.target.size(path) != size:
                    return None
            except FileNotFoundError:
                return None
        is_here = self.target.root is not None  # where looking for each file is cheap
        if unit.is_tree and is_here and not all(map(self.target.exists, unit.files)):
            return None
        return record

    def _written(self, number: int, unit: Unit) -> UnitRecord:
        scratch = self.target.folder
        if scratch is not None:
            (scratch / STAGING).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=_SCRATCH, dir=None if scratch is None else scratch / STAGING
        ) as name:
            folder = Path(name)
            with full_disk_named(folder if scratch is None else scratch / unit.name):
                values = self._write_files(unit, folder)
            self._check_files(unit, folder, values)
            self.owner.check()
            record = self._move(unit, folder, values)
        self.target.write(_note_path(number), encode_json(vars(record)))
        return record

    def _write_files(self, unit: Unit, folder: Path) -> Mapping[str, Sequence[Any]]:
        contents = self.exported.splits[unit.split]
        digests = Digests(contents.kinds)

        def stream(columns: Sequence[str], size: int | None = None) -> Iterator[Values]:
            for values in contents.batches(columns, unit.start, unit.stop, size):
                digests.add(values)
                yield values
                self.progress.add(unit.split, WRITING, sum(map(len, values.values())))

        for path in unit.paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        self.layout.write(self.exported, unit, stream, folder)
        return digests.to_dict()

    def _check_files(self, unit: Unit, folder: Path, expected: Mapping[str, Sequence[Any]]) -> None:
        """Read the files back; raise DamageError unless they hold what was written."""
        digests = Digests(self.exported.splits[unit.split].kinds)
        try:
            for values in self.layout.read(self.exported, unit, folder):
                digests.add(values, f"{unit.name}: ")
                self.progress.add(unit.split, READING_BACK, sum(map(len, values.values())))
        except (OSError, TokenstoreError):
            raise
        except Exception as error:
            raise DamageError(f"{unit.name}: cannot be read back: {error}. Report this") from error
        found = digests.to_dict()
        for column, written in expected.items():
            if found.get(column) != written:
                raise DamageError(
                    f"{unit.name}: expected the values of {column} that were written, found others when it "
                    "was read back. Try again; if it happens again, report it"
                )

    def _move(self, unit: Unit, folder: Path, values: Mapping[str, Sequence[Any]]) -> UnitRecord:
        """Move a unit's files into place, and return its record."""
        paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        nbytes = sum((folder / path).stat().st_size for path in paths)
        records: dict[str, list[Any]] = {}
        if not unit.is_tree:
            for path in paths:
                with (folder / path).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                records[path] = [(folder / path).stat().st_size, digest]
        if unit.is_tree and self.target.folder is not None:
            _move_all(folder, self.target.folder, paths)
        else:
            for path in paths:
                self.target.move_into_place(folder / path, path)
        return UnitRecord(len(paths), nbytes, records, values)


def _move_all(folder: Path, target: Path, paths: Sequence[str]) -> None:
    """Move many small files, and flush them and their names to the disk."""
    sync_files(folder, paths)
    with full_disk_named(target):
        for parent in {Path(path).parent for path in paths}:
            (target / parent).mkdir(parents=True, exist_ok=True)
        for path in paths:
            os.replace(f"{folder}/{path}", f"{target}/{path}")  # noqa: PTH105 (pathlib costs more)
    sync_names(target, paths)


def _note_path(number: int) -> str:
    return f"{_UNITS}/{number:06d}.json"

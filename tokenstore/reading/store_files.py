"""The files of a complete store: its manifest, its tables, and the layouts of its arrays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.errors import (
    DamageError,
    IncompleteStoreError,
    ManifestError,
    NotAStoreError,
    Parameter,
    StoreChangedError,
    TokenstoreError,
)
from tokenstore.format import (
    LABELS,
    ROOT,
    SAMPLES_TABLE,
    SHARD_MANIFEST,
    TOKENS,
    ArrayLayout,
    FileRecord,
    Manifest,
    check_shard_nbytes,
    checked_layout,
    decode_records,
    decode_root,
    file_record,
    has_shard_manifest,
    samples_part,
    shard_sizes,
)
from tokenstore.reading.code_tables import CodeTables
from tokenstore.storage import STAGING, Cache, Storage, open_storage

MAX_JSON_NBYTES = 200_000_000
"""The largest list that is read: a million files take 146 MB in the root `zarr.json`, or 40 MB in a shard
manifest."""
MAX_JSON_VALUES = 2**22
"""The most values of a JSON file that is parsed, for memory: a million files are three million."""
MAX_TABLE_NBYTES = (2**30, 2**12)
"""The largest table that is read as a whole: so many bytes, and so many more for each sample of the store."""
_METADATA_NBYTES = 2**16
"""The largest metadata file whose bytes stay in memory; a context model is larger."""
CHECK_SECONDS = 2.0
"""The longest time in which parts of a remote store are fetched without a look at its root."""
_NUMBER = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)
_DIGEST = re.compile(rb'"digest"\s*:\s*"([0-9a-f]{64})"')


class StoreFiles(CodeTables):
    """The files and metadata of a complete store, from which readers take codes.

    Raises NotAStoreError where there is no store, IncompleteStoreError where a conversion has not finished,
    VersionError where the store needs a newer version, ManifestError where its manifest is not valid, and
    DamageError where its metadata has changed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Storage,
        storage_options: Mapping[str, Any] | None = None,
        *,
        cache: Cache | None = None,
    ) -> None:
        self.storage = url if isinstance(url, Storage) else open_storage(url, storage_options)
        self.cache = cache
        """The cache of fetched parts of the store on this machine's disk."""
        opened, version = time.monotonic(), self.storage.version(ROOT)
        try:
            root = self.storage.read(ROOT, MAX_JSON_NBYTES)
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise _why_no_root(self.storage) from error
        self.manifest: Manifest = self._decoded(root)
        self.root_nbytes = len(root)
        self.root_digest = hashlib.sha256(root).hexdigest()
        self._metadata: dict[str, bytes] = {}
        self._span = _digest_span(root)
        self._digest = root[slice(*self._span)]
        self._version, self._checked, self._changes = version, opened, self.storage.changes
        self._layouts: dict[str, tuple[ArrayLayout, npt.NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layouts": {}}  # read again: codecs with a model are large

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.manifest.splits)

    def split_arrays(self, split: str) -> tuple[str, ...]:
        """Return the names of a split's aligned arrays, `tokens` first."""
        prefix, suffix = f"{split}/", f"/{ROOT}"
        names = [
            path[len(prefix) : -len(suffix)]
            for path in self.manifest.files
            if path.startswith(prefix) and path.endswith(suffix)
        ]
        names = [name for name in names if name and "/" not in name]
        return tuple(sorted(names, key=lambda name: (name != TOKENS, name != LABELS, name)))

    def layout(self, array: str) -> ArrayLayout:
        """Return the layout of an aligned array, such as `train/tokens`.

        Raises ManifestError where the layout contradicts the manifest, and DamageError.
        """
        return self._checked_layout(array)[0]

    def shard_nbytes(self, array: str) -> npt.NDArray[np.int64]:
        """Return the bytes of each shard of an aligned array (shards,), as the manifest says.

        Raises what `layout` raises.
        """
        return self._checked_layout(array)[1]

    def _checked_layout(self, array: str) -> tuple[ArrayLayout, npt.NDArray[np.int64]]:
        if array not in self._layouts:
            where = f"{self.storage}/{array}"
            layout = checked_layout(self.read_json(f"{array}/{ROOT}"), self.manifest, array, where)
            if has_shard_manifest(self.manifest, array):
                nbytes = shard_sizes(self.read_checked(f"{array}/{SHARD_MANIFEST}"))
            else:
                files = self.manifest.files
                paths = (f"{array}/{layout.shard_file(shard)}" for shard in range(layout.shards))
                nbytes = np.fromiter((files[path].size for path in paths), np.int64, layout.shards)
            check_shard_nbytes(layout, nbytes, where)
            self._layouts[array] = layout, nbytes
        return self._layouts[array]

    @cached_property
    def nbytes(self) -> int:
        """The bytes of all files of the store."""
        listed = sum(int(self.shard_nbytes(array).sum()) for array in self.listed_arrays)
        return self.root_nbytes + sum(record.size for record in self.manifest.files.values()) + listed

    def records(self) -> Iterator[tuple[str, FileRecord]]:
        """Yield the path, the size and the digest of every file of the store but the root.

        Raises ManifestError and DamageError where a file with the shards of an array is bad.
        """
        yield from self.manifest.files.items()
        for array in self.listed_arrays:
            yield from self.shard_records(array)

    @cached_property
    def listed_arrays(self) -> tuple[str, ...]:
        """The arrays, such as `train/tokens`, whose shards are in a file of their own and not in the root."""
        arrays = (f"{split}/{name}" for split in self.splits for name in self.split_arrays(split))
        return tuple(array for array in arrays if has_shard_manifest(self.manifest, array))

    def shard_records(self, array: str) -> Iterator[tuple[str, FileRecord]]:
        """Yield the path, the size and the digest of every shard of one of the `listed_arrays`.

        Raises what `layout` raises.
        """
        layout = self.layout(array)
        data = self.read_checked(f"{array}/{SHARD_MANIFEST}")
        for shard, record in enumerate(decode_records(data)):
            yield f"{array}/{layout.shard_file(shard)}", record

    def lists(self, path: str) -> bool:
        """Return True for the path of a file of the store but the root; raises what `layout` raises."""
        if path in self.manifest.files:
            return True
        array, _, shard = path.partition("/c/")
        number = shard.partition("/")[0]
        if array not in self.listed_arrays or not _NUMBER.fullmatch(number):
            return False
        layout = self.layout(array)
        return int(number) < layout.shards and path == f"{array}/{layout.shard_file(int(number))}"

    @property
    def files(self) -> int:
        """The number of files of the store, the root among them."""
        return 1 + len(self.manifest.files) + sum(self.layout(array).shards for array in self.listed_arrays)

    def samples_parts(self, split: str) -> tuple[tuple[str, int], ...]:
        """Return the path and the number of rows of each file of a split's samples table, in order."""
        summary, path = self.manifest.splits[split], f"{split}/{SAMPLES_TABLE}"
        if summary.part_rows is None:
            return ((path, summary.samples),)
        starts = range(0, summary.samples, summary.part_rows)
        self._check_parts(path, len(starts))
        return tuple(
            (samples_part(path, part), min(summary.part_rows, summary.samples - start))
            for part, start in enumerate(starts)
        )

    def _check_parts(self, table: str, expected: int) -> None:
        """Raise ManifestError unless the manifest lists exactly so many parts of a table."""
        listed = sum(path.startswith(f"{table}/") for path in self.manifest.files)
        if listed != expected:
            raise ManifestError(
                f"{self.storage}/{table}: expected {expected} parts in the manifest, found {listed}"
            )

    def check_unchanged(self) -> None:
        """Raise StoreChangedError unless the store at this place is still the one that was opened.

        The digest in the root says so, which is one small read; it is not read where a local file's status
        says that the root is the same file. Bytes that were read before the call are then this store's.
        Raises DamageError and ManifestError where the root is now no store's, and StorageError.
        """
        version = self.storage.version(ROOT)
        if version is not None and version == self._version:
            return
        began, changes = time.monotonic(), self.storage.changes
        try:
            if self._root_differs():
                raise self._changed("it was recoded or replaced")
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise self._changed("it was removed or is being replaced") from error
        self._version, self._checked, self._changes = version, began, changes

    def check_fetched(self, *, at_once: bool) -> None:
        """Check the same after a fetch, at least if storage has noticed a change or some seconds went by."""
        recently = 0 <= time.monotonic() - self._checked < CHECK_SECONDS
        if at_once or not recently or self.storage.changes != self._changes:
            self.check_unchanged()

    def rule_out_change(self) -> None:
        """Raise StoreChangedError if another store is in this place: it explains what looks like damage."""
        try:
            self.check_unchanged()
        except StoreChangedError:
            raise
        except (TokenstoreError, OSError):
            pass

    def _root_differs(self) -> bool:
        with contextlib.suppress(DamageError):  # shorter than it was
            if self.storage.read_range(ROOT, *self._span) == self._digest:
                return False
        for last_attempt in (False, True):
            root = self.storage.read(ROOT, MAX_JSON_NBYTES)
            if hashlib.sha256(root).hexdigest() == self.root_digest:
                return False  # a network had changed the bytes
            try:
                self._decoded(root)
            except (DamageError, ManifestError):
                if last_attempt:
                    raise
            else:
                break
        return True

    def _decoded(self, root: bytes) -> Manifest:
        where = f"{self.storage}/{ROOT}"
        _check_values(root, where)
        return decode_root(root, where)

    def _changed(self, how: str) -> StoreChangedError:
        return StoreChangedError(
            f"{self.storage}: the store has changed since it was opened: {how}. Open it again"
        )

    def record(self, path: str) -> FileRecord:
        """Return the size and digest of a file in the manifest; raises DamageError for an unlisted file."""
        try:
            return self.manifest.files[path]
        except KeyError:
            raise DamageError(f"{self.storage}: the manifest lists no file {path}") from None

    def table_record(self, path: str) -> FileRecord:
        """Return the size and digest of a table or a JSON file, before it is read.

        Raises DamageError for an unlisted file, ManifestError for one of an impossible size.
        """
        expected = self.record(path)
        samples = sum(split.samples + split.skipped for split in self.manifest.splits.values())
        fixed, per_sample = MAX_TABLE_NBYTES
        most = fixed + per_sample * samples
        if path.endswith((ROOT, SHARD_MANIFEST)):
            most = MAX_JSON_NBYTES
        if expected.size > most:
            raise ManifestError(
                f"{self.storage}/{path}: expected at most {most} bytes, found {expected.size}"
            )
        return expected

    def check_record(self, path: str, actual: FileRecord) -> None:
        """Raise DamageError unless a file has the size and digest of its record, or StoreChangedError."""
        expected = self.record(path)
        if actual != expected:
            self.rule_out_change()
            raise DamageError(
                f"{self.storage}/{path}: expected {expected.size} bytes with SHA-256 {expected.sha256}, "
                f"found {actual.size} bytes with {actual.sha256}. Restore the file from a copy"
            )

    @override
    def read_checked(self, path: str) -> bytes:
        """Return a whole file's bytes, their digest checked; raises DamageError and StoreChangedError.

        Metadata is read once.
        """
        if path in self._metadata:
            return self._metadata[path]
        expected = self.table_record(path)
        try:
            data = self.storage.read(path, expected.size)
        except FileNotFoundError as error:
            self.rule_out_change()
            raise DamageError(
                f"{self.storage}/{path}: the file is missing. Restore it from a copy"
            ) from error
        except DamageError:
            self.rule_out_change()
            raise
        self.check_record(path, file_record(data))
        if path.endswith(ROOT) and len(data) <= _METADATA_NBYTES:
            self._metadata[path] = data
        return data

    @override
    def read_json(self, path: str) -> Any:
        data = self.read_checked(path)
        _check_values(data, f"{self.storage}/{path}")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{self.storage}/{path}: expected JSON: {error}") from error


def _check_values(data: bytes, where: str) -> None:
    """Raise ManifestError for JSON of so many values that they would not fit in memory."""
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_JSON_VALUES:
        raise ManifestError(f"{where}: expected at most {MAX_JSON_VALUES} values, found {values}")


def _digest_span(root: bytes) -> tuple[int, int]:
    """Return the place of the manifest's digest in a root `zarr.json`, or all of it."""
    for match in _DIGEST.finditer(root):
        start, stop = match.span(1)
        zeros = b"0" * (stop - start)
        if hashlib.sha256(root[:start] + zeros + root[stop:]).hexdigest().encode() == match[1]:
            return start, stop
    return 0, len(root)


def _why_no_root(storage: Storage) -> NotAStoreError | IncompleteStoreError:
    between = storage.interrupted_exchange()
    if between is not None:
        return IncompleteStoreError(
            f"{storage}: the store and its new edition were changing places when that was interrupted; both "
            f"are whole in {between}. Recode the store in its place again, or repeat what was interrupted, "
            "which "
            "ends the change"
        )
    if storage.working_storage().exists(STAGING):
        resume = Parameter("resume", True)
        return IncompleteStoreError(
            f"{storage}: this store is not complete: the conversion, recoding or copy that writes it was "
            f"interrupted or is still running. Repeat the same with {resume}",
            parameters=[resume],
        )
    inside = storage.folder_with(ROOT) if storage.exists() else None
    if inside is not None:
        return NotAStoreError(
            f"{storage}: expected a token store, found no {ROOT} at the top of the zip file, but one in its "
            f"folder {inside!r}. If that is the store, zip what is in the folder, without the folder itself: "
            "unzip it, go into the folder, and run `zip -0 -r ../NAME.zip .`"
        )
    if storage.exists():
        return NotAStoreError(f"{storage}: expected a token store, found no {ROOT} in it")
    return NotAStoreError(f"{storage}: no such file or folder; expected a token store")

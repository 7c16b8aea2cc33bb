"""A new edition of a store: a few files written anew, and all others linked or copied as they are."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenstore.files import full_disk_named
from tokenstore.format import (
    ROOT,
    FileRecord,
    Manifest,
    encode_json,
    encode_root,
    file_record,
)
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.storage import STAGING, Storage
from tokenstore.version import __version__
from tokenstore.writing.copy import Progress, copy_file
from tokenstore.writing.editing.new_store import EditedStore, OnSamples, new_store, opened_places, operation
from tokenstore.writing.in_place import replace_store
from tokenstore.writing.linked import StoredFile, linked, take
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter

__all__ = ["Edition", "Editor", "edit"]

Editor = Callable[["Edition"], Mapping[str, Any]]
"""A function that writes the new files of an edition, and returns the fields of its manifest that change."""


class Edition:
    """The files of a new edition of a store, written through a writer of its place."""

    def __init__(self, store: TokenStore, writer: StoreWriter, scratch: Path) -> None:
        self.store, self._writer, self._scratch = store, writer, scratch
        self.files: dict[str, FileRecord] = {}
        """The files that are written or kept so far, as the manifest is to list them."""
        self.listed_arrays = set(store.files.listed_arrays)
        """The arrays whose shards are in a file of their own."""
        self._unlisted: dict[str, None] = {}
        """The paths of shards that a file of their array lists."""

    @property
    def storage(self) -> Storage:
        """The place where the edition is written."""
        return self._writer.storage

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the new edition."""
        self._writer.check()
        self.storage.write_ahead(path, data)
        self._note(path, file_record(data))

    def write_document(self, node: str, document: dict[str, Any]) -> None:
        """Write the Zarr metadata of a group or an array."""
        self.write(f"{node}/{ROOT}", encode_json(document))

    def write_table(self, path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """Write a table, a row group for each of `tables`."""
        scratch = self._scratch / "table"
        with full_disk_named(scratch), pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        with scratch.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.files[path] = FileRecord(scratch.stat().st_size, digest)
        self._writer.check()
        self.storage.move_into_place(scratch, path)

    def take(self, path: str, file: StoredFile) -> None:
        """Link or copy a file of any store; raises DamageError where it is not as it should be."""
        self._writer.check()
        take(self.storage, path, file)
        self._note(path, file.record)

    def keep(self, path: str, record: FileRecord) -> None:
        """Link or copy a file of the store before; raises DamageError where a copy is not as it should be."""
        source = self.store.files
        if not linked(self.storage, path, StoredFile(source, path, record)):
            copy_file(source, self._writer, path, record, self._scratch / "copy", True, Progress(0))
        self._note(path, record)

    def _note(self, path: str, record: FileRecord) -> None:
        if path.partition("/c/")[0] in self.listed_arrays:
            self._unlisted[path] = None
        else:
            self.files[path] = record

    def _has(self, path: str) -> bool:
        return path in self.files or path in self._unlisted

    def keep_rest(self, but: Collection[str] = (), on_progress: OnSamples | None = None) -> None:
        """Keep all files but those that are written, and those of some arrays and tables (by path).

        `on_progress` is called with the name of this step, the files that are done, and all files.
        """
        folders = tuple(f"{path}/" for path in but)
        total = sum(1 for _ in self.store.files.records())
        for done, (path, record) in enumerate(self.store.files.records(), 1):
            if not self._has(path) and path not in but and not path.startswith(folders):
                self.keep(path, record)
            if on_progress is not None:
                on_progress("keeping files", done, total)

    def commit(self, fields: Mapping[str, Any]) -> Manifest:
        """Write the manifest last, with some fields changed; the new edition is complete."""
        before = self.store.manifest
        files = dict(sorted(self.files.items()))
        own = {"splits": before.splits, "features": before.features, "part": None}
        manifest = Manifest(
            **{**before.shared(), **own, **fields, "files": files, "created_by": f"tokenstore {__version__}"}
        )
        manifest.check()
        suffix = f"/{ROOT}"
        nodes = {
            path.removesuffix(suffix): json.loads(self.storage.read(path))
            for path in files
            if path.endswith(suffix)
        }
        self.storage.settle([*files, *self._unlisted])
        self._writer.complete(encode_root(manifest, nodes))
        return manifest


def edit(
    store: StorePath | TokenStore,
    out: StorePath | Storage | None,
    done: Mapping[str, Any],
    editor: Callable[[TokenStore], Editor],
    *,
    others: Sequence[TokenStore] = (),
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
) -> EditedStore:
    """Write a new edition of `store` at `out`, or for None in its place.

    `done` is the operation, for the store's history: its name under `name`, and the arguments that decide the
    result. `others` are further stores that it reads. `editor` checks an open store, and returns the function
    that writes its new files.

    Raises what `editor` raises, StoreError for a store that cannot be replaced in its place, StoreExistsError
    and ConversionError as `StoreWriter` does, DamageError, and the errors of `tokenstore.open`.
    """
    if out is not None:
        places = opened_places([store], out, storage_options, target_storage_options)
        (opened,) = places.stores
        return _written([opened, *others], places.target, done, editor, resume)
    place = store.files.storage if isinstance(store, TokenStore) else as_storage(store, storage_options)
    result = replace_store(
        place,
        {**done, "others": [other.files.root_digest for other in others]},
        lambda old, target: _written([old, *others], target, done, editor, resume=True),
        doing=str(done["name"]),
    )
    written = StoreFiles(place.reopened())
    return EditedStore(written.storage.url, written.manifest, written.nbytes, result is None)


def _written(
    stores: Sequence[TokenStore],
    target: Storage,
    done: Mapping[str, Any],
    editor: Callable[[TokenStore], Editor],
    resume: bool,
) -> EditedStore:
    store = stores[0]
    write_files = editor(store)
    history = (*store.manifest.history, operation(stores=stores, **done))
    spec = StoreSpec(**{**store.manifest.shared(), "history": history, "part": None})

    def write(writer: StoreWriter) -> None:
        folder = writer.storage.folder
        with tempfile.TemporaryDirectory(dir=None if folder is None else folder / STAGING) as scratch:
            edition = Edition(store, writer, Path(scratch))
            edition.commit({"history": history, **write_files(edition)})

    return new_store(target, spec, resume, write)

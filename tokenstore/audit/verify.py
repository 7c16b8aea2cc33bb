"""Does a store hold what it promises? Every digest, checksum, code, label and alignment."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenstore.errors import (
    DamageError,
    IncompleteStoreError,
    NotAStoreError,
    StorageError,
    TokenstoreError,
)
from tokenstore.format.layout import LABELS, ROOT, SAMPLES_TABLE, SKIPPED_TABLE, TOKENS, code_planes
from tokenstore.format.manifest import FileRecord, consolidates
from tokenstore.reading.reader import ArrayReader
from tokenstore.reading.store_files import Store
from tokenstore.storage.places import STAGING, Storage


@dataclass
class Verification:
    """What a verification found; the store is as promised where `problems` is empty."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    nbytes: int = 0
    chunks: int = 0
    samples: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    url: str | Storage,
    *,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check every byte of a store and all that its bytes mean.

    `on_progress` is told how many of how many bytes have been read. Raises NotAStoreError and
    IncompleteStoreError where there is no complete store; everything else is reported, not raised.
    """
    found = Verification()
    try:
        storage = url if isinstance(url, Storage) else Storage(url, storage_options)
        store = Store(storage)
    except (NotAStoreError, IncompleteStoreError):
        raise
    except TokenstoreError as error:
        found.problems.append(str(error))
        return found
    found.files, found.nbytes = 1, store.root_nbytes
    damaged = set()
    for path, record in store.manifest.files.items():
        problem = _check_file(storage, path, record)
        if problem is not None:
            found.problems.append(f"{storage}/{path}: {problem}")
            damaged.add(path)
        found.files += 1
        found.nbytes += record.size
        if on_progress is not None:
            on_progress(found.nbytes, store.nbytes)
    _check_listing(store, damaged, found)
    for array, check in (("codebook", _check_codebook), ("synonyms", _check_synonyms)):
        if f"{array}/{ROOT}" in store.manifest.files and not _table_is_damaged(array, damaged):
            try:
                found.problems += check(store)
            except TokenstoreError as error:
                found.problems.append(str(error))
    for split in store.splits:
        _check_split(store, split, damaged, found)
    return found


def _check_file(storage: Storage, path: str, expected: FileRecord) -> str | None:
    digest = hashlib.sha256()
    size = 0
    try:
        for block in storage.blocks(path):
            digest.update(block)
            size += len(block)
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, ValueError, DamageError) as error:
        return f"cannot be read: {error}"
    if size != expected.size:
        return f"expected {expected.size} bytes, found {size}"
    if digest.hexdigest() != expected.sha256:
        return f"expected SHA-256 {expected.sha256}, found {digest.hexdigest()}"
    return None


def _check_listing(store: Store, damaged: set[str], found: Verification) -> None:
    nodes = _consolidated_metadata(store)
    documents = [path for path in store.manifest.files if path.endswith(f"/{ROOT}") and path not in damaged]
    for path in documents if consolidates(store.manifest) else ():
        if nodes.get(path.removesuffix(f"/{ROOT}")) != _json(store, path):
            found.problems.append(f"{store.storage}/{ROOT}: the consolidated metadata is not that of {path}")
    try:
        listed = list(store.storage.files())
    except StorageError as error:
        found.notes.append(f"files that are not the store's are not looked for: {error}")
        return
    extra = [path for path in listed if path not in store.manifest.files and path != ROOT]
    staged = [path for path in extra if path.startswith(f"{STAGING}/")]
    if staged:
        found.notes.append(f"{len(staged)} files of the finished conversion are left in {STAGING}; remove it")
    strangers = [path for path in extra if path not in staged]
    if strangers:
        found.notes.append(f"{len(strangers)} files are not the store's, the first is {strangers[0]}")


def _consolidated_metadata(store: Store) -> Mapping[str, Any]:
    try:
        return dict(_json(store, ROOT)["consolidated_metadata"]["metadata"])
    except (KeyError, TypeError, ValueError):
        return {}


def _json(store: Store, path: str) -> Any:
    try:
        return json.loads(store.storage.read(path))
    except (ValueError, RecursionError):
        return None


def _check_codebook(store: Store) -> list[str]:
    codebook = store.codebook
    size = store.manifest.codebook_size
    if codebook is None or codebook.ndim not in (2, 3) or codebook.shape[-2] < size:
        shape = None if codebook is None else codebook.shape
        return [f"{store.storage}/codebook: expected vectors of {size} codes, found shape {shape}"]
    if not np.isfinite(codebook).all():
        return [f"{store.storage}/codebook: holds values that are not finite"]
    return []


def _check_synonyms(store: Store) -> list[str]:
    synonyms = store.synonyms
    size = store.manifest.codebook_size
    if synonyms is None or synonyms.ndim != 2 or len(synonyms) < size:
        shape = None if synonyms is None else synonyms.shape
        return [f"{store.storage}/synonyms: expected a row for each of {size} codes, found shape {shape}"]
    low, high = int(synonyms.min(initial=-1)), int(synonyms.max(initial=-1))
    if low < -1 or high >= len(synonyms):
        found = low if low < -1 else high
        return [f"{store.storage}/synonyms: expected codes below {len(synonyms)}, or -1, found {found}"]
    return []


def _table_is_damaged(array: str, damaged: set[str]) -> bool:
    return any(path.startswith(f"{array}/") for path in damaged)


def _check_split(store: Store, split: str, damaged: set[str], found: Verification) -> None:
    samples = store.manifest.splits[split].samples
    found.samples += samples
    names = store.split_arrays(split)
    if TOKENS not in names:
        found.problems.append(f"{store.storage}/{split}: has no {TOKENS}")
    for name in names:
        if f"{split}/{name}/{ROOT}" in damaged:
            continue
        try:
            reader = ArrayReader(store, f"{split}/{name}")
        except TokenstoreError as error:
            found.problems.append(str(error))
            continue
        if name == LABELS and reader.layout.dtype != np.int32:
            found.problems.append(
                f"{store.storage}/{split}/{name}: expected int32, found {reader.layout.dtype}"
            )
        _check_chunks(reader, name, found)
    for table in (SAMPLES_TABLE, SKIPPED_TABLE):
        path = f"{split}/{table}"
        expected = samples if table == SAMPLES_TABLE else store.manifest.splits[split].skipped
        if path in damaged or (table == SKIPPED_TABLE and not expected):
            continue
        found.problems += _check_table(store, path, expected)


def _check_chunks(reader: ArrayReader, name: str, found: Verification) -> None:
    manifest = reader.store.manifest
    layout = reader.layout
    classes = None if manifest.class_names is None else len(manifest.class_names)
    for chunk in range(-(-layout.samples // layout.chunk_samples)):
        shard, position = divmod(chunk, layout.chunks_per_shard)
        try:
            if position and not reader.shard_opens(shard):
                continue
            values = reader.decode_chunk(chunk)
        except DamageError as error:
            found.problems.append(str(error))
            continue
        found.chunks += 1
        if name == TOKENS:
            problem = _code_out_of_range(values, manifest.codebook_sizes)
        elif name == LABELS:
            problem = _label_out_of_range(values, classes)
        else:
            problem = None
        if problem is not None:
            found.problems.append(f"{reader.where(chunk)}: {problem}")
    reader.forget()


def _code_out_of_range(codes: npt.NDArray[Any], sizes: tuple[int, ...]) -> str | None:
    for values, size in code_planes(codes, sizes):
        if values.size and int(values.max()) >= size:
            return f"expected codes from 0 to {size - 1}, found {int(values.max())}"
    return None


def _label_out_of_range(labels: npt.NDArray[Any], classes: int | None) -> str | None:
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or (classes is not None and high >= classes):
        expected = "labels from 0" if classes is None else f"labels from 0 to {classes - 1}"
        return f"expected {expected}, found {low if low < 0 else high}"
    return None


def _check_table(store: Store, path: str, rows: int) -> list[str]:
    try:
        found = pq.read_metadata(io.BytesIO(store.read_checked(path))).num_rows
    except (TokenstoreError, OSError, pa.ArrowException) as error:
        return [f"{store.storage}/{path}: {error}"]
    return [] if found == rows else [f"{store.storage}/{path}: expected {rows} rows, found {found}"]

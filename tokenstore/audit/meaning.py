"""The meaning of a store's bytes: the MUSTs of FORMAT.md that a store can break under right checksums.

Each function returns sentences that say what is wrong and where; none means that all is as FORMAT.md says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tokenstore.errors import DamageError, ManifestError, StorageError, TokenstoreError
from tokenstore.format import (
    LABELS,
    ROOT,
    SAMPLES_TABLE,
    SKIPPED_TABLE,
    TOKENS,
    Manifest,
    code_planes,
    group_document,
)
from tokenstore.reading import ArrayReader, StoreFiles, array_reader
from tokenstore.reading.checked_files import checked_file
from tokenstore.reading.store_files import MAX_JSON_NBYTES
from tokenstore.storage import STAGING

__all__ = [
    "check_codebook",
    "check_listing",
    "check_root",
    "check_split",
    "check_synonyms",
    "table_problems",
    "value_out_of_range",
]

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass
class SplitFindings:
    """The problems of one split, and the number of its chunks that could be read."""

    problems: list[str] = field(default_factory=list)
    chunks: int = 0


def check_root(store: StoreFiles, damaged: set[str]) -> list[str]:
    """Check the root and the groups as Zarr sees them, and the manifest's own values (M1, M6, M11)."""
    where = f"{store.storage}/{ROOT}"
    root = _json(store, ROOT)
    problems = []
    if not _is_group(root):
        problems.append(f"{where}: expected the metadata of a Zarr v3 group")
    fingerprint = store.manifest.tokenizer.fingerprint
    if fingerprint is not None and not _SHA256.fullmatch(fingerprint):
        problems.append(
            f"{where}: expected a fingerprint that is null or a SHA-256 in hex, found {fingerprint!r}"
        )
    for split in store.splits:
        path = f"{split}/{ROOT}"
        if path not in store.manifest.files:
            problems.append(f"{store.storage}/{path}: the split's group is not listed in the manifest")
        elif path not in damaged and not _is_group(_listed_json(store, path)):
            problems.append(f"{store.storage}/{path}: expected the metadata of a Zarr v3 group")
    return problems + list(_consolidation_problems(store, root, damaged))


def _is_group(document: Any) -> bool:
    expected = group_document()
    return isinstance(document, dict) and all(
        document.get(name) == expected[name] for name in ("zarr_format", "node_type")
    )


def _consolidation_problems(store: StoreFiles, root: Any, damaged: set[str]) -> Iterator[str]:
    where = f"{store.storage}/{ROOT}"
    consolidated = root.get("consolidated_metadata") if isinstance(root, dict) else None
    if not store.manifest.is_consolidated:
        if consolidated is not None:
            yield f"{where}: expected no consolidated metadata in a store with tables of a codec"
        return
    if not isinstance(consolidated, dict) or not isinstance(consolidated.get("metadata"), dict):
        yield f"{where}: expected consolidated metadata, found none"
        return
    if consolidated.get("kind") != "inline":
        yield f"{where}: expected inline consolidated metadata, found {consolidated.get('kind')!r:.80}"
    nodes = consolidated["metadata"]
    documents = {
        path.removesuffix(f"/{ROOT}"): path for path in store.manifest.files if path.endswith(f"/{ROOT}")
    }
    for name, path in documents.items():
        if path not in damaged and nodes.get(name) != _listed_json(store, path):
            yield f"{where}: the consolidated metadata is not that of {path}"
    for name in nodes.keys() - documents.keys():
        yield f"{where}: the consolidated metadata has {name!r:.80}, which the manifest does not list"


def check_listing(store: StoreFiles, listed: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Check that the manifest lists every file of the store (M8); return problems, and notes on others.

    `listed` are the paths of all files, if they are known already.
    """
    try:
        listed = store.storage.files() if listed is None else sorted(listed)
    except StorageError as error:
        return [], [f"files that are not the store's are not looked for: {error}"]
    files = store.manifest.files
    unknown = tuple(f"{array}/c/" for array in store.listed_arrays if not _has_layout(store, array))
    extra = [
        path for path in listed if path != ROOT and not path.startswith(unknown) and not store.lists(path)
    ]
    staged = [path for path in extra if path.startswith(f"{STAGING}/")]
    notes = []
    if staged:
        notes.append(f"{len(staged)} files of the finished conversion are left in {STAGING}; remove it")
    arrays = tuple(
        f"{path.removesuffix(ROOT)}c/"
        for path in files
        if path.endswith(f"/{ROOT}") and path.count("/") in (1, 2)
    )
    tables = {f"{split}/{table}" for split in store.splits for table in (SAMPLES_TABLE, SKIPPED_TABLE)}
    parts = tuple(f"{split}/{SAMPLES_TABLE}/" for split in store.splits)
    own: list[str] = []
    strangers: list[str] = []
    for path in extra:
        if path in staged:
            continue
        is_own = path.endswith(f"/{ROOT}") or path.startswith((*arrays, *parts)) or path in tables
        (own if is_own else strangers).append(path)
    if strangers:
        notes.append(f"{len(strangers)} files are not the store's, the first is {strangers[0]}")
    return [
        f"{store.storage}/{path}: a file of the store that the manifest does not list" for path in own
    ], notes


def _has_layout(store: StoreFiles, array: str) -> bool:
    try:
        store.layout(array)
    except TokenstoreError:  # which the check of the array reports
        return False
    return True


def _json(store: StoreFiles, path: str) -> Any:
    try:
        return json.loads(store.storage.read(path, MAX_JSON_NBYTES))
    except (ValueError, RecursionError, DamageError):
        return None


def _listed_json(store: StoreFiles, path: str) -> Any:
    """Return the values of a JSON file with the right digest; None for one that is no JSON."""
    try:
        return json.loads(store.read_checked(path))
    except (ValueError, RecursionError, TokenstoreError):
        return None


def check_codebook(store: StoreFiles) -> list[str]:
    """Check the shape and the values of the codebook (M4, M20)."""
    codebook = store.codebook
    assert codebook is not None, "only a codebook that exists is checked"
    sizes, size = store.manifest.codebook_sizes, store.manifest.codebook_size
    where = f"{store.storage}/codebook"
    shapes = [(len(sizes), size)] if len(sizes) > 1 else [(size,), (1, size)]
    if codebook.shape[:-1] not in shapes:
        several = f" in each of {len(sizes)} codebooks" if len(sizes) > 1 else ""
        return [f"{where}: expected vectors of {size} codes{several}, found shape {codebook.shape}"]
    problems = []
    if not np.isfinite(codebook).all():
        problems.append(f"{where}: holds values that are not finite")
    if store.manifest.tokenizer.kept_codes is not None and codebook.ndim == 3:
        problems += [
            f"{where}: expected zeros behind the {own} codes of codebook {number}, found other values"
            for number, own in enumerate(sizes)
            if codebook[number, own:].any()
        ]
    return problems


def check_synonyms(store: StoreFiles) -> list[str]:
    """Check the shape and the values of the nearest codes (M4)."""
    synonyms = store.synonyms
    assert synonyms is not None, "only synonyms that exist are checked"
    size = store.manifest.codebook_size
    where = f"{store.storage}/synonyms"
    if synonyms.ndim != 2 or len(synonyms) != size:
        return [f"{where}: expected a row for each of {size} codes, found shape {synonyms.shape}"]
    low, high = int(synonyms.min(initial=-1)), int(synonyms.max(initial=-1))
    if low < -1 or high >= size:
        return [f"{where}: expected codes below {size}, or -1, found {low if low < -1 else high}"]
    holes = (synonyms[:, :-1] < 0) & (synonyms[:, 1:] >= 0)
    if holes.any():
        return [
            f"{where}: expected -1 behind the last code of a row alone, found others in row {_first(holes)}"
        ]
    return []


def _first(wrong: npt.NDArray[np.bool_]) -> int:
    return int(wrong.reshape(len(wrong), -1).any(axis=1).argmax())


def check_split(
    store: StoreFiles,
    split: str,
    damaged: set[str],
    sound: Mapping[str, Set[int]],
    tables: Mapping[str, list[str]],
) -> SplitFindings:
    """Check the arrays of a split, chunk by chunk, and its tables (M1, M2, M5, M6, M12 to M27).

    `sound` are the numbers of each array's shards that are known to be right, and `tables` the problems of
    the files of samples tables that were read already.
    """
    findings = SplitFindings()
    names = store.split_arrays(split)
    if TOKENS not in names:
        findings.problems.append(f"{store.storage}/{split}: has no {TOKENS}")
    for name in names:
        if f"{split}/{name}/{ROOT}" in damaged:
            continue
        try:
            reader = array_reader(store, f"{split}/{name}")
        except TokenstoreError as error:
            findings.problems.append(str(error))
            continue
        codec = reader.layout.codec.name
        if name == TOKENS and codec not in store.manifest.features:
            findings.problems.append(
                f"{store.storage}/{ROOT}: expected the feature {codec!r}, the codec of {split}/{name}, "
                f"found {list(store.manifest.features)}"
            )
        right = sound.get(reader.name, frozenset())
        for shard in range(reader.layout.shards):
            if shard in right:
                findings.chunks += reader.layout.shard_chunks(shard)
            else:
                _check_chunks(reader, name, shard, findings)
        reader.forget()
    findings.problems += _check_tables(store, split, damaged, tables)
    return findings


def _check_chunks(reader: ArrayReader, name: str, shard: int, findings: SplitFindings) -> None:
    """Check the chunks of one shard one by one, and say what is wrong with each."""
    manifest = reader.store.manifest
    layout = reader.layout
    for position in range(layout.shard_chunks(shard)):
        chunk = shard * layout.chunks_per_shard + position
        try:
            if position and not reader.shard_opens(shard):
                continue
            values = reader.decode_chunk(chunk)
        except DamageError as error:
            findings.problems.append(str(error))
            continue
        findings.chunks += 1
        problem = value_out_of_range(values, name, manifest)
        if problem is not None:
            findings.problems.append(f"{reader.where(chunk)}: {problem}")


def value_out_of_range(values: npt.NDArray[Any], name: str, manifest: Manifest) -> str | None:
    """Return what is wrong with values of the array `name`, codes or labels; None for right ones."""
    if name == TOKENS:
        for codes, size in code_planes(values, manifest.codebook_sizes):
            if codes.size and int(codes.max()) >= size:
                return f"expected codes from 0 to {size - 1}, found {int(codes.max())}"
    elif name == LABELS:
        classes = None if manifest.class_names is None else len(manifest.class_names)
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or (classes is not None and high >= classes):
            expected = "labels from 0" if classes is None else f"labels from 0 to {classes - 1}"
            return f"expected {expected}, found {low if low < 0 else high}"
    return None


def _check_tables(
    store: StoreFiles, split: str, damaged: set[str], known: Mapping[str, list[str]]
) -> list[str]:
    # imported here: the only part of this module that needs Arrow
    from tokenstore.format import SAMPLES_SCHEMA, SKIPPED_SCHEMA

    summary, skipped = store.manifest.splits[split], f"{split}/{SKIPPED_TABLE}"
    problems = []
    try:
        tables = [(path, SAMPLES_SCHEMA, rows) for path, rows in store.samples_parts(split)]
    except ManifestError as error:
        tables, problems = [], [str(error)]
    if summary.skipped or skipped in store.manifest.files:
        tables.append((skipped, SKIPPED_SCHEMA, summary.skipped))
    start = 0
    for path, schema, rows in tables:
        if path in known:
            problems += known[path]
        elif path not in damaged:
            labelled = None if path == skipped else (split, start)
            try:
                with checked_file(store, path) as file:
                    problems += table_problems(store, file, schema, rows, path, labelled)
            except TokenstoreError as error:
                problems.append(str(error))
        start += rows
    return problems


def table_problems(
    store: StoreFiles,
    file: BinaryIO,
    schema: Any,
    rows: int,
    path: str,
    labelled: tuple[str, int] | None,
) -> list[str]:
    """Check a table's open file of so many rows, a batch at a time.

    `labelled` are the split and the first sample of a samples table: the names of labels in its rows are
    compared with the labels, and the first wrong one is reported.
    """
    from tokenstore.format import table_batches

    problem, at = None, 0
    try:
        labels = None if labelled is None else _LabelNames(store, *labelled)
        for batch in table_batches(file, schema, rows, f"{store.storage}/{path}"):
            if labels is not None and problem is None:
                problem = labels.first_wrong(batch, at)
            at += len(batch)
    except TokenstoreError as error:
        return [str(error)]
    if problem is None or labels is None or labels.unreadable:
        return []
    return [f"{store.storage}/{path}: {problem}"]


class _LabelNames:
    """The names that a split's labels have, from one of its samples on."""

    def __init__(self, store: StoreFiles, split: str, start: int) -> None:
        self._names = store.manifest.class_names
        self._start = start
        self.unreadable = False
        """True if labels could not be read, which the check of their array reports."""
        self._labels: ArrayReader | None = None
        if self._names and LABELS in store.split_arrays(split):
            try:
                self._labels = array_reader(store, f"{split}/{LABELS}").streamed()
            except StorageError:
                raise
            except TokenstoreError:
                self.unreadable = True

    def first_wrong(self, batch: Any, at: int) -> str | None:
        """Return what is wrong with the first wrong name of a label in a batch of rows, from row `at` on."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._labels is None or self._names is None or self.unreadable:
            return None
        begin = self._start + at
        try:
            labels = self._labels.read_range(begin, begin + len(batch))
        except StorageError:  # no fault of the array, whose check may find it right
            raise
        except (TokenstoreError, IndexError):
            self.unreadable = True
            return None
        known = (labels >= 0) & (labels < len(self._names))  # others are reported already
        expected = pa.array(self._names, pa.string()).take(pa.array(np.where(known, labels, 0)))
        found = batch.column("label_name")
        wrong = np.flatnonzero(pc.fill_null(pc.not_equal(found, expected), False).to_numpy(False) & known)
        if not len(wrong):
            return None
        row = int(wrong[0])
        return (
            f"row {at + row} has the label name {found[row].as_py()!r:.80}, "
            f"but its sample has the label {labels[row]}, {self._names[labels[row]]!r:.80}"
        )

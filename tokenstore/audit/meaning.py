"""The meaning of a store's bytes: the MUSTs of FORMAT.md that a store can break under right checksums.

Each function returns sentences that say what is wrong and where; none means that all is as FORMAT.md says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
from tokenstore.reading.store_files import MAX_JSON_NBYTES
from tokenstore.storage import STAGING

__all__ = ["check_codebook", "check_listing", "check_root", "check_split", "check_synonyms"]

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
        elif path not in damaged and not _is_group(_json(store, path)):
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
        if path not in damaged and nodes.get(name) != _json(store, path):
            yield f"{where}: the consolidated metadata is not that of {path}"
    for name in nodes.keys() - documents.keys():
        yield f"{where}: the consolidated metadata has {name!r:.80}, which the manifest does not list"


def check_listing(store: StoreFiles) -> tuple[list[str], list[str]]:
    """Check that the manifest lists every file of the store (M8); return problems, and notes on others."""
    try:
        listed = list(store.storage.files())
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


def check_split(store: StoreFiles, split: str, damaged: set[str]) -> SplitFindings:
    """Check the arrays of a split, chunk by chunk, and its tables (M1, M2, M5, M6, M12 to M27)."""
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
        _check_chunks(reader, name, findings)
    findings.problems += _check_tables(store, split, damaged)
    return findings


def _check_chunks(reader: ArrayReader, name: str, findings: SplitFindings) -> None:
    manifest = reader.store.manifest
    layout = reader.layout
    for chunk in range(-(-layout.samples // layout.chunk_samples)):
        shard, position = divmod(chunk, layout.chunks_per_shard)
        try:
            if position and not reader.shard_opens(shard):
                continue
            values = reader.decode_chunk(chunk)
        except DamageError as error:
            findings.problems.append(str(error))
            continue
        findings.chunks += 1
        problem = _value_out_of_range(values, name, manifest)
        if problem is not None:
            findings.problems.append(f"{reader.where(chunk)}: {problem}")
    reader.forget()


def _value_out_of_range(values: npt.NDArray[Any], name: str, manifest: Manifest) -> str | None:
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


def _check_tables(store: StoreFiles, split: str, damaged: set[str]) -> list[str]:
    # imported here: the only part of this module that needs Arrow
    from tokenstore.format import SAMPLES_SCHEMA, SKIPPED_SCHEMA, read_table

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
        if path not in damaged:
            try:
                read = read_table(store.read_checked(path), schema, rows, f"{store.storage}/{path}")
                if path != skipped:
                    problems += _label_name_problems(store, split, path, start, read)
            except TokenstoreError as error:
                problems.append(str(error))
        start += rows
    return problems


def _label_name_problems(store: StoreFiles, split: str, path: str, start: int, table: Any) -> list[str]:
    """Compare the names of labels in a part of the samples' table, from row `start` on, with the labels."""
    names = store.manifest.class_names
    if names is None or LABELS not in store.split_arrays(split):
        return []
    try:
        labels = array_reader(store, f"{split}/{LABELS}").read(np.arange(start, start + table.num_rows))
    except TokenstoreError:
        return []  # reported already
    for row, name in enumerate(table["label_name"].to_pylist()):
        if name is not None and 0 <= labels[row] < len(names) and names[labels[row]] != name:
            return [
                f"{store.storage}/{path}: row {row} has the label name {name!r:.80}, "
                f"but its sample has the label {labels[row]}, {names[labels[row]]!r:.80}"
            ]
    return []

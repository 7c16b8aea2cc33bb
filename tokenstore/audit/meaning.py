"""The meaning of a store's bytes: the MUSTs of FORMAT.md that a store can break under right checksums.

Each function returns sentences that say what is wrong and where; none means that all is as FORMAT.md says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.tables import check_tables
from tokenstore.codecs import ColumnForm, box_problem
from tokenstore.errors import DamageError, StorageError, TokenstoreError
from tokenstore.format import (
    LABELS,
    ROOT,
    SAMPLES_TABLE,
    SKIPPED_TABLE,
    TOKENS,
    VIEW_BOXES,
    Manifest,
    code_planes,
    codebook_problem,
    group_document,
)
from tokenstore.reading import ArrayReader, StoreFiles, array_reader
from tokenstore.reading.store_files import MAX_JSON_NBYTES
from tokenstore.storage import STAGING

__all__ = [
    "check_codebook",
    "check_listing",
    "check_root",
    "check_split",
    "check_symmetries",
    "check_synonyms",
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
    sizes, where = store.manifest.codebook_sizes, f"{store.storage}/codebook"
    if store.manifest.tokenizer.implicit_codebook is not None:
        return [f"{where}: expected no array, since vectors follow from implicit_codebook, found one"]
    problem = codebook_problem(codebook.shape, sizes)
    if problem is not None:
        return [f"{where}: {problem}"]
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


def check_symmetries(store: StoreFiles) -> list[str]:
    """Check the shape and the values of the permutations of codes that the manifest names (M42, M43)."""
    assert store.permutations is not None, "only symmetries that exist are checked"
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
    reported = {name for name in names if any(path.startswith(f"{split}/{name}/") for path in damaged)}
    for name in names:
        before = len(findings.problems)
        if f"{split}/{name}/{ROOT}" not in damaged:
            _check_array(store, split, name, sound.get(f"{split}/{name}", frozenset()), findings)
        if len(findings.problems) > before:
            reported.add(name)
    findings.problems += check_tables(store, split, damaged, tables, reported)
    return findings


def _check_array(store: StoreFiles, split: str, name: str, sound: Set[int], findings: SplitFindings) -> None:
    """Check the metadata of an array, and the chunks of its shards that are not known to be `sound`."""
    try:
        reader = array_reader(store, f"{split}/{name}")
    except TokenstoreError as error:
        findings.problems.append(str(error))
        return
    codec = reader.layout.codec.name
    if name == TOKENS and codec not in store.manifest.features:
        findings.problems.append(
            f"{store.storage}/{ROOT}: expected the feature {codec!r}, the codec of {split}/{name}, "
            f"found {list(store.manifest.features)}"
        )
    for shard in range(reader.layout.shards):
        if shard in sound:
            findings.chunks += reader.layout.shard_chunks(shard)
        else:
            _check_chunks(reader, name, shard, findings)
    reader.forget()


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
        problem = value_out_of_range(values, name, manifest, layout.form)
        if problem is not None:
            findings.problems.append(f"{reader.where(chunk)}: {problem}")


def value_out_of_range(
    values: npt.NDArray[Any], name: str, manifest: Manifest, form: ColumnForm | None = None
) -> str | None:
    """Return what is wrong with values of the array `name`, or with those of a form; None for right ones."""
    if form is not None and (problem := form.problem(values)) is not None:
        return problem
    if name == TOKENS:
        for codes, size in code_planes(manifest.grids(values), manifest.codebook_sizes):
            if codes.size and int(codes.max()) >= size:
                return f"expected codes from 0 to {size - 1}, found {int(codes.max())}"
    elif name == VIEW_BOXES and manifest.views is not None:
        return box_problem(values)
    elif name == LABELS:
        classes = None if manifest.class_names is None else len(manifest.class_names)
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or (classes is not None and high >= classes):
            expected = "labels from 0" if classes is None else f"labels from 0 to {classes - 1}"
            return f"expected {expected}, found {low if low < 0 else high}"
    return None

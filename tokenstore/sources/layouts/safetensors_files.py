"""The source of codes in safetensors files: a tensor of codes by name, a tensor of labels beside it.

    8 bytes       the length of the header, a little-endian number
    the header    JSON: for each tensor its dtype, its shape, and its bytes [begin, end) behind the header
    the tensors   little-endian, in C order

`X_metadata.json` beside `X.safetensors`, or the `__metadata__` in the header, may name the `tokenizer` and
the `class_names`. Codes of int16 are read as uint16, which the library did not have at first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.array_columns import array_column
from tokenstore.sources.base import UNKNOWN_TOKENIZER, CodeSource, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.files import LocalFile, SourceFile, reading, whole_file
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import LABEL_NAMES, check_class_range
from tokenstore.sources.layouts.rows import (
    ArrayRows,
    JoinedRows,
    LayoutSplit,
    chosen_tokens,
    file_array,
    grid_of,
    joined_labels,
)
from tokenstore.sources.npy_files import StoredArray
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, folder_has_shards, has_shards
from tokenstore.storage import public_url
from tokenstore.texts import shortened

ENDINGS = (".safetensors",)

_METADATA = "__metadata__"
_MOST_HEADER_NBYTES = 2**24
_MOST_METADATA_NBYTES = 2**24
_MAX_RANK = 32
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
"""The dtypes that NumPy has too; a tensor of another one is left out."""


@dataclass(frozen=True)
class _TensorFile:
    """The tensors of one file, and what it says of all of them."""

    file: SourceFile
    tensors: Mapping[str, StoredArray]
    facts: Mapping[str, Any]


def open_safetensors(
    location: str | Path,
    *,
    token_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    source_storage_options: Mapping[str, Any] | None = None,
) -> CodeSource:
    """Open the codes in safetensors files: a file, a pattern, or a folder of files named after splits.

    `token_column` is the tensor of codes (N, *grid), by default `tokens` or the only one of integers of the
    highest rank; `label_column` that of labels (N,), by default `labels` or the like. `columns` are further
    tensors of N rows. The location may be a URL, for which `source_storage_options` are fsspec's.

    Raises SourceError for damaged headers, for tensors that are not there or do not fit, and where files
    differ in their grids.
    """
    where = public_url(str(location))
    fields = requested_fields(columns, where)
    shards = find_shards(location, ENDINGS, source_storage_options)
    splits, labels, further, notes = {}, {}, {}, list(shards.notes)
    files = {split: [_open(file) for file in of_split] for split, of_split in shards.splits.items()}
    first = next(iter(files.values()))[0]
    name = chosen_tokens(token_column, _may_be_tokens(first.tensors), str(first.file), "tensor")
    label = _label_name([each for of_split in files.values() for each in of_split], label_column, name)
    for split, of_split in files.items():
        tensors = [_tokens(each, name) for each in of_split]
        rows = JoinedRows.of(
            [
                ArrayRows(f"{each.file.name}:{name}", array)
                for each, array in zip(of_split, tensors, strict=True)
            ],
            where,
        )
        of_labels = [None if label is None else each.tensors.get(label) for each in of_split]
        labels[split] = joined_labels(of_labels, [len(array) for array in tensors], where)
        splits[split] = LayoutSplit(rows, labels[split])
        further[split] = _further(of_split, fields, len(rows), where)
    rest = [each for each in first.tensors if each not in (name, label, *fields.values())]
    if first.tensors[name].dtype == np.dtype("<i2"):
        notes.append(f"tensor {name} of int16 is read as uint16")
    notes += not_used("tensors", rest)
    class_names, tokenizer = _class_names(first), first.facts.get("tokenizer")
    check_class_range({k: v for k, v in labels.items() if v is not None}, class_names, where)
    return CodeSource(
        kind="safetensors",
        location=where,
        splits=splits,
        grid=grid_of({split: of_split.stored for split, of_split in splits.items()}, where),
        class_names=class_names,
        tokenizer_name=tokenizer if isinstance(tokenizer, str) and tokenizer else UNKNOWN_TOKENIZER,
        notes=tuple(notes),
        further={split: columns_ for split, columns_ in further.items() if columns_},
    )


def _open(file: SourceFile) -> _TensorFile:
    """Read the header of a file; raise SourceError for one that does not describe the file's bytes."""
    with reading(file) as reader:
        nbytes = file.nbytes
        length = int.from_bytes(reader.read(8), "little")
        if nbytes < 8 or length > min(nbytes - 8, _MOST_HEADER_NBYTES):
            raise SourceError(
                f"{file}: expected a safetensors file, found {nbytes} bytes and a header of {length}: cut "
                "off, or another format"
            )
        text = reader.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError(f"a {type(header).__name__}")
        metadata = header.pop(_METADATA, None) or {}
        tensors = {}
        for name, entry in header.items():
            tensor = _tensor(file, f"{file}: tensor {name!r}", entry, 8 + length, nbytes)
            if tensor is not None:
                tensors[name] = tensor
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise SourceError(f"{file}: expected the header of a safetensors file: {error}") from error
    return _TensorFile(file, tensors, {**_strings(metadata), **_beside(file)})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some pairs; raise ValueError for a name that comes twice."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return dict(pairs)


def _tensor(file: SourceFile, where: str, entry: Any, begin: int, nbytes: int) -> StoredArray | None:
    """Return a tensor whose bytes are where the header says; None for a dtype that NumPy does not have."""
    shape, offsets = entry["shape"], entry["data_offsets"]
    sizes = [*shape, *offsets]
    if (
        len(shape) > _MAX_RANK
        or len(offsets) != 2
        or not all(type(size) is int and size >= 0 for size in sizes)
    ):
        raise ValueError(f"tensor {where!r} has the shape {shape} and the bytes {offsets}"[:300])
    if entry["dtype"] not in _DTYPES:
        return None
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    expected, start, stop = dtype.itemsize * math.prod(shape), begin + offsets[0], begin + offsets[1]
    if stop > nbytes or stop - start != expected:
        raise SourceError(
            f"{where}: {dtype} {tuple(shape)} takes {expected} bytes, found [{start}, {stop}) of a file of "
            f"{nbytes}: cut off or damaged"
        )
    return file_array(file, where, dtype, tuple(shape), start)


def _strings(metadata: Any) -> dict[str, Any]:
    """Return what the texts in a header's metadata stand for: JSON, or the text itself."""
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata are a {type(metadata).__name__}")
    facts: dict[str, Any] = {}
    for name in ("tokenizer", "class_names"):
        text = metadata.get(name)
        if isinstance(text, str):
            try:
                facts[name] = json.loads(text)
            except (ValueError, RecursionError):
                facts[name] = text
    return facts


def _beside(file: SourceFile) -> dict[str, Any]:
    """Return the facts of the file `X_metadata.json` beside the local file `X.safetensors`, if any."""
    if not isinstance(file, LocalFile):
        return {}
    path = Path(file.path)
    path = path.with_name(f"{path.stem}_metadata.json")
    if not path.is_file():
        return {}
    try:
        facts = json.loads(whole_file(LocalFile.of(path), _MOST_METADATA_NBYTES, "metadata in JSON"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected JSON: {error}") from error
    return facts if isinstance(facts, dict) else {}


def _may_be_tokens(tensors: Mapping[str, StoredArray]) -> dict[str, bool]:
    """Return for each tensor whether it may be that of codes: integers, of the highest rank of these."""
    ranks = {name: len(array.shape) for name, array in tensors.items() if array.dtype.kind in "iu"}
    highest = max(ranks.values(), default=0)
    if highest < 2:  # a file of latents alone is said to be one
        floats = [name for name, array in tensors.items() if array.dtype.kind == "f" and len(array.shape) > 1]
        return {name: name in floats[:1] for name in tensors}
    return {name: ranks.get(name, 0) == highest for name in tensors}


def _tokens(each: _TensorFile, name: str) -> StoredArray:
    if name not in each.tensors:
        raise SourceError(f"{each.file}: no tensor {name!r}, unlike the first file")
    array = each.tensors[name]
    check_shape(array.dtype, array.shape, array.where)
    if array.dtype == np.dtype("<i2"):
        return replace(array, dtype=np.dtype("<u2"))
    return array


def _label_name(files: Sequence[_TensorFile], given: str | None, tokens: str) -> str | None:
    known = dict.fromkeys(name for each in files for name in each.tensors)
    if given is not None:
        if given not in known:
            named = Parameter("label_column", given)
            raise SourceError(
                f"{files[0].file}: {named}: no such tensor; found {shortened(list(known), 20)}",
                parameters=[named],
            )
        return given
    return next((name for name in LABEL_NAMES if name in known and name != tokens), None)


def _class_names(first: _TensorFile) -> tuple[str, ...] | None:
    names = first.facts.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{first.file}: expected class_names as a list of texts in the metadata")
    return tuple(names)


def _further(
    files: Sequence[_TensorFile], fields: Mapping[str, str], samples: int, where: str
) -> dict[str, SourceColumn]:
    """Return the further columns of a split, which has one file if there are some."""
    if fields and len(files) > 1:
        raise SourceError(f"{where}: further columns go with one file a split, found {len(files)} files")
    for field in fields.values():
        if field not in files[0].tensors:
            raise missing_field(str(files[0].file), field, list(files[0].tensors))
    return {name: array_column(files[0].tensors[field], samples) for name, field in fields.items()}


SOURCE = SourceKind(
    open=open_safetensors,
    holds=partial(folder_has_shards, endings=ENDINGS),
    looked_for=".safetensors files",
    endings=ENDINGS,
    options=frozenset({"token_column", "label_column", "columns", "source_storage_options"}),
    holds_url=partial(has_shards, endings=ENDINGS),
    precedence=-1,
)
"""The kind `safetensors`."""

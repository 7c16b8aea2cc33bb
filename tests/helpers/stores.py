"""Stores for tests: write them in one call, copy them, damage them, and renew a digest after an edit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.format.manifest import Manifest, TokenizerIdentity
from tokenstore.format.tables import Column, Skip, samples_table
from tokenstore.storage import Storage, open_storage
from tokenstore.writing import choices
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter


class Samples(NamedTuple):
    """The content of a split: codes (N, *grid), labels (N,), further aligned arrays (N, ...) by name."""

    codes: npt.NDArray[Any]
    labels: npt.NDArray[np.int32] | None = None
    columns: Mapping[str, npt.NDArray[Any]] = {}
    skipped: Sequence[Skip] = ()
    kinds: Mapping[str, Column] = {}
    """The columns that are no plain arrays of numbers."""


def random_codes(
    samples: int, grid: tuple[int, ...], codebook_sizes: int | tuple[int, ...], seed: int = 0
) -> npt.NDArray[Any]:
    """Draw codes (samples, *grid) that reach every codebook's largest code if there are enough samples."""
    sizes = (codebook_sizes,) if isinstance(codebook_sizes, int) else codebook_sizes
    rng = np.random.default_rng(seed)
    codes = np.zeros((samples, *grid), code_dtype(max(sizes)))
    planes = [codes] if len(sizes) == 1 else [codes[:, plane] for plane in range(len(sizes))]
    for plane, size in zip(planes, sizes, strict=True):
        plane[...] = rng.integers(0, size, plane.shape)
        plane[(slice(1), *[-1] * (plane.ndim - 1))] = size - 1
    return codes


def write_store(
    target: str | os.PathLike[str] | Storage,
    splits: Mapping[str, Samples | tuple[Any, ...]],
    codebook_sizes: int | tuple[int, ...] = 391,
    *,
    tokenizer: TokenizerIdentity = TokenizerIdentity("test"),  # noqa: B008
    **spec: Any,
) -> Manifest:
    """Write a store in one call; `spec` are StoreSpec's other fields. The first split gives the grid."""
    named = {name: Samples(*samples) for name, samples in splits.items()}
    grid = next(iter(named.values())).codes.shape[1 if spec.get("views") is None else 2 :]
    sizes = (codebook_sizes,) if isinstance(codebook_sizes, int) else codebook_sizes
    storage = target if isinstance(target, Storage) else open_storage(target)
    with StoreWriter(storage, StoreSpec(tokenizer, grid, sizes, **spec)) as writer:
        for name, samples in named.items():
            _write_split(writer, name, samples)
        return writer.commit()


def _write_split(writer: StoreWriter, name: str, samples: Samples) -> None:
    left_out = {skip.source_index for skip in samples.skipped}
    listed = len(samples.codes) + len(left_out)
    kept = np.array([index for index in range(listed) if index not in left_out], np.int64)
    columns = dict(samples.columns)
    described = {
        column: samples.kinds.get(column) or Column(rows.dtype, rows.shape[1:])
        for column, rows in columns.items()
    }
    if samples.labels is not None:
        columns["labels"] = samples.labels
    split = writer.split(name, listed, labels=samples.labels is not None, columns=described)
    for start in range(0, len(kept), split.shard_samples):
        rows = slice(start, start + split.shard_samples)
        index = kept[rows]
        labels = None if samples.labels is None else samples.labels[rows]
        table = samples_table(
            index, [f"{name}/{i}.png" for i in index.tolist()], labels, writer.spec.class_names
        )
        aligned = {column: values[rows] for column, values in columns.items()}
        split.write_shard(samples.codes[rows], aligned, table, int(index[-1]) + 1, [])
    split.finish(list(samples.skipped))


def few_are_many(**numbers: int) -> AbstractContextManager[Any]:
    """Return a context in which two planned shards are many, and two are a part of a samples table.

    `numbers` are other constants of `tokenstore.writing.choices`.
    """
    small = {"MANY_SHARDS": 2, "PART_SHARDS": 2, "PART_ROWS": 1, "GROUP_ROWS": 3}
    return mock.patch.multiple(choices, **{**small, **numbers})


def store_files(store: Path) -> list[str]:
    """Return the paths of all files of a store in a folder, relative to the folder."""
    return sorted(file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder by their paths relative to it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def with_digest(root: Mapping[str, Any]) -> bytes:
    """Return the bytes of a root `zarr.json` of these values, with its digest (FORMAT.md, M9)."""
    root = json.loads(json.dumps(root))
    root["attributes"]["tokenstore"]["digest"] = "0" * 64
    blank = json.dumps(root).encode()
    return sign(blank)


def sign(blank: bytes) -> bytes:
    """Return a root `zarr.json` whose digest is 64 zeros with its true digest."""
    zeros = b'"digest": "' + b"0" * 64 + b'"'
    assert blank.count(zeros) == 1
    return blank.replace(zeros, b'"digest": "%s"' % hashlib.sha256(blank).hexdigest().encode())


def edit_root(store: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the parsed root `zarr.json` in place by `edit`, and renew its digest."""
    root = json.loads((store / "zarr.json").read_bytes())
    edit(root)
    (store / "zarr.json").write_bytes(with_digest(root))


def replace_files(store: Path, files: Mapping[str, bytes]) -> None:
    """Change files of a store and make the manifest agree, as a faulty writer would have left it."""
    for path, data in files.items():
        (store / path).write_bytes(data)

    def enter(root: dict[str, Any]) -> None:
        for path, data in files.items():
            record = [len(data), hashlib.sha256(data).hexdigest()]
            root["attributes"]["tokenstore"]["files"][path] = record
            if path.endswith("/zarr.json") and "consolidated_metadata" in root:
                nodes = root["consolidated_metadata"]["metadata"]
                nodes[path.removesuffix("/zarr.json")] = json.loads(data)

    edit_root(store, enter)


def copies(store: Path, folder: Path) -> Iterator[Path]:
    """Yield fresh copies of a store, always at the same path."""
    copy = folder / "copy.zarr"
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        yield copy

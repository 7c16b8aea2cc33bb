"""Stores of any number of samples and shards, written fast, for `bench_scale.py`.

All shards of an array are full and have the same bytes, which are encoded once. So a store of 100 million
samples, or of 100,000 shards, takes about as long as writing its files. It verifies like any other store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenstore.format import (
    LABEL_COLUMN,
    LABELS,
    ROOT,
    SAMPLES_SCHEMA,
    SAMPLES_TABLE,
    SHARD_MANIFEST,
    SHARD_MANIFESTS,
    TABLE_PARTS,
    TOKENS,
    ArrayLayout,
    FileRecord,
    Manifest,
    SplitSummary,
    TokenizerIdentity,
    encode_json,
    encode_records,
    encode_root,
    file_record,
    group_document,
    samples_part,
    samples_table,
)
from tokenstore.writing import CHUNK_SAMPLES, StoreSpec, choices

GRID = (4, 4)
CODEBOOK_SIZE = 2048
CLASSES = 1000
SPLIT = "train"
_MOST_LINKS = 2**15
"""The most names of one file; ext4 allows 65,000."""
_TABLE_ROWS = 2**18
"""The rows of a samples table that are written at once."""


@dataclass(frozen=True)
class Size:
    """The size of a store: its samples, and the shards of each of its two arrays."""

    samples: int
    shards: int

    @property
    def shard_samples(self) -> int:
        """The samples of every shard: whole chunks of 64, or one smaller chunk."""
        samples = max(1, round(self.samples / self.shards))
        return samples if samples < CHUNK_SAMPLES else round(samples / CHUNK_SAMPLES) * CHUNK_SAMPLES

    def rounded(self) -> Size:
        """Return the size of a store of so many full shards, with about as many samples."""
        return Size(self.shards * self.shard_samples, self.shards)

    def __str__(self) -> str:
        return f"{self.samples:,} samples, {self.shards:,} shards"


def write(folder: Path, size: Size, *, hard_links: bool = False) -> Path:
    """Write a store of random codes with labels to a folder, unless it is there, and return its path.

    With `hard_links`, the shards of an array are a few files with many names each, which take no room on the
    disk.
    """
    size = size.rounded()
    path = folder / f"{size.samples}-{size.shards}{'-links' if hard_links else ''}.zarr"
    if (path / ROOT).exists():
        return path
    shard_samples, chunk_samples = size.shard_samples, min(CHUNK_SAMPLES, size.shard_samples)
    names = tuple(f"class {number:03}" for number in range(CLASSES))
    spec = StoreSpec(
        TokenizerIdentity("random"), GRID, (CODEBOOK_SIZE,), class_names=names, chunk_samples=chunk_samples
    )
    layouts = {
        TOKENS: spec.tokens_layout(size.samples, shard_samples),
        LABELS: spec.column_layout(size.samples, shard_samples, LABEL_COLUMN),
    }
    files: dict[str, FileRecord] = {}
    nodes = {SPLIT: group_document()}
    is_large = size.shards >= choices.MANY_SHARDS
    for name, layout in layouts.items():
        files.update(_write_shards(path, name, layout, hard_links, is_large))
        nodes[f"{SPLIT}/{name}"] = layout.to_zarr(name)
    part_shards = max(choices.PART_SHARDS, -(-choices.PART_ROWS // shard_samples))
    part_rows = part_shards * shard_samples if is_large else None
    files.update(_write_samples(path, layouts[LABELS], names, part_rows))
    for node, document in nodes.items():
        data = encode_json(document)
        (path / node / ROOT).write_bytes(data)
        files[f"{node}/{ROOT}"] = file_record(data)
    splits = {SPLIT: SplitSummary(size.samples, part_rows=part_rows)}
    features = (spec.codec, *((SHARD_MANIFESTS, TABLE_PARTS) if is_large else ()))
    manifest = Manifest(**spec.shared(), splits=splits, files=dict(sorted(files.items())), features=features)
    (path / ROOT).write_bytes(encode_root(manifest, nodes))
    return path


def _write_shards(
    store: Path, name: str, layout: ArrayLayout, hard_links: bool, is_large: bool
) -> Iterator[tuple[str, FileRecord]]:
    """Write all shards of an array, and yield the path and the record of each, or of the list of many."""
    data = layout.encode_shard(_values(name, layout))
    record = file_record(data)
    for shard in range(layout.shards):
        path = f"{SPLIT}/{name}/{layout.shard_file(shard)}"
        file = store / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if hard_links and shard % _MOST_LINKS:
            os.link(store / SPLIT / name / layout.shard_file(shard - shard % _MOST_LINKS), file)
        else:
            file.write_bytes(data)
        if not is_large:
            yield path, record
    if is_large:
        rows = encode_records([record]) * layout.shards
        (store / SPLIT / name / SHARD_MANIFEST).write_bytes(rows)
        yield f"{SPLIT}/{name}/{SHARD_MANIFEST}", file_record(rows)


def _values(name: str, layout: ArrayLayout) -> np.ndarray:
    """Return the values of a full shard."""
    if name == LABELS:
        return _labels(np.arange(layout.shard_samples), layout)
    codes = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (layout.shard_samples, *layout.sample_shape))
    return codes.astype(layout.dtype)


def _labels(index: np.ndarray, layout: ArrayLayout) -> np.ndarray:
    return (index % layout.shard_samples % CLASSES).astype(np.int32)


def _write_samples(
    store: Path, layout: ArrayLayout, class_names: tuple[str, ...], part_rows: int | None
) -> Iterator[tuple[str, FileRecord]]:
    """Write the samples table, in parts of so many rows, and yield the path and the record of each file."""
    rows = part_rows or layout.samples
    for part, first in enumerate(range(0, layout.samples, rows)):
        table = f"{SPLIT}/{SAMPLES_TABLE}"
        path = table if part_rows is None else samples_part(table, part)
        (store / path).parent.mkdir(exist_ok=True)
        stop = min(first + rows, layout.samples)
        with pq.ParquetWriter(store / path, SAMPLES_SCHEMA, compression="zstd") as writer:
            for start in range(first, stop, _TABLE_ROWS):
                index = np.arange(start, min(start + _TABLE_ROWS, stop))
                source = pc.binary_join_element_wise("images/", pa.array(index).cast(pa.string()), "")
                labels = _labels(index, layout)
                writer.write_table(samples_table(index, source, labels, class_names))
        with (store / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield path, FileRecord((store / path).stat().st_size, digest)

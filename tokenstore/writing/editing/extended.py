"""One split of a new edition, with samples behind those of the edition before: shards, lists and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from tokenstore.format import (
    SAMPLES_SCHEMA,
    SAMPLES_TABLE,
    SHARD_MANIFEST,
    SHARD_MANIFESTS,
    SKIPPED_SCHEMA,
    SKIPPED_TABLE,
    TABLE_PARTS,
    TOKENS,
    ArrayLayout,
    Column,
    FileRecord,
    SplitSummary,
    encode_records,
    group_document,
    samples_part,
)
from tokenstore.reading import SplitReader
from tokenstore.writing import choices
from tokenstore.writing.blocks import BlockExecutor
from tokenstore.writing.editing.edition import Edition
from tokenstore.writing.editing.rows import JoinedRows
from tokenstore.writing.editing.select import shard_samples_of
from tokenstore.writing.editing.shards import Report, ShardCut, encoded_shards
from tokenstore.writing.rewrite import TableRows
from tokenstore.writing.spec import StoreSpec

__all__ = ["ExtendedSplit"]


class ExtendedSplit:
    """A split of an edition that has new samples, or only these; full shards and parts of its table are kept.

    `rows` are the samples of the split before, if there is one, and those that follow them.
    """

    def __init__(self, edition: Edition, spec: StoreSpec, name: str, rows: JoinedRows) -> None:
        self._edition, self._spec, self.name, self._rows = edition, spec, name, rows
        self._before: SplitReader | None = rows.parts[0].split if name in edition.store.splits else None
        self._new = rows.parts[-1]
        columns = {array: self._new.split.column(array) for array in self._new.split.columns}
        self._layouts, size = self._cut(columns)
        stored = 0 if self._before is None else len(self._before)
        self._keeps = self._before is not None and self._before.array(TOKENS).layout.shard_samples == size
        self._first = stored // size * size if self._keeps else 0
        """The first sample of the first shard that is written."""
        self._size, self._stored = size, stored
        self.features = {column.form.feature for column in columns.values() if column.form is not None}
        """The features of the edition that this split uses, once it is written."""

    def _cut(self, columns: dict[str, Column]) -> tuple[dict[str, ArrayLayout], int]:
        """Return the layout of each array, tokens first, and the samples of a shard.

        The samples of a split in one shard are cut anew, in shards of the usual size, so that many short
        appends do not make many short shards.
        """
        samples, spec, before = len(self._rows), self._spec, self._before
        if before is not None:
            stored = {array: before.array(array).layout for array in before.columns}
            size = stored[TOKENS].shard_samples
            usual = replace(spec, shard_samples=None).samples_per_shard(None, columns.values())
            if stored[TOKENS].shards > 1 or usual <= size:
                shapes = {array: (samples, *layout.sample_shape) for array, layout in stored.items()}
                return {array: replace(stored[array], shape=shape) for array, shape in shapes.items()}, size
            spec = replace(spec, shard_samples=usual)
        else:
            spec = replace(spec, shard_samples=shard_samples_of([self._new], samples))
        size = spec.samples_per_shard(samples, columns.values())
        layouts = {
            array: spec.column_layout(samples, size, column)
            for array, column in columns.items()
            if array != TOKENS
        }
        return {TOKENS: spec.tokens_layout(samples, size), **layouts}, size

    def write_shards(self, executor: BlockExecutor, report: Report) -> None:
        """Write the shards that the split before does not have, and the lists and metadata of all arrays."""
        edition, shards = self._edition, self._layouts[TOKENS].shards
        for array in self._layouts:
            if shards >= choices.MANY_SHARDS:
                edition.listed_arrays.add(f"{self.name}/{array}")
            if f"{self.name}/{array}" in edition.listed_arrays:
                self.features.add(SHARD_MANIFESTS)
        records: dict[str, list[FileRecord]] = {array: [] for array in self._layouts}
        cut = ShardCut(self.name, self._spec, self._layouts, self._size, self._first)
        with contextlib.closing(encoded_shards(self._rows, cut, executor)) as encoded:
            for shard in encoded:
                for path, (data, _) in shard.arrays.items():
                    edition.write(path, data)
                for path, file in shard.stored.items():
                    edition.take(path, file)
                for path, record in shard.records.items():
                    records[path.split("/")[1]].append(record)
                report(min((shard.number + 1) * self._size, len(self._rows)), len(self._rows))
        for array, layout in self._layouts.items():
            if f"{self.name}/{array}" in edition.listed_arrays:
                before = self._kept_records(array) if self._keeps else []
                data = encode_records([*before, *records[array]])
                edition.write(f"{self.name}/{array}/{SHARD_MANIFEST}", data)
            edition.write_document(f"{self.name}/{array}", layout.to_zarr(array))
        if self._before is None:
            edition.write_document(self.name, group_document())

    def _kept_records(self, array: str) -> list[FileRecord]:
        """Return the size and the digest of each shard that the split before has, and that stays."""
        store, path = self._edition.store.files, f"{self.name}/{array}"
        full, layout = self._first // self._size, self._layouts[array]
        if path in store.listed_arrays:
            return [record for _, record in store.shard_records(path)][:full]
        return [store.manifest.files[f"{path}/{layout.shard_file(shard)}"] for shard in range(full)]

    def write_tables(self) -> SplitSummary:
        """Write the tables, as far as they change, and return the split's entry of the manifest."""
        edition, samples = self._edition, len(self._rows)
        summary = None if self._before is None else edition.store.manifest.splits[self.name]
        added = self._new.split.store.manifest.splits[self._new.split.name]
        part_rows = None if summary is None else summary.part_rows
        first = 0
        if part_rows is not None:
            first = self._stored // part_rows * part_rows
        elif samples > choices.GROUP_ROWS:
            part_rows = choices.GROUP_ROWS
        path = f"{self.name}/{SAMPLES_TABLE}"
        if part_rows is None:
            edition.write_table(path, SAMPLES_SCHEMA, self._tables(0, samples))
        else:
            self.features.add(TABLE_PARTS)
            for part in range(first // part_rows):
                table = samples_part(path, part)
                edition.keep(table, edition.store.files.record(table))
            rows = TableRows(self._rows.batches(first))
            for start in range(first, samples, part_rows):
                count = min(part_rows, samples - start)
                edition.write_table(
                    samples_part(path, start // part_rows), SAMPLES_SCHEMA, self._groups(rows, count)
                )
        self._write_skipped(0 if summary is None else summary.skipped, added.skipped)
        known = [each.source_bytes for each in (summary, added) if each is not None]
        nbytes = [each for each in known if each is not None]
        skipped = added.skipped + (0 if summary is None else summary.skipped)
        return SplitSummary(samples, skipped, sum(nbytes) if nbytes else None, part_rows)

    def _tables(self, start: int, count: int) -> Iterator[pa.Table]:
        return self._groups(TableRows(self._rows.batches(start)), count)

    @staticmethod
    def _groups(rows: TableRows, count: int) -> Iterator[pa.Table]:
        """Yield the next rows of a table as row groups."""
        while count:
            for table in rows.take(min(count, choices.GROUP_ROWS)):
                yield table
                count -= len(table)

    def _write_skipped(self, before: int, added: int) -> None:
        path = f"{self.name}/{SKIPPED_TABLE}"
        if added:
            skips = [vars(skip) for skip in self._rows.skips()]
            self._edition.write_table(
                path, SKIPPED_SCHEMA, [pa.Table.from_pylist(skips, schema=SKIPPED_SCHEMA)]
            )
        elif before:
            self._edition.keep(path, self._edition.store.files.record(path))

"""The writing of one split of a store: its shards in order, and at the end its lists and tables."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenstore.files import full_disk_named
from tokenstore.format import (
    SAMPLES_SCHEMA,
    SAMPLES_TABLE,
    SHARD_MANIFEST,
    SKIPPED_SCHEMA,
    SKIPPED_TABLE,
    TOKENS,
    ArrayLayout,
    Column,
    FileRecord,
    Skip,
    SplitSummary,
    decode_records,
    encode_records,
    file_record,
    samples_part,
)
from tokenstore.parquet_pages import open_parquet
from tokenstore.storage import STAGING
from tokenstore.writing import choices
from tokenstore.writing.encoded import CheckedShard, EncodedShard
from tokenstore.writing.journal import Entry, open_journal
from tokenstore.writing.linked import take

if TYPE_CHECKING:
    from tokenstore.writing.writer import StoreWriter

_NUMBER = re.compile(r"0|[1-9][0-9]*")


@dataclass
class _Totals:
    """The sums over all finished shards, which grow with each."""

    shards: int = 0
    samples: int = 0
    source_stop: int = 0
    source_bytes: int | None = None
    skipped: list[Skip] = field(default_factory=list)
    records: dict[str, bytearray] = field(default_factory=dict)
    """The size and the digest of every shard of each array, as the rows of a shard manifest."""
    parts: dict[int, FileRecord] = field(default_factory=dict)
    """The parts of the samples table that are written."""

    def take(self, samples: int, source_stop: int, skipped: Iterable[Skip]) -> None:
        """Count a shard of so many samples, which may still be under way."""
        self.shards += 1
        self.samples += samples
        self.source_stop = source_stop
        self.skipped += skipped

    def add_files(self, entry: Entry) -> None:
        """Add the files of the next whole shard."""
        if entry.source_bytes is not None:
            self.source_bytes = (self.source_bytes or 0) + entry.source_bytes
        for path, record in entry.files.items():
            array = path.split("/")[1]
            self.records.setdefault(array, bytearray()).extend(encode_records([record]))


class SplitWriter:
    """A writer of the shards of one split, in order; it goes on where an interrupted conversion stood.

    A split of many shards lists them in a file of each array, and has its samples table in parts. Where so
    many are planned, each part is written with the last of its shards, else all at the end.
    """

    def __init__(
        self,
        store: StoreWriter,
        name: str,
        listed: int | None,
        shard_samples: int,
        columns: Mapping[str, Column],
        first: int = 0,
    ) -> None:
        self.name = name
        self.shard_samples = shard_samples
        self.columns = columns
        self._is_planned_large = -(-(listed or 0) // shard_samples) >= choices.MANY_SHARDS
        self._part_shards = max(choices.PART_SHARDS, -(-choices.PART_ROWS // shard_samples))
        self._store = store
        self._storage = store.storage
        self._journal = open_journal(store.storage, name)
        self._totals = _Totals(source_stop=first)
        for entry in self._journal.read():
            self._totals.take(entry.samples, entry.source_stop, entry.skipped)
            self._totals.add_files(entry)
            if entry.part is not None:
                self._totals.parts[len(self._totals.parts)] = entry.part
        self._tail: list[Skip] = []

    @property
    def is_large(self) -> bool:
        """True for a split of so many shards that the features `manifests` and `tables` are used for it."""
        return self._is_planned_large or self.shards >= choices.MANY_SHARDS

    @property
    def shards(self) -> int:
        """The number of finished shards."""
        return self._totals.shards

    @property
    def samples(self) -> int:
        """The number of samples in finished shards."""
        return self._totals.samples

    @property
    def source_position(self) -> int:
        """The first sample of the source after those of the finished shards."""
        return self._totals.source_stop

    @property
    def skipped(self) -> list[Skip]:
        """The samples of the source that are left out so far."""
        return self._totals.skipped + self._tail

    def write_shard(
        self,
        codes: npt.NDArray[Any],
        columns: Mapping[str, npt.NDArray[Any]],
        samples: pa.Table,
        source_stop: int,
        skipped: list[Skip],
    ) -> None:
        """Write the next shard: codes (n, *grid), aligned columns (n, ...) and n rows of SAMPLES_SCHEMA.

        Codes of V views are (n, V, *grid). Every shard but the last has `shard_samples` samples.
        `source_stop` is the first sample of the source after this shard, `skipped` are the samples left out
        before it. For a remote place it is encoded and sent while the next one fills, and its arrays must not
        change meanwhile. An error there is raised by a later call, at the latest by the store's `commit`.

        Raises CodecError for codes outside their codebook, ValueError for arrays of other shapes or dtypes.
        """
        shard = self._checked(self.shards, codes, columns, samples)
        self._hand_over(shard.encoded, len(codes), source_stop, skipped)

    def layouts(self, samples: int) -> dict[str, ArrayLayout]:
        """Return the layout of each array of so many samples, tokens first."""
        return {array: self._layout(array, samples) for array in self._arrays}

    def write_encoded(self, shard: EncodedShard, source_stop: int, skipped: list[Skip]) -> None:
        """Write the next shard's files, and then its entry of the journal; see `write_shard`.

        Raises ValueError for any but the next shard, or where the one before is not full.
        """
        if shard.number != self.shards:
            raise ValueError(f"shard {shard.number} after {self.samples} samples in {self.shards} shards")
        self._hand_over(lambda: shard, shard.samples, source_stop, skipped)

    def _checked(
        self, number: int, codes: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]], samples: pa.Table
    ) -> CheckedShard:
        if not 0 < len(codes) <= self.shard_samples:
            raise ValueError(f"a shard of {len(codes)} samples, of {self.shard_samples} each")
        values = {TOKENS: codes, **columns}
        return CheckedShard(self.name, number, self._store.spec, self._layout, values, samples)

    def _hand_over(
        self, encoded: Callable[[], EncodedShard], samples: int, source_stop: int, skipped: list[Skip]
    ) -> None:
        """Encode and write the next shard; for a remote place in a thread, while the caller goes on."""
        if self.samples % self.shard_samples:
            raise ValueError(f"another shard after {self.samples} samples, of {self.shard_samples} each")

        def send() -> EncodedShard:
            shard = encoded()
            self._store.check()
            for path, (data, _) in shard.arrays.items():
                self._storage.write_ahead(path, data)
            for path, file in shard.stored.items():
                take(self._storage, path, file)
            self._journal.save_rows(shard.number, shard.rows)
            return shard

        def count(shard: EncodedShard) -> None:
            self._store.check()
            left_out = tuple(skipped)
            entry = Entry(samples, source_stop, shard.source_bytes, left_out, shard.records)
            self._note(shard.number, entry)

        if self._storage.root is None:
            self._store.uploads.add(send, count)
        else:
            count(send())
        self._totals.take(samples, source_stop, skipped)

    def _note(self, shard: int, entry: Entry) -> None:
        """Append a shard's entry to the journal, and write the part of the samples table that it ends."""
        stop = shard + 1
        if not self._is_planned_large or stop % self._part_shards:
            self._journal.append(shard, entry)
            self._totals.add_files(entry)
            return
        start = stop - self._part_shards
        record = self._write_part(start, stop)
        self._storage.settle(self.shard_paths(start, stop))
        self._totals.parts[start // self._part_shards] = record
        self._journal.append(shard, Entry(**{**vars(entry), "part": record}))
        self._totals.add_files(entry)
        self._journal.forget_rows(stop)

    def finish(self, skipped: list[Skip]) -> None:
        """Take note of the samples skipped after the last shard."""
        self._tail = skipped

    def save_piece(self, number: int, data: bytes) -> None:
        """Save a piece of what is to become shards, for `load_piece` after a crash.

        A piece of the same number is overwritten; all others stay until the store is complete: the shard may
        have been finished since.
        """
        self._store.note(f"{self.name}/piece-{number:06d}", data)

    def load_piece(self, number: int) -> bytes | None:
        """Return the last data of `save_piece`, or None."""
        return self._store.recall(f"{self.name}/piece-{number:06d}")

    def summary(self) -> SplitSummary:
        """Return the split's entry of the manifest."""
        totals = self._totals
        rows = self._part_shards * self.shard_samples if self.is_large else None
        return SplitSummary(totals.samples, len(self.skipped), totals.source_bytes, rows)

    def shard_paths(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Yield the paths of the files of finished shards."""
        for array in self._arrays:
            layout = self._layout(array, max(self.samples, 1))
            for shard in range(start, self.shards if stop is None else stop):
                yield f"{self.name}/{array}/{layout.shard_file(shard)}"

    def is_stray(self, path: str) -> bool:
        """Return True for a path among the shards of this split that is no finished shard's."""
        split, array, folder, *rest = [*path.split("/", 3), "", "", ""]
        if split != self.name or array not in self._arrays or folder != "c":
            return False
        number, _, zeros = rest[0].partition("/")
        is_shard = _NUMBER.fullmatch(number) is not None and int(number) < self.shards
        axes = len(self._store.spec.sample_shape if array == TOKENS else self.columns[array].shape)
        return not is_shard or zeros != "/".join("0" * axes)

    def write_lists(self) -> dict[str, FileRecord]:
        """Return the records of all shards by path, or of the files with these records, once written."""
        if self.is_large:
            files = {}
            for array in self._arrays:
                path, data = f"{self.name}/{array}/{SHARD_MANIFEST}", bytes(self._records(array))
                self._storage.write(path, data)
                files[path] = file_record(data)
            return files
        records = (record for array in self._arrays for record in decode_records(bytes(self._records(array))))
        return dict(zip(self.shard_paths(), records, strict=True))

    def array_documents(self) -> dict[str, dict[str, Any]]:
        """Return the `zarr.json` of each array, by path."""
        return {
            f"{self.name}/{array}": self._layout(array, self.samples).to_zarr(array) for array in self._arrays
        }

    def write_tables(self) -> dict[str, FileRecord]:
        """Write what is left of the samples table, and the table of skipped samples; return their records."""
        tables = {}
        if self.is_large:
            for start in range(len(self._totals.parts) * self._part_shards, self.shards, self._part_shards):
                record = self._write_part(start, min(start + self._part_shards, self.shards))
                self._totals.parts[start // self._part_shards] = record
            for part, record in self._totals.parts.items():
                tables[samples_part(SAMPLES_TABLE, part)] = record
        else:
            rows = self._row_groups(0, self.shards)
            tables[SAMPLES_TABLE] = self._write_table(SAMPLES_TABLE, SAMPLES_SCHEMA, rows)
        if self.skipped:
            skipped = pa.Table.from_pylist([vars(skip) for skip in self.skipped], schema=SKIPPED_SCHEMA)
            tables[SKIPPED_TABLE] = self._write_table(SKIPPED_TABLE, SKIPPED_SCHEMA, iter([skipped]))
        return {f"{self.name}/{name}": record for name, record in tables.items()}

    @property
    def _arrays(self) -> tuple[str, ...]:
        return (TOKENS, *self.columns)

    def _records(self, array: str) -> bytearray:
        return self._totals.records.get(array, bytearray())

    def _row_groups(self, start: int, stop: int) -> Iterator[pa.Table]:
        for rows in self._journal.rows(start, stop):
            file = open_parquet(pa.BufferReader(rows))
            for group in range(file.num_row_groups):  # a shard may have millions of rows
                yield file.read_row_group(group, use_threads=False)  # which take longer to start

    def _write_part(self, start: int, stop: int) -> FileRecord:
        """Write the part of the samples table with the rows of some shards, many shards in a row group."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SAMPLES_SCHEMA, compression="zstd") as writer:
            waiting, rows = [SAMPLES_SCHEMA.empty_table()], 0
            for table in self._row_groups(start, stop):
                waiting.append(table)
                rows += len(table)
                while rows >= choices.GROUP_ROWS:
                    joined = pa.concat_tables(waiting)
                    writer.write_table(joined.slice(0, choices.GROUP_ROWS).combine_chunks())
                    waiting, rows = [joined.slice(choices.GROUP_ROWS)], rows - choices.GROUP_ROWS
            if rows:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
        path = samples_part(f"{self.name}/{SAMPLES_TABLE}", start // self._part_shards)
        self._storage.write(path, buffer.getvalue())
        return file_record(buffer.getvalue())

    def _write_table(self, name: str, schema: pa.Schema, parts: Iterator[pa.Table]) -> FileRecord:
        target = self._storage.folder
        with tempfile.TemporaryDirectory(dir=None if target is None else target / STAGING) as folder:
            path = Path(folder) / name
            named = path if target is None else target / self.name / name
            with full_disk_named(named), pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for part in parts:
                    writer.write_table(part)
            with path.open("rb") as file:
                record = FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
            self._storage.move_into_place(path, f"{self.name}/{name}")
        return record

    def _layout(self, array: str, samples: int) -> ArrayLayout:
        if array == TOKENS:
            return self._store.spec.tokens_layout(samples, self.shard_samples)
        return self._store.spec.column_layout(samples, self.shard_samples, self.columns[array])

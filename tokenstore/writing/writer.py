"""Append-only writing of a store: shard by shard, resumable, the manifest last.

While a store is being written it has no root `zarr.json`. The writer's own files lie in the folder
`.partial`: the store's inputs (`conversion.json`), and for every finished shard a journal entry and its rows
of the samples table. A shard's entry is written after the shard. So every shard that a crash leaves behind is
either in the journal and whole, or is written again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenstore.errors import ConversionError, ManifestError, Parameter, StorageError
from tokenstore.files import FULL, full_disk_named
from tokenstore.format import (
    CODEBOOK,
    LABEL_COLUMN,
    LABELS,
    NAME,
    ROOT,
    SAMPLES_SCHEMA,
    SAMPLES_TABLE,
    SKIPPED_SCHEMA,
    SKIPPED_TABLE,
    SYNONYMS,
    TOKENS,
    ArrayLayout,
    Column,
    FileRecord,
    Manifest,
    Skip,
    SplitSummary,
    encode_json,
    encode_root,
    encode_table_array,
    file_record,
    group_document,
    table_array_document,
)
from tokenstore.storage import STAGING, Storage
from tokenstore.version import __version__
from tokenstore.writing.encoded import EncodedShard, encode_shard
from tokenstore.writing.owner import Owner
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import HEADER, finish, look, own

Columns: TypeAlias = Mapping[str, Column]

_RESERVED = frozenset({CODEBOOK, SYNONYMS, "c"})


class StoreWriter:
    """A writer of one store, used as a context manager; the store is not complete before `commit()`.

    `inputs` (JSON values) are all that decides the store's bytes: a resumed conversion must have the same.
    The writer owns the target until it is closed. Raises StoreExistsError if something else is at the target,
    and ConversionError if the unfinished store there is of other inputs or another process is writing it. A
    full disk ends the block with a StorageError.
    """

    def __init__(
        self,
        target: Storage,
        spec: StoreSpec,
        *,
        resume: bool = False,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self.target = target
        self.storage = target.working_storage()
        self.splits: list[SplitWriter] = []
        header = encode_json({"tokenstore": __version__, **(inputs or {})})
        if target.root is None:
            self._is_begun(resume, header)  # before an owner is written there, or one is taken over
        self._owner: Owner | None = own(target, resume)
        try:
            self._begin(resume, header)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        # subtle: a writer within another's block has said so already
        if isinstance(error, OSError) and error.errno in FULL and not getattr(error, "parameters", ()):
            again = Parameter("resume", True)
            full = StorageError(f"{error}. Make room, and go on with {again}", parameters=[again])
            full.errno = error.errno
            raise full from error

    def close(self) -> None:
        """Release the store; unless it was committed, it stays unfinished."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.release()

    def check(self) -> None:
        """Raise ConversionError if another process has become the writer of this store."""
        if self._owner is not None:
            self._owner.check()

    def _begin(self, resume: bool, header: bytes) -> None:
        if self._is_begun(resume, header):
            return
        if self.target.root is not None:
            self.storage.remove(HEADER)  # of a conversion that was killed as it began
        try:
            self.storage.create(HEADER, header)
        except FileExistsError as error:
            raise ConversionError(f"{self.target}: another process is writing this store") from error

    def _is_begun(self, resume: bool, header: bytes) -> bool:
        """Return True if a conversion with the same inputs is unfinished; raise as `StoreWriter` does."""
        if not look(self.target, resume):
            return False
        written = json.loads(self.storage.read(HEADER))
        expected = json.loads(header)
        different = [key for key in {**written, **expected} if written.get(key) != expected.get(key)]
        if different:
            key = different[0]
            was, now = (f"{values.get(key)!r:.200}" for values in (written, expected))
            raise ConversionError(
                f"{self.target}: cannot resume with other inputs: {key} was {was}, is now {now}. Use what it "
                "was begun with, or remove the unfinished store"
            )
        return True

    def note(self, name: str, data: bytes) -> None:
        """Save data under a name, for `recall` after a crash, until the store is complete."""
        self.check()
        self.storage.write(f"{STAGING}/{name}", data)

    def recall(self, name: str) -> bytes | None:
        """Return the data noted under a name, or None."""
        try:
            return self.storage.read(f"{STAGING}/{name}")
        except FileNotFoundError:
            return None

    def split(
        self, name: str, listed: int, *, first: int = 0, labels: bool = True, columns: Columns | None = None
    ) -> SplitWriter:
        """Begin or go on with a split that has at most `listed` samples, from the source's `first` on.

        Raises ManifestError for a name that no split or column can have.
        """
        columns = {**({LABELS: LABEL_COLUMN} if labels else {}), **(columns or {})}
        for word in (name, *columns):
            if word == TOKENS or not NAME.fullmatch(word) or word in _RESERVED:
                raise ManifestError(f"{word!r} cannot name a split or column: use letters, digits, _ and -")
        samples = self.spec.samples_per_shard(listed, columns.values())
        split = SplitWriter(self, name, samples, columns, first)
        self.splits.append(split)
        return split

    def commit(self) -> Manifest:
        """Write all that is left, the manifest last, and return it; the store is complete.

        Raises StorageError and OSError if storage does not take a file, and ConversionError if another
        process has become the writer of this store.
        """
        try:
            return self._commit()
        except FileNotFoundError:
            self.check()  # another may have finished the store and removed the journal
            raise

    def _commit(self) -> Manifest:
        self.check()
        nodes: dict[str, dict[str, Any]] = {}
        files: dict[str, FileRecord] = {}
        for split in self.splits:
            nodes[split.name] = group_document()
            nodes.update(split.array_documents())
            files.update(split.files())
            files.update(split.write_tables())
        for name, values, axes in (
            (CODEBOOK, self.spec.codebook, ("codebook", "code", "channel")),
            (SYNONYMS, self.spec.synonyms, ("code", "rank")),
        ):
            if values is not None:
                nodes[name] = table_array_document(values, axes)
                path = f"{name}/{'/'.join(['c', *('0' for _ in values.shape)])}"
                files[path] = self._write(path, encode_table_array(values))
        for path, document in nodes.items():
            files[f"{path}/{ROOT}"] = self._write(f"{path}/{ROOT}", encode_json(document))
        manifest = Manifest(
            **self.spec.shared(),
            splits={split.name: split.summary() for split in self.splits},
            files=dict(sorted(files.items())),
            features=(self.spec.codec,),
            created_by=f"tokenstore {__version__}",
        )
        ours = tuple(
            f"{split.name}/{array}/c/" for split in self.splits for array in (TOKENS, *split.columns)
        )
        for path in [path for path in self.storage.files() if path.startswith(ours)]:
            if path not in manifest.files:
                self.storage.remove(path)
        self.complete(encode_root(manifest, nodes))
        return manifest

    def complete(self, root: bytes) -> None:
        """Write the root's `zarr.json`, the last file, and clear up; the store is complete.

        Raises what `commit` raises.
        """
        self.check()
        try:
            self.storage.create(ROOT, root)
        except FileExistsError as error:
            raise ConversionError(f"{self.target}: another process has completed this store") from error
        if self._owner is not None:
            self._owner.stop()
        finish(self.target)
        self.close()

    def _write(self, path: str, data: bytes) -> FileRecord:
        self.storage.write(path, data)
        return file_record(data)


class SplitWriter:
    """A writer of the shards of one split, in order; it goes on where an interrupted conversion stood."""

    def __init__(
        self, store: StoreWriter, name: str, shard_samples: int, columns: Columns, first: int = 0
    ) -> None:
        self.name = name
        self.shard_samples = shard_samples
        self.columns = columns
        self._store = store
        self._storage = store.storage
        self._journal = list(self._read_journal())
        self._tail: list[Skip] = []
        self._first = first

    @property
    def shards(self) -> int:
        """The number of finished shards."""
        return len(self._journal)

    @property
    def samples(self) -> int:
        """The number of samples in finished shards."""
        return sum(entry["samples"] for entry in self._journal)

    @property
    def source_position(self) -> int:
        """The first sample of the source after those of the finished shards."""
        return int(self._journal[-1]["source_stop"]) if self._journal else self._first

    @property
    def skipped(self) -> list[Skip]:
        """The samples of the source that are left out so far."""
        return [Skip(*skip) for entry in self._journal for skip in entry["skipped"]] + self._tail

    def write_shard(
        self,
        codes: npt.NDArray[Any],
        columns: Mapping[str, npt.NDArray[Any]],
        samples: pa.Table,
        source_stop: int,
        skipped: list[Skip],
    ) -> None:
        """Write the next shard: codes (n, *grid), aligned columns (n, ...) and n rows of SAMPLES_SCHEMA.

        Every shard but the last has `shard_samples` samples. `source_stop` is the first sample of the source
        after this shard, `skipped` are the samples left out before it.

        Raises CodecError for codes outside their codebook, ValueError for arrays of other shapes or dtypes.
        """
        shard = self.encode_shard(self.shards, codes, columns, samples)
        self.write_encoded(shard, source_stop, skipped)

    def encode_shard(
        self, number: int, codes: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]], samples: pa.Table
    ) -> EncodedShard:
        """Encode a shard for `write_encoded`, and write nothing: several threads may do so at a time.

        The arguments and errors are those of `write_shard`; `number` is the shard's place in the split.
        """
        if not 0 < len(codes) <= self.shard_samples:
            raise ValueError(f"a shard of {len(codes)} samples, of {self.shard_samples} each")
        values = {TOKENS: codes, **columns}
        return encode_shard(self.name, number, self._store.spec, self._layout, values, samples)

    def write_encoded(self, shard: EncodedShard, source_stop: int, skipped: list[Skip]) -> None:
        """Write the next shard's files, and then its entry of the journal; see `write_shard`.

        Raises ValueError for any but the next shard, or where the one before is not full.
        """
        if shard.number != self.shards or self.samples % self.shard_samples:
            raise ValueError(f"shard {shard.number} after {self.samples} samples in {self.shards} shards")
        self._store.check()
        for path, (data, _) in shard.arrays.items():
            self._storage.write(path, data)
        self._storage.write(self._entry("parquet"), shard.rows)
        entry = {
            "samples": shard.samples,
            "source_stop": source_stop,
            "source_bytes": shard.source_bytes,
            "skipped": [[skip.source_index, skip.source, skip.reason] for skip in skipped],
            "files": {path: [record.size, record.sha256] for path, (_, record) in shard.arrays.items()},
        }
        self._store.check()
        self._storage.write(self._entry("json"), encode_json(entry))
        self._journal.append(entry)
        self._storage.remove(self._open_shard)

    def finish(self, skipped: list[Skip]) -> None:
        """Take note of the samples skipped after the last shard."""
        self._tail = skipped

    def save_open_shard(self, state: bytes) -> None:
        """Save an unfinished shard's state, for `load_open_shard` after a crash."""
        self._store.note(f"{self.name}/open", state)

    def load_open_shard(self) -> bytes | None:
        """Return the state of `save_open_shard`, or None."""
        return self._store.recall(f"{self.name}/open")

    def summary(self) -> SplitSummary:
        """Return the split's entry of the manifest."""
        sizes = [entry["source_bytes"] for entry in self._journal]
        known = [size for size in sizes if size is not None]
        return SplitSummary(self.samples, len(self.skipped), sum(known) if known else None)

    def files(self) -> dict[str, FileRecord]:
        """Return the records of all shards, by path."""
        return {
            path: FileRecord(*record) for entry in self._journal for path, record in entry["files"].items()
        }

    def array_documents(self) -> dict[str, dict[str, Any]]:
        """Return the `zarr.json` of each array, by path."""
        return {
            f"{self.name}/{array}": self._layout(array, self.samples).to_zarr(array)
            for array in (TOKENS, *self.columns)
        }

    def write_tables(self) -> dict[str, FileRecord]:
        """Write the samples table, joined from the shards' rows, and the table of skipped samples."""
        parts = (
            pq.read_table(io.BytesIO(self._storage.read(self._entry("parquet", shard))))
            for shard in range(self.shards)
        )
        tables = {SAMPLES_TABLE: self._write_table(SAMPLES_TABLE, SAMPLES_SCHEMA, parts)}
        if self.skipped:
            rows = pa.Table.from_pylist([vars(skip) for skip in self.skipped], schema=SKIPPED_SCHEMA)
            tables[SKIPPED_TABLE] = self._write_table(SKIPPED_TABLE, SKIPPED_SCHEMA, iter([rows]))
        return {f"{self.name}/{name}": record for name, record in tables.items()}

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

    def _entry(self, suffix: str, shard: int | None = None) -> str:
        return f"{STAGING}/{self.name}/{self.shards if shard is None else shard:06d}.{suffix}"

    @property
    def _open_shard(self) -> str:
        return f"{STAGING}/{self.name}/open"

    def _read_journal(self) -> Iterator[dict[str, Any]]:
        for shard in range(2**31):
            try:
                yield json.loads(self._storage.read(self._entry("json", shard)))
            except FileNotFoundError:
                return

"""The shards of a new split, of samples of other stores: linked, copied chunk by chunk, or encoded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
from typing_extensions import override

from tokenstore.format import LABELS, SAMPLES_SCHEMA, TOKENS, ArrayLayout
from tokenstore.reading import StoreFiles
from tokenstore.reading.array import Values
from tokenstore.writing.blocks import Block, BlockExecutor, BlockReader
from tokenstore.writing.checks import check_codes
from tokenstore.writing.editing.rows import JoinedRows, PickedRows
from tokenstore.writing.encoded import EncodedShard, assembled, encode_piece, pieces
from tokenstore.writing.linked import StoredFile
from tokenstore.writing.rewrite import TableRows
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.writer import StoreWriter

__all__ = ["Report", "ShardCut", "encoded_shards", "write_split"]

Report = Callable[[int, int], None]
"""A progress callback: the samples done and in all."""


class _Shard(NamedTuple):
    """The samples of one shard to write, and its arrays that some store has already."""

    start: int
    stop: int
    stored: Mapping[str, StoredFile]


@dataclass(frozen=True)
class ShardCut:
    """The cut of a split into shards."""

    split: str
    spec: StoreSpec
    layouts: Mapping[str, ArrayLayout]
    """The layout of each array, tokens first."""
    shard_samples: int
    first: int = 0
    """The first sample of the first shard that is to be written."""


def write_split(
    writer: StoreWriter,
    name: str,
    rows: JoinedRows,
    columns: tuple[str, ...],
    *,
    executor: BlockExecutor,
    report: Report,
) -> None:
    """Write a split of some rows, as far as it is not written yet; the writer's spec says how.

    `columns` are the arrays beside the tokens; all parts of the rows have them. A shard that a store has
    already is linked, or copied, and so is a chunk; an executor has all else decoded and encoded. Raises
    DamageError, and what `StoreWriter` raises.
    """
    first = rows.parts[0].split
    further = {array: first.column(array) for array in columns if array not in (TOKENS, LABELS)}
    part = writer.split(name, len(rows), labels=LABELS in columns, columns=further)
    _write_shards(part, rows, writer.spec, executor, report)
    part.finish(rows.skips())


def _write_shards(
    part: SplitWriter, rows: JoinedRows, spec: StoreSpec, executor: BlockExecutor, report: Report
) -> None:
    layouts = part.layouts(max(1, min(part.shard_samples, len(rows))))
    cut = ShardCut(part.name, spec, layouts, part.shard_samples, part.source_position)
    batches = rows.batches(part.source_position)
    table = TableRows(batches if LABELS in layouts else _without_label_names(batches))
    with contextlib.closing(encoded_shards(rows, cut, executor, table)) as shards:
        for shard in shards:
            stop = shard.number * part.shard_samples + shard.samples
            part.write_encoded(shard, stop, [])
            report(stop, len(rows))


def _without_label_names(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield rows of the samples table of a split that has no labels, whatever those it came from had."""
    place = SAMPLES_SCHEMA.get_field_index("label_name")
    field = SAMPLES_SCHEMA.field(place)
    for batch in batches:
        yield batch.set_column(place, field, pa.nulls(len(batch), field.type))


def encoded_shards(
    rows: JoinedRows, cut: ShardCut, executor: BlockExecutor, table: TableRows | None = None
) -> Generator[EncodedShard, None, None]:
    """Yield the shards of some rows in order, encoded by an executor, or as some store has them already.

    Without `table`, the rows of the samples table from the cut's first sample on, they are left out. Raises
    DamageError, and CodecError for values that the codec cannot store.
    """
    layouts = cut.layouts
    shards, ahead = itertools.tee(_shards(rows, cut))
    blocks = (block for shard in ahead for block in _blocks(cut, shard))
    payloads = executor.blocks(_Cutting(rows.parts, cut), blocks)
    with contextlib.closing(payloads):
        for shard in shards:
            of_arrays: dict[str, list[bytes]] = {array: [] for array in layouts if array not in shard.stored}
            for block in _blocks(cut, shard):
                of_arrays[block.array] += next(payloads)
            number, count = shard.start // cut.shard_samples, shard.stop - shard.start
            new = {array: layouts[array] for array in of_arrays}
            tables = () if table is None else table.take(count)
            encoded = assembled(cut.split, number, count, new, of_arrays, tables)
            stored = {
                f"{cut.split}/{array}/{layouts[array].shard_file(number)}": file
                for array, file in shard.stored.items()
            }
            yield encoded.with_stored(stored)


def _shards(rows: JoinedRows, cut: ShardCut) -> Iterator[_Shard]:
    for start in range(cut.first, len(rows), cut.shard_samples):
        stop = min(start + cut.shard_samples, len(rows))
        found = {array: rows.whole_shard(array, layout, start, stop) for array, layout in cut.layouts.items()}
        yield _Shard(start, stop, {array: file for array, file in found.items() if file is not None})


def _blocks(cut: ShardCut, shard: _Shard) -> Iterator[Block]:
    new = {array: layout for array, layout in cut.layouts.items() if array not in shard.stored}
    return pieces(cut.split, new, shard.start, shard.stop)


class _Contents(NamedTuple):
    """The contents of a block: the payloads of its chunks where a store has them, else its values."""

    payloads: list[bytes] | None
    values: Values | None


class _RowBlocks(BlockReader):
    """A reader of blocks of picked samples, by so many threads at a time."""

    def __init__(self, parts: Sequence[PickedRows], cut: ShardCut, threads: int) -> None:
        self._rows, self._layouts = JoinedRows(parts, threads), cut.layouts

    @override
    def read(self, block: Block) -> _Contents:
        layout = self._layouts[block.array]
        stored = self._rows.payloads(block.array, layout, block.start, block.stop)
        if stored is not None:
            return _Contents(stored, None)
        return _Contents(None, self._rows.read_range(block.array, block.start, block.stop))

    @override
    def places(self, block: Block) -> Collection[int]:
        return self._rows.places(block.start, block.stop)


@dataclass(frozen=True)
class _Cutting:
    """The task of cutting picked samples to the payloads of chunks: those that are stored, or new ones."""

    parts: Sequence[PickedRows]
    cut: ShardCut

    @property
    def stores(self) -> Sequence[StoreFiles]:
        return [part.split.store for part in self.parts]

    def reader(self, threads: int) -> _RowBlocks:
        return _RowBlocks(self.parts, self.cut, threads)

    def __call__(self, block: Block, contents: _Contents, /) -> list[bytes]:
        payloads, values = contents
        if values is None:
            return payloads or []
        layout, spec = self.cut.layouts[block.array], self.cut.spec
        if block.array == TOKENS:
            check_codes(values, spec.codebook_sizes, spec.grid, str(block), views=spec.views)
            values = values.astype(layout.dtype, copy=False)
        return encode_piece(layout, values, str(block))

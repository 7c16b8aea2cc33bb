"""The shards of a new split, of samples of other stores: linked, copied chunk by chunk, or encoded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tokenstore.format import LABELS, TOKENS, ArrayLayout
from tokenstore.machine import in_order
from tokenstore.writing.blocks import Block
from tokenstore.writing.checks import check_codes
from tokenstore.writing.editing.rows import JoinedRows
from tokenstore.writing.encoded import assembled, encode_piece, pieces
from tokenstore.writing.linked import StoredFile
from tokenstore.writing.rewrite import TableRows
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.writer import StoreWriter

__all__ = ["Report", "write_split"]

Report = Callable[[int, int], None]
"""A progress callback: the samples done and in all."""


class _Shard(NamedTuple):
    """The samples of one shard to write, and its arrays that some store has already."""

    start: int
    stop: int
    stored: Mapping[str, StoredFile]


def write_split(
    writer: StoreWriter,
    name: str,
    rows: JoinedRows,
    columns: tuple[str, ...],
    *,
    jobs: int,
    report: Report,
) -> None:
    """Write a split of some rows, as far as it is not written yet; the writer's spec says how.

    `columns` are the arrays beside the tokens; all parts of the rows have them. A shard that a store has
    already is linked, or copied, and so is a chunk; all else is decoded and encoded by `jobs` threads. Raises
    DamageError, and what `StoreWriter` raises.
    """
    first = rows.parts[0].split
    further = {array: first.column(array) for array in columns if array not in (TOKENS, LABELS)}
    part = writer.split(name, len(rows), labels=LABELS in columns, columns=further)
    _write_shards(part, rows, writer.spec, jobs, report)
    part.finish(rows.skips())


def _write_shards(part: SplitWriter, rows: JoinedRows, spec: StoreSpec, jobs: int, report: Report) -> None:
    samples, begin = len(rows), part.source_position
    layouts = part.layouts(max(1, min(part.shard_samples, samples)))
    shards, ahead = itertools.tee(_shards(part, rows, layouts, begin))
    blocks = (block for shard in ahead for block in _blocks(part.name, layouts, shard))
    payloads = in_order(lambda block: _payloads(rows, spec, layouts, block), blocks, jobs)
    table = TableRows(rows.batches(begin))
    with contextlib.closing(payloads):
        for shard in shards:
            of_arrays: dict[str, list[bytes]] = {array: [] for array in layouts if array not in shard.stored}
            for block in _blocks(part.name, layouts, shard):
                of_arrays[block.array] += next(payloads)
            number, count = shard.start // part.shard_samples, shard.stop - shard.start
            new = {array: layouts[array] for array in of_arrays}
            encoded = assembled(part.name, number, count, new, of_arrays, table.take(count))
            stored = {
                f"{part.name}/{array}/{layouts[array].shard_file(number)}": file
                for array, file in shard.stored.items()
            }
            part.write_encoded(encoded.with_stored(stored), shard.stop, [])
            report(shard.stop, samples)


def _shards(
    part: SplitWriter, rows: JoinedRows, layouts: Mapping[str, ArrayLayout], begin: int
) -> Iterator[_Shard]:
    for start in range(begin, len(rows), part.shard_samples):
        stop = min(start + part.shard_samples, len(rows))
        found = {array: rows.whole_shard(array, layout, start, stop) for array, layout in layouts.items()}
        yield _Shard(start, stop, {array: file for array, file in found.items() if file is not None})


def _blocks(split: str, layouts: Mapping[str, ArrayLayout], shard: _Shard) -> Iterator[Block]:
    new = {array: layout for array, layout in layouts.items() if array not in shard.stored}
    return pieces(split, new, shard.start, shard.stop)


def _payloads(
    rows: JoinedRows, spec: StoreSpec, layouts: Mapping[str, ArrayLayout], block: Block
) -> list[bytes]:
    """Return the payloads of the chunks of a block: those that are stored, or new ones."""
    layout = layouts[block.array]
    stored = rows.payloads(block.array, layout, block.start, block.stop)
    if stored is not None:
        return stored
    values = rows.read_range(block.array, block.start, block.stop)
    if block.array == TOKENS:
        check_codes(values, spec.codebook_sizes, spec.grid, str(block), views=spec.views)
        values = values.astype(layout.dtype, copy=False)
    return encode_piece(layout, values, str(block))

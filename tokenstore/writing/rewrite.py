"""The rewriting of a store shard by shard: with another codec, or with its codes numbered anew."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import StoreError, did_you_mean
from tokenstore.format import (
    LABELS,
    SAMPLES_SCHEMA,
    SKIPPED_SCHEMA,
    SKIPPED_TABLE,
    TOKENS,
    ArrayLayout,
    Manifest,
    Skip,
    read_table,
)
from tokenstore.reading import SplitReader, StoreFiles, TokenStore
from tokenstore.reading.array import Values
from tokenstore.writing.blocks import Block, BlockExecutor, StoredBlocks, block_executor
from tokenstore.writing.checks import check_codes
from tokenstore.writing.choices import MIN_DECODE_RATE, choices
from tokenstore.writing.codec_choice import CodecChoice, OnProgress, choose_codec
from tokenstore.writing.encoded import assembled, encode_piece, pieces
from tokenstore.writing.joined import JoinedSplit
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import SplitWriter, StoreWriter

Renumber: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

_CHOICE = "codec.json"
_GROUP_ROWS = 2**20
"""The rows of a row group of Parquet, as pyarrow cuts a table."""


@dataclass(frozen=True)
class RewritePlan:
    """The changes that rewriting makes to a store, besides its codec."""

    spec: StoreSpec
    """The spec of the new store; codec, model and shard size are set later."""
    renumber: Renumber
    """The function from stored codes (n, *grid) to the codes that are written; views are n more grids."""


@dataclass(frozen=True)
class Rewritten:
    """A store that was rewritten: its manifest, and the codec with the reason for it."""

    manifest: Manifest
    choice: CodecChoice


def same_codes(store: TokenStore) -> RewritePlan:
    """Return the plan that changes nothing."""
    return RewritePlan(spec_of(store), unchanged)


def unchanged(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return codes as they are."""
    return codes


def rewrite_into(
    writer: StoreWriter,
    store: TokenStore,
    plan: RewritePlan,
    *,
    codec: str,
    min_decode_rate: float = MIN_DECODE_RATE,
    shard_samples: int | None = None,
    executor: BlockExecutor | None = None,
    on_progress: OnProgress | None = None,
) -> Rewritten:
    """Write `store` by a plan and with a codec, through a writer that has written no split yet, and commit.

    The choice of a codec is noted beside the shards: a resumed writer goes on with the same codec and model.
    Pieces of shards are encoded by an executor, by default by one thread a core; the bytes are the same for
    any.

    Raises StoreError for an unknown codec, or if none decodes at `min_decode_rate`; DamageError for damaged
    codes.
    """
    check_codec(codec)
    noted = writer.recall(_CHOICE)
    if noted is None:
        choice = choose_codec(
            store,
            codec,
            plan.spec.codebook_sizes,
            plan.renumber,
            min_decode_rate=min_decode_rate,
            on_progress=on_progress,
        )
        writer.note(_CHOICE, choice.to_json())
    else:
        choice = CodecChoice.from_json(noted)
    writer.spec = replace(
        plan.spec,
        codec=choice.codec,
        model=choice.model,
        given_views=choice.given_views,
        shard_samples=shard_samples,
    )
    for name in store.splits:
        split = store[name]
        columns = {
            array: reader.layout.column
            for array, reader in split.arrays.items()
            if array not in (TOKENS, LABELS)
        }
        part = writer.split(name, len(split), labels=LABELS in split.arrays, columns=columns)

        def report(done: int, total: int, step: str = f"{name}, rewriting") -> None:
            if on_progress is not None:
                on_progress(step, done, total)

        write_joined(
            [store.files], part, writer.spec, plan.renumber, executor or block_executor(None, None), report
        )
    return Rewritten(writer.commit(), choice)


def check_codec(codec: str) -> None:
    """Raise StoreError unless `codec` is one that a store can be rewritten with."""
    if codec not in choices():
        near = did_you_mean(codec, choices())
        raise StoreError(f"expected a codec of {', '.join(choices())}, found {codec!r}{near}")


def spec_of(store: TokenStore) -> StoreSpec:
    """Return the spec of a store as it is, to write the store again."""
    return StoreSpec(
        **store.manifest.shared(),
        chunk_samples=store[store.splits[0]].arrays[TOKENS].layout.chunk_samples,
        codebook=store.codebook,
        synonyms=store.synonyms,
        permutations=store.files.permutations,
    )


def skips_of(split: SplitReader) -> list[Skip]:
    """Read the samples of the source that are not in a split; raises DamageError for a damaged table."""
    skipped = split.store.manifest.splits[split.name].skipped
    if not skipped:
        return []
    path = f"{split.name}/{SKIPPED_TABLE}"
    data = split.store.read_checked(path)
    table = read_table(data, SKIPPED_SCHEMA, skipped, f"{split.store.storage}/{path}")
    return [Skip(**row) for row in table.to_pylist()]


@dataclass(frozen=True)
class _Encoding:
    """The task of encoding the pieces of a split's shards to the payloads of their chunks."""

    stores: Sequence[StoreFiles]
    spec: StoreSpec
    layouts: Mapping[str, ArrayLayout]
    shard_samples: int
    renumber: Renumber

    def reader(self, threads: int) -> StoredBlocks:
        return StoredBlocks(self.stores, threads)

    def __call__(self, block: Block, values: Values, /) -> list[bytes]:
        shard, first = divmod(block.start, self.shard_samples)
        if block.array == TOKENS:
            spec = self.spec
            values = self.renumber(spec.grids(values)).reshape(len(values), *spec.sample_shape)
            where = f"{block.split} shard {shard}"
            check_codes(values, spec.codebook_sizes, spec.grid, where, first, views=spec.views)
            values = values.astype(self.layouts[TOKENS].dtype, copy=False)
        where = f"{block.split}/{block.array} shard {shard}"
        return encode_piece(self.layouts[block.array], values, where)


def write_joined(
    stores: Sequence[StoreFiles],
    part: SplitWriter,
    spec: StoreSpec,
    renumber: Renumber,
    executor: BlockExecutor,
    report: Callable[[int, int], None],
) -> None:
    """Write the shards of a split that are not written yet, cut anew, of the samples of all stores in order.

    An executor reads and encodes their pieces. `renumber` is a function from the stored codes (n, *grid) to
    those that are written. `report` is called with the samples done and in all.
    """
    joined = JoinedSplit(stores, part.name, 1)
    name, samples = joined.name, len(joined)
    layouts = part.layouts(max(1, min(part.shard_samples, samples)))
    begin = part.source_position
    starts = range(begin, samples, part.shard_samples)
    of_shards = (pieces(name, layouts, start, min(start + part.shard_samples, samples)) for start in starts)
    task = _Encoding(stores, spec, layouts, part.shard_samples, renumber)
    payloads = executor.blocks(task, itertools.chain.from_iterable(of_shards))
    rows = TableRows(joined.batches(begin))
    with contextlib.closing(payloads):
        for start in starts:
            stop = min(start + part.shard_samples, samples)
            of_arrays: dict[str, list[bytes]] = {array: [] for array in layouts}
            for piece in pieces(name, layouts, start, stop):
                of_arrays[piece.array] += next(payloads)
            number = start // part.shard_samples
            tables = rows.take(stop - start)
            # subtle: a name for the shard would keep its bytes while the next one fills
            part.write_encoded(assembled(name, number, stop - start, layouts, of_arrays, tables), stop, [])
            report(stop, samples)
    part.finish([skip for store in stores for skip in skips_of(SplitReader(store, name))])


class TableRows:
    """The rows of a samples table, taken from a stream of record batches."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left = pa.RecordBatch.from_pylist([], SAMPLES_SCHEMA)

    def take(self, rows: int) -> Iterator[pa.Table]:
        """Yield the next rows as tables, each of a whole row group but the last."""
        while rows:
            table = self._table(min(rows, _GROUP_ROWS))
            rows -= len(table)
            yield table

    def _table(self, rows: int) -> pa.Table:
        batches = []
        while rows:
            if not len(self._left):
                self._left = next(self._batches)
            batches.append(self._left.slice(0, rows))
            self._left = self._left.slice(len(batches[-1]))
            rows -= len(batches[-1])
        return pa.Table.from_batches(batches)

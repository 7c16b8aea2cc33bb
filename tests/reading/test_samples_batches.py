"""The samples table as a stream of record batches: the rows of the whole table, in memory that stays flat."""

from __future__ import annotations

import io
import itertools
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.stores import Samples, random_codes, replace_files, store_files, write_store

import tokenstore
from tokenstore.errors import DamageError
from tokenstore.format import SAMPLES_SCHEMA, read_table, tables
from tokenstore.loading import TokenDataset
from tokenstore.parquet_pages import column_pages, inflated_nbytes
from tokenstore.reading.checked_files import samples_batches

SAMPLES = 300
SHARD = 64
PATH = "train/samples.parquet"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch have fewer rows than a row group."""
    monkeypatch.setattr(tables, "BATCH_ROWS", 50)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of several row groups in its samples table."""
    path = tmp_path_factory.mktemp("store") / "store"
    labels = (np.arange(SAMPLES) % 3).astype(np.int32)
    codes = random_codes(SAMPLES, (2, 2), 5)
    names = ("a", "b", "c")
    write_store(path, {"train": Samples(codes, labels)}, 5, shard_samples=SHARD, class_names=names)
    return path


def joined(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, SAMPLES_SCHEMA)


def test_batches_are_the_rows_of_the_table_in_order(store: Path) -> None:
    split = tokenstore.open(store)["train"]
    batches = list(split.samples_batches())
    assert max(map(len, batches)) <= 50 < SHARD
    assert joined(batches).equals(split.samples_table())


@pytest.mark.parametrize("start", [1, 49, 63, 64, 65, 128, SAMPLES - 1, SAMPLES])
def test_batches_can_begin_at_any_row(store: Path, start: int) -> None:
    split = tokenstore.open(store)["train"]
    assert joined(samples_batches(split.store, "train", start)).equals(split.samples_table().slice(start))


@pytest.mark.parametrize("compressed", [False, True])
def test_batches_come_out_of_zip_files_too(store: Path, tmp_path: Path, compressed: bool) -> None:
    packed = tmp_path / "store.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for path in store_files(store):
            archive.write(store / path, path)
    assert joined(tokenstore.open(packed)["train"].samples_batches()).equals(
        tokenstore.open(store)["train"].samples_table()
    )


def test_batches_of_views_are_in_the_order_of_the_views(store: Path) -> None:
    dataset = TokenDataset(store)
    ascending, shuffled = dataset.select([0, 1, 1, 63, 64, 299]), dataset.select([7, -1, 7])
    for view in (
        ascending,
        shuffled,
        tokenstore.concat([ascending, shuffled]),
        tokenstore.mix([ascending, shuffled]),
        dataset.select(np.empty(0, np.int64)),
    ):
        assert joined(view.samples_batches()).equals(view.samples_table().combine_chunks())


def test_a_changed_table_is_damage_before_its_first_row(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    tokenstore.copy(store, copy)
    data = bytearray((copy / PATH).read_bytes())
    data[10] ^= 1
    (copy / PATH).write_bytes(data)
    split = tokenstore.open(copy)["train"]
    for damaged in (bytes(data), bytes(data[:-1]), bytes(data) + b"0"):
        (copy / PATH).write_bytes(damaged)
        with pytest.raises(DamageError, match=r"samples\.parquet: expected"):
            next(split.samples_batches())
    (copy / PATH).unlink()
    with pytest.raises(DamageError, match="the file is missing"):
        next(split.samples_batches())


def parquet(table: pa.Table, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **settings)
    return buffer.getvalue()


def bad_tables(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    yield "rows", table.slice(1)
    yield "column", table.drop_columns(["width"])
    yield "int32", table.set_column(3, "width", table["width"].cast(pa.int64()))


def test_a_table_of_another_form_is_damage_as_it_is_when_read_whole(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for word, table in bad_tables(pq.read_table(store / PATH)):
        tokenstore.copy(store, copy)
        replace_files(copy, {PATH: parquet(table)})
        split = tokenstore.open(copy)["train"]
        with pytest.raises(DamageError, match=word) as whole:
            split.samples_table()
        with pytest.raises(DamageError, match=word) as streamed:
            list(split.samples_batches())
        assert str(streamed.value) == str(whole.value)
        shutil.rmtree(copy)


def many_rows(rows: int) -> bytes:
    text = pa.array([f"images/{row:08d}.jpeg" for row in range(rows)])
    numbers = pa.array(np.arange(rows))
    columns = [numbers, text, text, numbers.cast(pa.int32()), numbers.cast(pa.int32()), numbers]
    return parquet(pa.table(columns, SAMPLES_SCHEMA.names), row_group_size=1000, compression="zstd")


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    for rows in (4_000, 16_000):
        data = many_rows(rows)
        pool = pa.proxy_memory_pool(pa.system_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            batches = tables.table_batches(io.BytesIO(data), SAMPLES_SCHEMA, rows, "here")
            assert sum(map(len, batches)) == rows
        finally:
            pa.set_memory_pool(before)
        peaks.append(pool.max_memory())
    assert peaks[1] < 1.2 * peaks[0]


def test_the_bytes_of_pages_are_those_of_the_footer() -> None:
    data = many_rows(5_000)
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    columns = itertools.product(range(metadata.num_row_groups), range(metadata.num_columns))
    with_headers = sum(metadata.row_group(g).column(c).total_uncompressed_size for g, c in columns)
    assert 0.9 * with_headers < inflated_nbytes(io.BytesIO(data)) < with_headers
    assert read_table(data, SAMPLES_SCHEMA, 5_000, "here").num_rows == 5_000


def test_columns_that_overlap_are_refused_before_their_pages_are_walked_again() -> None:
    page = b"\x25\x14\x15\x14\x00" + bytes(10)  # 10 bytes, inflated to 10
    body = b"PAR1" + 40 * page
    zigzag = bytes([2 * (len(body) - 4) & 127 | 128, 2 * (len(body) - 4) >> 7])
    column = b"\x3c\x76" + zigzag + b"\x26\x08\x00\x00"
    group = b"\x19\x1c" + column + b"\x00"
    for count in (1, 2, 14):
        footer = b"\x49" + bytes([count << 4 | 12]) + count * group + b"\x00"
        data = body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        if count == 1:
            assert inflated_nbytes(io.BytesIO(data)) == 400
            assert [list(pages) for pages in column_pages(io.BytesIO(data), 0)] == [[(10, 10)] * 40]
        else:
            with pytest.raises(ValueError, match="columns that overlap"):
                inflated_nbytes(io.BytesIO(data))
            with pytest.raises(ValueError, match="columns that overlap"):
                list(column_pages(io.BytesIO(data), 0))

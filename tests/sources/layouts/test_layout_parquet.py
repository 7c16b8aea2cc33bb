"""Codes in a column of Parquet files: lists of any kind give their codes, and images stay images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import random_codes

from tokenstore.errors import SourceError
from tokenstore.sources import ImageSource, open_source

CODES = random_codes(23, 4, 5)
LABELS = np.arange(23) % 3
FEATURES = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}


def lists(codes: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(codes.tolist(), kind)


def put(path: Path, rows: int = 7, **columns: Any) -> Path:
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


KINDS = {
    "list": pa.list_(pa.list_(pa.int64())),
    "large": pa.large_list(pa.large_list(pa.uint16())),
    "fixed": pa.list_(pa.list_(pa.int32(), 5), 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_lists_of_any_kind_are_codes(tmp_path: Path, kind: str) -> None:
    source = opened(put(tmp_path / "x.parquet", tokens=lists(CODES, KINDS[kind]), label=LABELS), "parquet")
    read_everywhere(source.splits["train"], CODES)
    assert source.splits["train"].labels(0, 23).tolist() == LABELS.tolist()
    assert (source.grid, source.class_names) == ((4, 5), ("a", "b", "c"))


def test_rows_of_codes_become_a_store_with_captions_and_a_grid(tmp_path: Path) -> None:
    captions = [f"photo {row}" for row in range(23)]
    for split in ("train", "validation"):
        rows = pa.array(CODES.reshape(23, 20).tolist(), pa.list_(pa.int16()))
        put(tmp_path / f"src/{split}-0.parquet", z=rows, caption=captions, label=LABELS)
    store = converted(tmp_path / "src", tmp_path / "out", grid=(4, 5), columns=["caption"])
    assert store.splits == ("train", "val")
    assert np.array_equal(store["val"].read("tokens", range(23)), CODES)
    assert store["val"].read("caption", [3, 9]).tolist() == [captions[3], captions[9]]


def test_a_file_at_a_url_gives_what_the_local_file_gives(tmp_path: Path) -> None:
    data = put(tmp_path / "x.parquet", tokens=lists(CODES, KINDS["list"])).read_bytes()
    fsspec.filesystem("memory").pipe_file("memory://layouts/x.parquet", data)
    read_everywhere(opened("memory://layouts/x.parquet", "parquet").splits["train"], CODES)


def test_images_beside_codes_are_taken_unless_the_codes_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", image=[b"x"] * 23, tokens=lists(CODES, KINDS["list"]))
    assert isinstance(open_source(path), ImageSource)
    read_everywhere(opened(path, "parquet", token_column="tokens").splits["train"], CODES)


RAGGED = [[1, 2], [3], [4, 5]]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"tokens": RAGGED}, {}, "expected lists of one length in all rows, found several"),
        ({"tokens": [[1, 2], None, [4, 5]]}, {}, "null|several"),
        ({"tokens": [[1, None], [3, 4], [4, 5]]}, {}, "null"),
        ({"tokens": [[], [], []]}, {}, "expected an image column|at least one|several|lists"),
        ({"tokens": [1, 2, 3]}, {}, "expected an image column"),
        ({"z": [[0.5], [1.5], [2.5]]}, {}, "expected an image column"),
        ({"z": [[0.5], [1.5], [2.5]]}, {"token_column": "z"}, "expected lists of whole numbers, found list<"),
        ({"tokens": [[1], [2], [3]]}, {"token_column": "y"}, "no such column; found tokens"),
        ({"tokens": [[1], [2], [3]], "label": [1, None, 2]}, {}, "1 labels are null"),
    ],
)
def test_columns_that_are_no_codes_are_refused(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.parquet", **options)  # type: ignore[arg-type]


def test_codes_below_zero_and_cut_off_files_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", tokens=[[1, 2], [3, -4]])
    with pytest.raises(SourceError, match=r"sample 1: expected codes 0.*found -4"):
        open_source(path).splits["train"].codes(0, 2)  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"expected a Parquet file"):
        open_source(path)


def test_files_of_other_columns_than_the_first_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "train-0.parquet", tokens=[[1, 2], [3, 4]])
    put(tmp_path / "train-1.parquet", tokens=[[[1, 2]], [[3, 4]]])
    with pytest.raises(SourceError, match=r"column 'tokens' is of another type than in the first file"):
        open_source(tmp_path)

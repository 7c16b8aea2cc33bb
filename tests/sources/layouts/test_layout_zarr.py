"""Codes in Zarr arrays of both formats and of any codec; a token store and pickles are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import put_group, put_zarr_v2, put_zarr_v3, random_codes

import tokenstore
from tokenstore.errors import SourceError
from tokenstore.sources import open_source

CODES = random_codes(23, 4, 5)
LABELS = np.arange(23) % 3
PUT = {2: put_zarr_v2, 3: put_zarr_v3}


@pytest.mark.parametrize("format", [2, 3])
@pytest.mark.parametrize("rows", [1, 7, 23, 100])
def test_an_array_gives_its_codes_whatever_its_chunks(tmp_path: Path, format: int, rows: int) -> None:
    for dtype in ("<u2", "<i8"):
        path = PUT[format](tmp_path / dtype, CODES.astype(dtype), rows)
        read_everywhere(opened(path, "zarr").splits["train"], CODES)


@pytest.mark.parametrize("format", [2, 3])
def test_a_group_has_labels_names_and_columns(tmp_path: Path, format: int) -> None:
    root = put_group(tmp_path / "x.zarr", format)
    PUT[format](root / "codes", CODES.astype("<i4"), 5, {"tokenizer": "vq", "class_names": ["a", "b", "c"]})
    PUT[format](root / "labels", LABELS.astype("<i8"), 50)
    PUT[format](root / "score", np.arange(23, dtype="<f4"), 4)
    store = converted(root, tmp_path / "out", columns=["score"])
    assert np.array_equal(store["train"].read("tokens", range(23)), CODES)
    assert np.array_equal(store["train"].read("labels", range(23)), LABELS)
    assert np.array_equal(store["train"].read("score", range(23)), np.arange(23))
    assert (store.manifest.tokenizer.name, store.manifest.class_names) == ("vq", ("a", "b", "c"))


@pytest.mark.parametrize("format", [2, 3])
def test_what_zarr_itself_writes_with_codecs_shards_and_texts_comes_back(tmp_path: Path, format: int) -> None:
    root = zarr.open_group(tmp_path / "x", mode="w", zarr_format=format)  # type: ignore[arg-type]
    for split in ("training", "validation"):
        group = root.create_group(split)
        shards: dict[str, Any] = {"shards": (20, 4, 5)} if format == 3 else {}
        group.create_array("tokens", data=CODES.astype("u2"), chunks=(5, 4, 5), **shards)
        group.create_array("labels", data=LABELS, chunks=(4,))
    source = opened(tmp_path / "x", "zarr")
    assert list(source.splits) == ["train", "val"]
    read_everywhere(source.splits["val"], CODES)
    assert source.splits["train"].labels(0, 23).tolist() == LABELS.tolist()


def test_chunks_that_are_not_stored_are_named_as_zarr_reads_them_as_zeros(tmp_path: Path) -> None:
    path = put_zarr_v3(tmp_path / "x", CODES.astype("u2"), 10)
    (path / "c/1/0/0").unlink()
    source = opened(path, "zarr")
    assert source.notes == ("array x: 1 chunks are not stored, which Zarr reads as 0",)
    assert not source.splits["train"].codes(10, 20).any()


def test_a_token_store_is_refused_as_a_source(tmp_path: Path) -> None:
    tokenstore.convert(put_zarr_v3(tmp_path / "x", CODES.astype("u2"), 9), tmp_path / "out", workers=0)
    with pytest.raises(SourceError, match=r"a Zarr hierarchy that is a token store"):
        open_source(tmp_path / "out")


def changed(path: Path, **fields: Any) -> None:
    (file,) = [path / name for name in (".zarray", "zarr.json") if (path / name).exists()]
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("format", "fields", "message"),
    [
        (2, {"dtype": "|O", "filters": [{"id": "pickle"}]}, "holds pickled objects, which are not read"),
        (2, {"filters": [{"id": "pickle", "protocol": 5}]}, "holds pickled objects"),
        (3, {"codecs": [{"name": "numcodecs.pickle"}]}, "holds pickled objects"),
        (3, {"codecs": [{"name": "nonsense"}]}, "cannot be opened"),
        (3, {"shape": [-5, 4, 5]}, "cannot be opened|expected"),
        (3, {"data_type": "float32"}, "float32 .*: latents, which are no codes"),
        (2, {"dtype": "<f2"}, "float16 .*: latents"),
        (2, {"shape": [23]}, "cannot be opened|expected"),
        (2, {"chunks": [2**40, 4, 5]}, "expected chunks of few rows"),
        (2, {"zarr_format": 9}, "cannot be opened"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    tmp_path: Path, format: int, fields: dict[str, Any], message: str
) -> None:
    path = PUT[format](tmp_path / "x", CODES.astype("<u2"), 10)
    changed(path, **fields)
    with pytest.raises(SourceError, match=message):
        open_source(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{" * 5000, b"\xff"])
def test_metadata_that_are_no_json_are_refused(tmp_path: Path, content: bytes) -> None:
    path = put_zarr_v3(tmp_path / "x", CODES.astype("<u2"), 10)
    (path / "zarr.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"expected Zarr metadata in JSON"):
        open_source(path)


def test_a_chunk_that_is_cut_off_ends_the_conversion(tmp_path: Path) -> None:
    path = put_zarr_v2(tmp_path / "x", CODES.astype("<u2"), 10)
    source = open_source(path)
    (path / "1.0.0").write_bytes(b"\0" * 7)
    with pytest.raises(SourceError, match=r"rows \[10, 20\) cannot be read"):
        source.splits["train"].codes(0, 23)


def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    root = put_group(tmp_path / "x")
    put_zarr_v3(root / "tokens", CODES, 10)
    put_zarr_v3(root / "labels", LABELS[:9], 10)
    with pytest.raises(SourceError, match=r"9 labels for 23 samples"):
        open_source(root)
    put_zarr_v3(put_group(tmp_path / "y") / "tokens", CODES, 10)
    put_zarr_v3(tmp_path / "y/labels", LABELS, 10)
    root = tmp_path / "y"
    with pytest.raises(SourceError, match=r"no such column; found labels, tokens"):
        open_source(root, columns=["caption"])
    with pytest.raises(SourceError, match=r"no such array; found labels, tokens"):
        open_source(root, token_column="token")


def test_chunks_of_no_rows_are_refused(tmp_path: Path) -> None:
    path = put_zarr_v2(tmp_path / "x", CODES.astype("<u2"), 10)
    changed(path, chunks=[10, 0, 5])
    with pytest.raises(SourceError, match=r"expected chunks of one row or more|cannot be opened"):
        open_source(path)

"""MDS shards: arrays of fixed and of free types and shapes give their codes, and damage is one error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import put_mds, random_codes

from tokenstore.errors import SourceError
from tokenstore.sources import open_source

CODES = random_codes(13, 4, 5).astype(np.int16)
LABELS = np.arange(13) % 3
CAPTIONS = [f"é{'x' * row}" for row in range(13)]
TYPE, SHAPE = bytes([17]), bytes([2 << 2, 4, 5])
FORMS = {
    "ndarray:int16:4,5": [each.tobytes() for each in CODES],
    "ndarray:int16": [SHAPE + each.tobytes() for each in CODES],
    "ndarray": [TYPE + SHAPE + each.tobytes() for each in CODES],
}


def columns(form: str) -> dict[str, Any]:
    return {
        "caption": ("str", [caption.encode() for caption in CAPTIONS]),
        "label": ("int", [struct.pack("<q", label) for label in LABELS]),
        "score": ("float32", [struct.pack("<f", row) for row in range(13)]),
        "tokens": (form, FORMS[form]),
    }


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_any_encoding_become_a_store(tmp_path: Path, form: str) -> None:
    path = put_mds(tmp_path / "src", columns(form), [5, 1, 7])
    read_everywhere(opened(path, "mds").splits["train"], CODES)
    store = converted(path, tmp_path / "out", columns=["caption", "score"])
    split = store["train"]
    assert np.array_equal(split.read("tokens", range(13)), CODES)
    assert np.array_equal(split.read("labels", range(13)), LABELS)
    assert split.read("caption", [0, 5, 12]).tolist() == [CAPTIONS[row] for row in (0, 5, 12)]
    assert split.read("score", [3]).tolist() == [3.0]


def test_folders_of_splits_and_labels_that_are_texts(tmp_path: Path) -> None:
    texts = {
        "tokens": ("ndarray:int16:4,5", FORMS["ndarray:int16:4,5"]),
        "cls": ("str", [b"dog", b"cat"] * 7),
    }
    for split in ("train", "val"):
        put_mds(tmp_path / split, texts, [6, 0, 7])
    source = opened(tmp_path, "mds", grid=(20,))
    read_everywhere(source.splits["val"], CODES.reshape(13, 20))
    assert source.class_names == ("cat", "dog")
    assert source.splits["train"].labels(0, 3).tolist() == [1, 0, 1]


def test_splits_of_other_columns_keep_their_labels_and_lack_no_column_asked_for(
    tmp_path: Path,
) -> None:
    all_columns = columns("ndarray:int16:4,5")
    for labelled, bare in (("val", "train"), ("train", "val")):
        root = tmp_path / labelled
        put_mds(root / labelled, all_columns, [13])
        put_mds(root / bare, {"tokens": all_columns["tokens"]}, [13])
        splits = opened(root, "mds").splits
        assert splits[bare].labels(0, 13) is None
        assert splits[labelled].labels(0, 13).tolist() == LABELS.tolist()
        with pytest.raises(SourceError, match=rf"{bare}.*'caption': no such column; found tokens"):
            open_source(root, columns=["caption"])


def test_the_library_itself_writes_what_is_read(tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming", reason="needs the package mosaicml-streaming")
    kinds = {"tokens": "ndarray:int16:4,5", "caption": "str", "label": "int"}
    with streaming.MDSWriter(out=str(tmp_path / "src"), columns=kinds) as writer:
        for row in range(13):
            writer.write({"tokens": CODES[row], "caption": CAPTIONS[row], "label": int(LABELS[row])})
    source = opened(tmp_path / "src", "mds", columns=["caption"])
    read_everywhere(source.splits["train"], CODES)
    assert source.further["train"]["caption"].read(0, 13).tolist() == CAPTIONS


def with_index(**fields: Any) -> Any:
    def change(path: Path) -> None:
        index = json.loads((path / "index.json").read_text())
        index["shards"][0] |= fields
        (path / "index.json").write_text(json.dumps(index))

    return change


def with_bytes(change_bytes: Any) -> Any:
    def change(path: Path) -> None:
        file = path / "shard.00000.mds"
        file.write_bytes(change_bytes(file.read_bytes()))

    return change


def with_number(place: int, number: int) -> Any:
    return with_bytes(lambda data: data[:place] + struct.pack("<I", number) + data[place + 4 :])


ENCODINGS = ["str", "int", "float32", "ndarray"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_index(raw_data={"basename": "../x"}),
            "expected an index of MDS shards: ValueError the file '../x'",
        ),
        (with_index(samples=2**60), "cut off: .* samples need"),
        (with_index(samples=-1), "the file 'shard.00000.mds' of -1 samples"),
        (with_index(samples=12), "expected 12 samples that end at byte"),
        (with_index(format="json"), "nothing known found|the format 'json'"),
        (with_index(column_sizes=[None]), "expected an index of MDS shards: ValueError"),
        (with_index(column_sizes=[None, 8, 4, 40]), "the encoding 'ndarray' of 40 bytes"),
        (
            with_index(column_encodings=[*ENCODINGS[:3], "ndarray:object:4"]),
            "the encoding 'ndarray:object:4'",
        ),
        (with_index(column_encodings=[*ENCODINGS[:3], "pkl"]), "expected one column of codes"),
        (with_index(raw_data={"basename": "gone.mds"}), "gone.mds: no such file"),
        (with_index(raw_data={"basename": "gone.mds"}, zip_data={}), "its shards are compressed; decompress"),
        (lambda path: (path / "index.json").write_text("[1]"), "nothing known found|expected an index"),
        (
            lambda path: (path / "index.json").write_text('{"mds"' + "[" * 9999),
            "expected an index of MDS shards",
        ),
        (with_bytes(lambda data: data[:-1]), "cut off or damaged"),
        (with_bytes(lambda data: data[:20]), "cut off"),
        (with_number(0, 99), "cut off or damaged"),
        (with_number(8, 0), "cut off or damaged"),
        (with_number(4, 2**32 - 1), "cut off or damaged"),
    ],
)
def test_an_index_or_shard_that_is_damaged_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    change(put_mds(tmp_path / "x", columns("ndarray"), [13]))
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x")


HEAD = 4 * 15 + len(b'{"format": "mds"}')


@pytest.mark.parametrize(
    ("place", "number", "message"),
    [
        (HEAD, 2**31, "sample 0: its columns have other sizes than its bytes"),
        (HEAD + 4, 7, "sample 0: its columns have other sizes than its bytes"),
    ],
)
def test_sizes_of_columns_that_lead_elsewhere_are_refused(
    tmp_path: Path, place: int, number: int, message: str
) -> None:
    path = put_mds(tmp_path / "x", columns("ndarray"), [13])
    with_number(place, number)(path)
    with pytest.raises(SourceError, match=message):
        open_source(path).splits["train"].codes(0, 13)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (0, TYPE + bytes([200, 1]), "sample 0: damaged"),
        (0, bytes([5]) + SHAPE + bytes(40), "sample 0: damaged"),
        (0, b"", "sample 0: damaged"),
        (0, bytes([18]) + SHAPE + bytes(40), "float16 .*: latents, which are no codes"),
        (4, TYPE + bytes([2 << 2, 5, 4]) + bytes(40), "sample 4: expected .* found a value of another kind"),
        (4, TYPE + bytes([2 << 2, 2, 5]) + bytes(20), "sample 4: expected 44 bytes as in sample 0, found 24"),
        (4, TYPE + SHAPE + (-1 - CODES[0]).tobytes(), "sample 4: expected codes 0.*found -"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, row: int, value: bytes, message: str) -> None:
    values = [*FORMS["ndarray"][:row], value, *FORMS["ndarray"][row + 1 :]]
    path = put_mds(tmp_path / "x", {"tokens": ("ndarray", values)}, [13])
    with pytest.raises(SourceError, match=message):
        open_source(path).splits["train"].codes(0, 13)  # type: ignore[union-attr]


def test_columns_of_pickles_are_never_read(tmp_path: Path) -> None:
    more = {"meta": ("pkl", [b"\x80\x04K\x01."] * 13)}
    path = put_mds(tmp_path / "x", columns("ndarray") | more, [13])
    read_everywhere(opened(path, "mds").splits["train"], CODES)
    with pytest.raises(SourceError, match=r"found the encoding 'pkl', which is not read"):
        open_source(path, columns=["meta"])

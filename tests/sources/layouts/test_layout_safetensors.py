"""Codes in safetensors files: any tensor of integers gives its codes, and a damaged file one error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import random_codes, safetensors_bytes
from safetensors.numpy import save_file

from tokenstore.errors import SourceChangedError, SourceError
from tokenstore.sources import open_source

CODES = random_codes(9, 4, 5, size=64_000)
LABELS = np.arange(9) % 3


def put(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "i8"])
def test_codes_come_back_whatever_their_type_and_int16_as_the_uint16_that_it_stands_for(
    tmp_path: Path, dtype: str
) -> None:
    codes = (
        CODES.astype(np.uint16).view(np.int16)
        if dtype == "i2"
        else CODES % (256 if dtype == "u1" else 64_000)
    )
    source = opened(
        put(tmp_path / "x.safetensors", {"z": codes.astype(dtype), "labels": LABELS}), "safetensors"
    )
    read_everywhere(source.splits["train"], CODES if dtype == "i2" else codes)
    assert source.splits["train"].labels(0, 9).tolist() == LABELS.tolist()
    assert source.grid == (4, 5)


def test_a_file_of_the_library_itself_becomes_a_store_with_names_and_columns(tmp_path: Path) -> None:
    tensors = {
        "codes": CODES.astype(np.uint16),
        "label": LABELS[:, None],
        "score": np.ones((9, 2), np.float32),
    }
    metadata = {"tokenizer": "cosmos", "class_names": json.dumps(["a", "b", "c"])}
    save_file(tensors, tmp_path / "imagenet-train.safetensors", metadata)
    store = converted(tmp_path / "imagenet-train.safetensors", tmp_path / "out", columns=["scores=score"])
    split = store["train"]
    assert np.array_equal(split.read("tokens", range(9)), CODES)
    assert np.array_equal(split.read("labels", range(9)), LABELS)
    assert np.array_equal(split.read("scores", range(9)), np.ones((9, 2)))
    assert store.manifest.class_names == ("a", "b", "c")
    assert store.manifest.tokenizer.name == "cosmos"


def test_several_files_are_one_split_and_metadata_lie_beside(tmp_path: Path) -> None:
    for part in range(3):
        rows = slice(3 * part, 3 * part + 3)
        put(tmp_path / f"train_{part}.safetensors", {"tokens": CODES[rows], "labels": LABELS[rows]})
    put(tmp_path / "validation.safetensors", {"tokens": CODES[:2], "labels": LABELS[:2]})
    (tmp_path / "train_0_metadata.json").write_text('{"tokenizer": "dv16", "other": 1}')
    source = opened(tmp_path, "safetensors")
    assert list(source.splits) == ["train", "val"]
    read_everywhere(source.splits["train"], CODES)
    assert source.splits["train"].labels(2, 7).tolist() == LABELS[2:7].tolist()
    assert source.tokenizer_name == "dv16"


def test_labels_that_the_first_file_lacks_are_neither_dropped_nor_made_up(tmp_path: Path) -> None:
    put(tmp_path / "splits/train.safetensors", {"codes": CODES})
    put(tmp_path / "splits/val.safetensors", {"codes": CODES, "labels": LABELS})
    splits = opened(tmp_path / "splits", "safetensors").splits
    assert splits["train"].labels(0, 9) is None
    assert splits["val"].labels(0, 9).tolist() == LABELS.tolist()
    for number, more in enumerate(({}, {"labels": LABELS})):
        put(tmp_path / f"files/train-{number:05}-of-00002.safetensors", {"codes": CODES, **more})
    with pytest.raises(SourceError, match=r"1 of 2 files have no labels"):
        open_source(tmp_path / "files")


def test_a_file_at_a_url_gives_what_the_local_file_gives(tmp_path: Path) -> None:
    data = put(tmp_path / "x.safetensors", {"tokens": CODES}).read_bytes()
    fsspec.filesystem("memory").pipe_file("memory://layouts/x.safetensors", data)
    read_everywhere(opened("memory://layouts/x.safetensors", "safetensors").splits["train"], CODES)


def test_the_tensor_and_the_grid_are_taken_by_option(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", {"a": CODES, "b": CODES[::-1].copy(), "y": LABELS})
    with pytest.raises(
        SourceError, match=r"expected one tensor of codes, named tokens, .* found a, b; token_column"
    ):
        open_source(path)
    source = opened(path, "safetensors", token_column="b", label_column="y", grid=(20,))
    read_everywhere(source.splits["train"], CODES[::-1].reshape(9, 20))
    assert source.grid == (20,)
    assert source.splits["train"].labels(0, 9).tolist() == LABELS.tolist()
    with pytest.raises(
        SourceError, match=r"expected a grid of 20 codes, as samples of \(4, 5\) have, found \(4, 4\)"
    ):
        open_source(path, token_column="b", grid=(4, 4))
    with pytest.raises(SourceError, match=r"no such tensor; found a, b, y. Did you mean"):
        open_source(path, token_column="B")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"latents": np.zeros((3, 4, 4), "f4")}, "float32 .3, 4, 4.: latents, which are no codes"),
        ({"tokens": np.zeros(5, "i8")}, "expected one tensor of codes"),
        ({"tokens": np.zeros((0, 4), "i8")}, "expected at least one sample of one code"),
        ({"tokens": CODES, "labels": LABELS[:5]}, "5 labels for 9 samples"),
        ({"tokens": CODES, "labels": -LABELS}, "expected labels 0..2147483647, found -1 at sample 1"),
        (
            {"tokens": CODES, "labels": LABELS.astype("f4")},
            "expected labels as one row of integers, found float32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(put(tmp_path / "x.safetensors", tensors))


def test_codes_below_zero_end_the_conversion_with_their_sample(tmp_path: Path) -> None:
    codes = CODES.copy()
    codes[7, 1, 1] = -3
    source = open_source(put(tmp_path / "x.safetensors", {"tokens": codes}))
    with pytest.raises(
        SourceError, match=r"tensor 'tokens': sample 7: expected codes 0..2147483647, found -3"
    ):
        source.splits["train"].codes(5, 9)


WHOLE = safetensors_bytes({"tokens": CODES[:2].astype("u2")})
HEADER = {"tokens": {"dtype": "U16", "shape": [2, 4, 5], "data_offsets": [0, 80]}}


def with_header(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(80)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], "takes 80 bytes, found .* cut off or damaged"),
        (WHOLE[:6], "cut off, or another format"),
        (b"", "cut off, or another format"),
        (struct.pack("<Q", 2**62) + WHOLE[8:], "a header of 4611686018427387904: cut off"),
        (with_header(b"[" * 5000), "expected the header of a safetensors file"),
        (with_header([]), "expected the header of a safetensors file: a list"),
        (with_header({"tokens": HEADER["tokens"] | {"shape": [2**40, 4, 5]}}), "cut off or damaged"),
        (with_header({"tokens": HEADER["tokens"] | {"shape": [-2, -4, 10]}}), "has the shape"),
        (with_header({"tokens": HEADER["tokens"] | {"data_offsets": [40, 120]}}), "cut off or damaged"),
        (with_header({"tokens": HEADER["tokens"] | {"data_offsets": [-80, 0]}}), "has the shape"),
        (with_header({"tokens": {"dtype": "U16"}}), "expected the header of a safetensors file"),
        (with_header(b'{"tokens": 1, "tokens": 2}'), "'tokens' comes twice"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.safetensors")


def test_a_file_that_is_cut_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", {"tokens": CODES})
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SourceChangedError, match=r"was replaced after it was listed"):
        source.splits["train"].codes(0, 9)

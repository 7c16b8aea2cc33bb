"""Raw memory maps become codes, labels and columns; metadata that do not fit are one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import put_memory_maps, random_codes

from tokenstore.errors import SourceError
from tokenstore.sources import open_source

CODES = random_codes(7, 2, 3, size=200, seed=1)
LABELS = np.array([0, 1, 2, 1, 0, 2, 1], np.int64)
SCORE = np.linspace(0, 1, 14, dtype=np.float16).reshape(7, 2)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2", "<i4", "<u4", "<i8", "<u8"])
def test_codes_of_every_integer_dtype_are_read_by_ranges(tmp_path: Path, dtype: str) -> None:
    path = put_memory_maps(tmp_path / "x", {"train": {"tokens": CODES.astype(dtype)}})
    read_everywhere(opened(path, "memmap").splits["train"], CODES)


def test_labels_columns_names_and_sizes_become_those_of_the_store(tmp_path: Path) -> None:
    splits = {
        "val": {"tokens": CODES[:2]},
        "train": {"tokens": CODES, "labels": LABELS, "score": SCORE, "mass": SCORE[:, 0]},
    }
    path = put_memory_maps(tmp_path / "x", splits, codebook_sizes=[512], class_names=["a", "b", "c"])
    source = opened(path, "memmap", columns=["grade=score"])
    assert list(source.splits) == ["train", "val"]
    assert any("columns not used: 1 (mass)" in note for note in source.notes)
    store = converted(path, tmp_path / "store", columns=["grade=score"])
    assert store.manifest.codebook_sizes == (512,)
    assert store.manifest.class_names == ("a", "b", "c")
    assert np.array_equal(store["train"][:], CODES)
    assert store["train"].read("labels").tolist() == LABELS.tolist()
    assert np.array_equal(store["train"].read("grade"), SCORE)
    assert store["val"].labels is None
    assert "grade" not in store["val"].columns


def test_a_split_named_video_is_no_data_of_1x(tmp_path: Path) -> None:
    path = put_memory_maps(tmp_path / "x", {"video": {"tokens": CODES}})
    assert (path / "video.bin").exists()
    assert list(opened(path, "memmap").splits) == ["video"]


def test_metadata_of_something_else_make_no_memory_map(tmp_path: Path) -> None:
    for text in (
        "{",
        "[]",
        '{"arrays": []}',
        '{"arrays": {"a.bin": [1, 2]}}',
        '{"arrays": {"a.bin": {"split": 1}}}',
    ):
        (tmp_path / "metadata.json").write_text(text)
        with pytest.raises(SourceError, match="nothing known found"):
            open_source(tmp_path)


def entry(**fields: Any) -> dict[str, Any]:
    return {"split": "train", "column": "tokens", "dtype": "<u2", "shape": [7, 2, 3]} | fields


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"../train.bin": entry()}, r"array '\.\./train\.bin': expected the name of a file in the same folder"),
    ({"other.bin": entry()}, r"other\.bin: cannot be read"),
    ({"train.bin": entry(shape=[8, 2, 3])}, r"uint16 \(8, 2, 3\) takes 96 bytes, found 84: cut off, or of"),
    ({"train.bin": entry(shape=[])}, "expected a shape of 1 to 32 sizes"),
    ({"train.bin": entry(shape=[-7, -2, 3])}, "expected a shape of 1 to 32 sizes"),
    ({"train.bin": entry(shape=[2**62, 2**62, 3])}, "bytes, found 84: cut off"),
    ({"train.bin": entry(dtype="O")}, "expected a dtype of little-endian numbers, such as <u2, found 'O'"),
    ({"train.bin": entry(dtype=">u2")}, "expected a dtype of little-endian numbers"),
    ({"train.bin": entry(dtype="<f2")}, "float16 .7, 2, 3.: latents"),
    ({"train.bin": entry(split="a/b")}, "expected a split named by letters, digits, _ and -, found 'a/b'"),
    ({"train.bin": entry(column=3)}, "expected a column named by letters"),
    (
        {"train.bin": entry(column="codes")},
        "split train: expected an array of the column tokens, found codes",
    ),
    ({"train.bin": entry(), "again.bin": entry()}, "split train has two files of tokens"),
    ({"train.bin": entry(), "again.bin": entry(column="labels", shape=[42])}, "42 labels for 7 samples"),
]


@pytest.mark.parametrize(("arrays", "message"), WRONG)
def test_metadata_that_do_not_fit_the_files_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = put_memory_maps(tmp_path / "x", {"train": {"tokens": CODES.astype(np.uint16)}})
    (path / "again.bin").write_bytes((path / "train.bin").read_bytes())
    (path / "metadata.json").write_text(json.dumps({"arrays": arrays}))
    with pytest.raises(SourceError, match=message):
        open_source(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class_names": ["a", "b"]}, "sample 2 has label 2, but there are only 2 class names"),
        ({"class_names": "abc"}, "expected class_names as a list of texts"),
        ({"codebook_sizes": [0]}, "expected codebook_sizes as a list"),
        ({"codebook_sizes": 512}, "expected codebook_sizes as a list"),
    ],
)
def test_names_and_sizes_that_are_none_are_refused(
    tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    path = put_memory_maps(tmp_path / "x", {"train": {"tokens": CODES, "labels": LABELS}}, **facts)
    with pytest.raises(SourceError, match=message):
        open_source(path)


def test_columns_that_no_split_has_or_that_are_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path = put_memory_maps(tmp_path / "x", {"train": {"tokens": CODES, "short": SCORE[:3]}})
    with pytest.raises(SourceError, match=r"columns='score': no such column; found tokens, short"):
        open_source(path, columns=["score"])
    with pytest.raises(SourceError, match="one row for each of 7 samples, found float16"):
        open_source(path, columns=["short"])

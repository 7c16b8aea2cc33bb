"""Further columns of sources that contradict themselves, that lie, or whose splits and files differ."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.tar_files import write_tar
from PIL import Image

from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.tar_columns import ColumnReader


def image(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade,) * 3).save(file, "PNG")
    return file.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for row in range(4):
        (tmp_path / "photos" / f"{row}.png").write_bytes(image(row))
    return tmp_path / "photos"


def test_class_names_may_be_an_array(tmp_path: Path) -> None:
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "codes.npz", codes=np.arange(8, dtype=np.uint8).reshape(4, 2), labels=labels)
    source = open_source(tmp_path / "codes.npz", class_names=np.array(["cat", "dog"]))  # type: ignore[arg-type]
    assert source.class_names == ("cat", "dog")


def test_a_table_of_other_values_is_another_source(folder: Path, tmp_path: Path) -> None:
    def fingerprint(words: list[str | None], dictionary: bool) -> str:
        captions = pa.array(words, pa.string())
        captions = captions.dictionary_encode() if dictionary else captions
        table = pa.table({"path": [f"{row}.png" for row in range(4)], "caption": captions})
        pq.write_table(table, tmp_path / "table.parquet")
        return open_source(folder, table=tmp_path / "table.parquet").further["train"]["caption"].fingerprint()

    assert fingerprint(["a", "b", "a", None], True) != fingerprint(["x", "y", "x", None], True)
    assert fingerprint(["a", "b", "a", None], True) == fingerprint(["a", "b", "a", None], False)


def test_probabilities_of_which_a_row_is_empty_are_no_logits(folder: Path, tmp_path: Path) -> None:
    probabilities = np.full((4, 4), 0.25, np.float32)
    for value in (0, np.nan):
        probabilities[2] = value
        np.save(tmp_path / "soft.npy", probabilities)
        source = open_source(folder, soft_labels=tmp_path / "soft.npy")
        with pytest.raises(SourceError, match="row 2: expected probabilities that sum to 1"):
            source.further["train"]["soft_labels"].read(0, 4)
        assert (
            "soft labels of split train: probabilities of 4 classes, the 4 most probable kept" in source.notes
        )
    np.save(tmp_path / "soft.npy", 3 * probabilities[:, ::-1] - 1)
    with pytest.raises(SourceError, match="row 2: expected finite logits"):
        open_source(folder, soft_labels=tmp_path / "soft.npy").further["train"]["soft_labels"].read(0, 4)


def test_two_files_of_soft_labels_are_not_of_one_split(folder: Path, tmp_path: Path) -> None:
    for name in ("train", "teacher-train"):
        np.save(tmp_path / f"{name}.npy", np.full((4, 4), 0.25))
    with pytest.raises(SourceError, match=r"teacher-train.npy and train.npy are both of split train"):
        open_source(folder, soft_labels=tmp_path)


@pytest.mark.parametrize("character", [0x110005, 0xD800])
def test_a_text_that_is_none_is_refused(tmp_path: Path, character: int) -> None:
    texts = np.array(["ab", "cd", "e", "f"])
    texts.view(np.uint32)[2] = character
    np.savez(tmp_path / "codes.npz", codes=np.arange(8, dtype=np.uint8).reshape(4, 2), caption=texts)
    column = open_source(tmp_path / "codes.npz", columns=["caption"]).further["train"]["caption"]
    with pytest.raises(SourceError, match=f"found U.{character:X}, no character"):
        column.read(0, 4)


def test_arrays_that_are_not_chosen_are_named(tmp_path: Path) -> None:
    codes, texts = np.arange(8, dtype=np.uint8).reshape(4, 2), np.array(list("abcd"))
    np.savez(tmp_path / "codes.npz", codes=codes, caption=texts, score=np.arange(4.0), alt=texts)
    assert open_source(tmp_path / "codes.npz", columns=["caption"]).notes == (
        "arrays not used: 2 (score, alt); columns='NAME' stores one as a further column",
    )


def test_parquet_files_whose_columns_differ_in_type_are_refused(tmp_path: Path) -> None:
    images = [image()] * 2
    first = {"text": ["a", "b"], "score": [0.5, 1.5]}
    pq.write_table(pa.table({"image": images, **first}), tmp_path / "train-0.parquet")
    for name, values in (("text", [1, 2]), ("score", [1, 2])):
        pq.write_table(pa.table({"image": images, **first, name: values}), tmp_path / "train-1.parquet")
        with pytest.raises(
            SourceError, match=f"train-1.* {name!r} is of another type than in the first file: int64"
        ):
            open_source(tmp_path, columns=[name])
    nothing = pa.nulls(2)
    pq.write_table(pa.table({"image": images, **first, "text": nothing}), tmp_path / "train-1.parquet")
    source = open_source(tmp_path, columns=["text", "score"])
    assert source.further["train"]["text"].read(0, 4).tolist() == ["a", "b", "", ""]


def test_values_of_tars_are_of_one_kind_in_all_splits(tmp_path: Path) -> None:
    for name, values in (
        ("train", {"boxes": [[1, 2.5]], "caption": "x", "score": 1, "tags": []}),
        ("val", {"boxes": [[1, 2]], "score": 0.5, "tags": [3]}),
    ):
        write_tar(tmp_path / f"{name}.tar", {"0.png": image(), "0.json": json.dumps(values)})
    further = open_source(tmp_path, columns=["boxes", "caption", "score", "tags"]).further
    found = {
        split: {name: column.read(0, 1)[0] for name, column in columns.items()}
        for split, columns in further.items()
    }
    assert (found["train"]["caption"], found["val"]["caption"]) == ("x", "")
    assert (found["train"]["score"], found["val"]["score"]) == (1, 0.5)
    assert found["val"]["boxes"].tolist() == [[1, 2]]
    assert (found["train"]["tags"].tolist(), found["val"]["tags"].tolist()) == ([], [3])
    assert further["train"]["tags"].column == further["val"]["tags"].column


def test_numbers_that_zarr_does_not_have_are_refused(tmp_path: Path) -> None:
    members = {"0.png": image(), "0.emb.npy": npy(np.zeros(2, np.longdouble))}
    tar = write_tar(tmp_path / "train.tar", members)
    with pytest.raises(SourceError, match=r"numbers, each of up to 64 bits, .*, found float128 \(2,\)"):
        open_source(tar, columns=["emb=emb.npy"])


def test_numbers_that_are_written_otherwise_stay_texts(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{row}.png,00{row},{row},2020-01-0{row + 1},12:3{row}\n" for row in range(4)]
    table.write_text("path,code,count,day,time\n" + "".join(rows))
    columns = open_source(folder, table=table).further["train"]
    assert columns["code"].read(0, 4).tolist() == ["000", "001", "002", "003"]
    assert columns["count"].read(0, 4).tolist() == [0, 1, 2, 3]
    assert columns["day"].read(0, 2).tolist() == ["2020-01-01", "2020-01-02"]
    assert columns["time"].read(0, 2).tolist() == ["12:30", "12:31"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((b"7", b"8\n"), [7, 8]),
        ((b"007", b"8"), ["007", "8"]),
        ((b"1_0", b"8"), ["1_0", "8"]),
        ((b"9" * 30, b"8"), ["9" * 30, "8"]),
    ],
)
def test_ids_of_tars_are_numbers_if_all_are_written_as_such(
    tmp_path: Path, texts: tuple[bytes, bytes], expected: list[object]
) -> None:
    members: dict[str, bytes | str | int] = {}
    for row, text in enumerate(texts):
        members |= {f"{row}.png": image(row), f"{row}.id": text}
    column = open_source(write_tar(tmp_path / "train.tar", members), columns=["id"]).further["train"]["id"]
    assert column.read(0, 2).tolist() == expected


def test_the_names_inside_of_lists_make_no_other_type(tmp_path: Path) -> None:
    for number, name in enumerate(("item", "element")):
        kind = pa.list_(pa.field(name, pa.int64(), nullable=not number))
        table = pa.table({"image": [image()], "tags": pa.array([[number]], kind)})
        pq.write_table(table, tmp_path / f"train-{number}.parquet")
    tags = open_source(tmp_path, columns=["tags"]).further["train"]["tags"]
    assert tags.read(0, 2).tolist() == [[0], [1]]


def test_a_column_of_two_origins_is_refused(tmp_path: Path) -> None:
    codes = np.arange(8, dtype=np.uint8).reshape(4, 2)
    np.savez(tmp_path / "codes.npz", codes=codes, soft_labels=np.arange(4.0), score=np.arange(4.0))
    np.save(tmp_path / "soft.npy", np.full((4, 4), 0.25))
    (tmp_path / "table.csv").write_text(
        "path,score\n" + "".join(f"codes.npz[{row}],{row}\n" for row in range(4))
    )
    with pytest.raises(SourceError, match="split train has a column 'soft_labels' of its own"):
        open_source(tmp_path / "codes.npz", soft_labels=tmp_path / "soft.npy")
    with pytest.raises(SourceError, match="split train has a column 'score' of its own"):
        open_source(tmp_path / "codes.npz", table=tmp_path / "table.csv")
    source = open_source(tmp_path / "codes.npz", table=tmp_path / "table.csv", columns=["other=score"])
    assert source.further["train"]["other"].read(0, 4).tolist() == [0, 1, 2, 3]


def test_the_json_of_a_sample_is_read_once_for_all_columns(tmp_path: Path) -> None:
    members = {"0.png": image(), "0.json": json.dumps({"a": 1, "b": [2], "c": "x"})}
    tar = write_tar(tmp_path / "train.tar", members)
    with mock.patch.object(
        ColumnReader, "_content", autospec=True, side_effect=ColumnReader._content
    ) as read:
        columns = open_source(tar, columns=["a", "b", "c"]).further["train"]
    assert read.call_count == 1
    assert [columns[name].read(0, 1).tolist() for name in "abc"] == [[1], [[2]], ["x"]]

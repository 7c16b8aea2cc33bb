"""Further columns of every kind of source become aligned arrays of the store, whatever samples are bad."""

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
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer
from helpers.ragged import same
from helpers.stores import contents
from helpers.tar_files import write_tar
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.assembly import ShardAssembler
from tokenstore.errors import ConversionError, SourceError
from tokenstore.sources import open_source

SAMPLES = 9
ROWS = range(SAMPLES)
CAPTIONS = ["a cat", "", "größte Katze", "猫", "five", "six", "seven", "eight", "line\nbreak"]
SCORES = np.arange(SAMPLES) / 4
BOXES = [np.arange(4 * (row % 3), dtype=np.float32).reshape(-1, 4) for row in range(SAMPLES)]
VECTORS = np.arange(SAMPLES * 3, dtype=np.float32).reshape(SAMPLES, 3)
BAD = 5


def image(row: int) -> bytes:
    """Return an image whose every code is 20 times its number; that of `BAD` is none."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (row * 20,) * 3).save(file, "PNG")
    return b"no image" if row == BAD else file.getvalue()


def converted(source: Path, out: Path, **options: Any) -> Any:
    settings = {"chunk_samples": 2, "shard_samples": 4, "on_error": "skip", "workers": 0, **options}
    tokenstore.convert(source, out, tokenizer=BrightnessTokenizer(), image_size=8, **settings)
    found = verify(out)
    assert found.problems == []
    return tokenstore.open(out)["train"]


def without_bad(values: Any) -> Any:
    return [value for row, value in enumerate(values) if row != BAD]


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Write a Parquet file of nine images in row groups of four, the fifth one bad."""
    table = pa.table(
        {
            "image": [image(row) for row in range(SAMPLES)],
            "text": CAPTIONS,
            "score": SCORES,
            "boxes": pa.array([box.tolist() for box in BOXES], pa.list_(pa.list_(pa.float32()))),
            "vector": pa.array(VECTORS.tolist(), pa.list_(pa.float32())),
            "id": pa.array([f"id {row}" if row != 2 else None for row in range(SAMPLES)]),
            "holes": pa.array([row if row != 2 else None for row in range(SAMPLES)], pa.int64()),
            "when": pa.array([0] * SAMPLES, pa.timestamp("s")),
            "about": [
                {"who": {"name": f"name {row}", "age": row}} if row else None for row in range(SAMPLES)
            ],
        }
    )
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=4)
    return tmp_path / "images.parquet"


def test_columns_of_parquet_stay_with_their_images(parquet: Path, tmp_path: Path) -> None:
    columns = ("caption=text", "score", "boxes", "vector", "id", "name=about.who.name")
    split = converted(parquet, tmp_path / "out", columns=columns)
    assert split.columns == ("tokens", "boxes", "caption", "id", "name", "score", "vector")
    rows = range(SAMPLES - 1)
    assert split.read("caption", rows).tolist() == without_bad(CAPTIONS)
    assert split.read("score", rows).tolist() == without_bad(SCORES)
    assert same(split.read("boxes", rows), without_bad(BOXES))
    assert same(split.read("vector", rows), without_bad(VECTORS))
    assert split.read("id", rows).tolist() == without_bad(
        ["id 0", "id 1", "", *[f"id {n}" for n in range(3, 9)]]
    )
    assert split.read("name", rows).tolist() == without_bad(["", *[f"name {n}" for n in range(1, 9)]])
    assert split.column("vector").shape == (3,)
    assert split.read("tokens", rows).reshape(8).tolist() == without_bad([20 * row for row in range(SAMPLES)])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("holes", "1 values are null .first: row 2., and int64 has no value for that"),
        ("when", "expected texts, numbers, or lists of numbers, found timestamp"),
        ("nothing", "no such column; found image, text"),
        ("it=about.which", "no such column; found image, text"),
        ("it=about.who.age", "1 values are null .first: row 0., and int64 has no value for that"),
        ("about", "expected texts, numbers, or lists of numbers, found struct"),
        ("text=", "is no name that a column of a store can have"),
        ("a b=text", "is no name that a column of a store can have"),
        ("labels=text", "is no name that a column of a store can have"),
    ],
)
def test_a_column_that_cannot_be_stored_is_refused_before_any_image(
    parquet: Path, column: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(parquet, columns=[column])


def tar_members(field: str = "caption") -> dict[str, bytes | str | int]:
    members: dict[str, bytes | str | int] = {}
    for row in range(SAMPLES):
        key = f"{row:03}"
        members[f"{key}.png"] = image(row)
        members[f"{key}.txt"] = CAPTIONS[row].encode()
        facts = {"score": SCORES[row], "boxes": BOXES[row].tolist(), field: f"json {row}"}
        members[f"{key}.json"] = json.dumps(facts)
        members[f"{key}.emb.npy"] = npy(VECTORS[row])
        members[f"{key}.boxes.npy"] = npy(BOXES[row])
        members[f"{key}.id"] = str(1000 + row)
    return members


def test_members_and_json_fields_of_tars_stay_with_their_images(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", tar_members())
    columns = ("text=txt", "score", "caption", "emb=emb.npy", "boxes=boxes.npy", "listed=boxes", "id")
    split = converted(tar, tmp_path / "out", columns=columns)
    rows = range(SAMPLES - 1)
    assert split.read("text", rows).tolist() == without_bad(CAPTIONS)
    assert split.read("score", rows).tolist() == without_bad(SCORES)
    assert split.read("caption", rows).tolist() == without_bad([f"json {row}" for row in range(SAMPLES)])
    assert same(split.read("emb", rows), without_bad(VECTORS))
    assert same(split.read("boxes", rows), without_bad(BOXES))
    assert same(split.read("listed", rows), without_bad([box.astype(np.float64) for box in BOXES]))
    assert split.read("id", rows).tolist() == without_bad(list(range(1000, 1009)))
    notes = " ".join(open_source(tar, columns=columns).notes)
    assert "score" not in notes
    assert ".txt" not in notes


def test_samples_of_tars_without_a_value_have_the_missing_one(tmp_path: Path) -> None:
    members = {
        name: data
        for name, data in tar_members().items()
        if not name.startswith("001.") or name.endswith(".png")
    }
    tar = write_tar(tmp_path / "train.tar", members)
    columns = ("text=txt", "score", "emb=emb.npy", "boxes=boxes.npy")
    split = converted(tar, tmp_path / "out", columns=columns)
    assert split.read("text", [1]).tolist() == [""]
    assert np.isnan(split.read("score", [1])).all()
    assert np.isnan(split.read("emb", [1])).all()
    assert split.read("boxes", [1])[0].shape == (0, 4)
    with pytest.raises(SourceError, match=r"1 values are null .* int64 has no value for that"):
        open_source(tar, columns=["id"])


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("000.txt", b"\xff", "txt", r"000.png: .txt: expected a text in UTF-8"),
        ("000.json", b"{", "score", "expected JSON"),
        ("000.json", b'{"score": "high"}', "score", "expected values of one kind"),
        ("000.json", b'{"score": {"a": 1}}', "score", "expected values of one kind|expected texts, numbers"),
        ("000.emb.npy", b"pickle", "emb=emb.npy", "expected the .npy format"),
        ("000.emb.npy", npy(np.zeros((2, 2), np.float32)), "emb=emb.npy", "differ in their first size alone"),
        ("000.emb.npy", npy(np.zeros(3, np.int64)), "emb=emb.npy", "differ in their first size alone"),
        ("000.emb.npy", npy(np.zeros(3, np.float32))[:-1], "emb=emb.npy", "cut off or damaged"),
        ("000.png", image(0), "nothing", "no sample has a member .nothing, nor a field 'nothing'"),
    ],
)
def test_hostile_members_of_tars_give_one_clear_error(
    tmp_path: Path, name: str, content: bytes, column: str, message: str
) -> None:
    tar = write_tar(tmp_path / "train.tar", {**tar_members(), name: content})
    with pytest.raises(SourceError, match=message):
        open_source(tar, columns=[column])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row in range(SAMPLES):
        path = tmp_path / "photos" / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image(row))
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_beside_a_folder_is_joined_by_paths(folder: Path, tmp_path: Path, kind: str) -> None:
    rows = [*range(1, SAMPLES), 99]
    captions = [CAPTIONS[row] if row < SAMPLES else "stranger" for row in rows]
    table = pa.table(
        {
            "file": [f"photos\\{row}.png" for row in rows],
            "caption": captions,
            "score": [row / 4 for row in rows],
            "tag": [f"t{row}" for row in rows],
        }
    )
    path = tmp_path / f"table.{kind}"
    if kind == "csv":
        from pyarrow import csv

        csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    split = converted(folder, tmp_path / "out", table=path)
    assert split.columns == ("tokens", "caption", "score", "tag")
    assert split.read("caption", range(8)).tolist() == without_bad(["", *CAPTIONS[1:]])
    np.testing.assert_array_equal(split.read("score", range(8)), without_bad([np.nan, *SCORES[1:]]))
    notes = " ".join(open_source(folder, table=path, columns=["caption"]).notes)
    assert "images of split train without a row in table" in notes
    assert "without an image: 1" in notes


def test_a_table_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for text, message in (
        ("file,caption\n1.png,a\n1.png,b\n", "two rows are of the path '1.png'"),
        ("file,caption\nx.png,a\n", "none of its paths is that of an image"),
        ("word,caption\n1.png,a\n", "expected a column of paths with a usual name"),
        ("file,count\n1.png,5\n", "values are null .* int64 has no value"),
    ):
        table.write_text(text)
        with pytest.raises(SourceError, match=message):
            open_source(folder, table=table)
    table.write_text("word,caption\n1.png,a\n")
    assert "caption" in open_source(folder, table=table, image_column="word").further["train"]


def test_arrays_beside_codes_become_columns(tmp_path: Path) -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(6, 2)
    texts, scores = np.array(CAPTIONS[:6]), np.arange(6.0)
    np.savez(tmp_path / "codes.npz", codes=codes, caption=texts, score=scores)
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "a", columns=["text=caption"])
    split = tokenstore.open(tmp_path / "a")["train"]
    assert split.columns == ("tokens", "text")
    assert split.read("text", range(6)).tolist() == CAPTIONS[:6]
    (tmp_path / "folder").mkdir()
    for name, array in (("", codes), ("-caption", texts), ("-score", scores)):
        np.save(tmp_path / "folder" / f"train{name}.npy", array)
    tokenstore.convert(tmp_path / "folder", tmp_path / "b", columns=["caption", "score"])
    split = tokenstore.open(tmp_path / "b")["train"]
    assert split.read("caption", [5, 2]).tolist() == [CAPTIONS[5], CAPTIONS[2]]
    assert split.read("score", [5, 2]).tolist() == [5, 2]


def test_soft_labels_are_stored_and_read_back_as_probabilities(folder: Path, tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(SAMPLES, 20)).astype(np.float32) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for name, values in (("logits", logits), ("probabilities", probabilities)):
        np.save(tmp_path / f"{name}.npy", values)
        converted(folder, tmp_path / name, soft_labels=tmp_path / f"{name}.npy", soft_top=20)
        dataset = tokenstore.TokenDataset(tmp_path / name, columns=["soft_labels"])
        stored = np.stack([np.asarray(value) for value in dataset])
        np.testing.assert_allclose(stored, without_bad(probabilities), rtol=1e-3)
    np.save(tmp_path / "short.npy", logits[1:])
    with pytest.raises(SourceError, match=r"expected floats .9, classes., one row a sample"):
        open_source(folder, soft_labels=tmp_path / "short.npy")
    with pytest.raises(SourceError, match=r"soft_top.* goes with"):
        open_source(folder, soft_top=3)


def test_parts_a_resumed_conversion_and_one_of_the_whole_have_the_same_bytes(
    parquet: Path, tmp_path: Path
) -> None:
    options = {"columns": ("text", "boxes"), "codec": "context"}
    converted(parquet, tmp_path / "whole", **options)
    parts = []
    for number in (1, 2, 3):
        parts.append(tmp_path / f"part{number}")
        converted(parquet, parts[-1], part=(number, 3), **options)
    tokenstore.merge(tmp_path / "merged", parts)
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    cut = ShardAssembler._further
    packed: list[int] = []

    def stopping(self: ShardAssembler, positions: Any) -> Any:
        packed.append(len(positions))
        if len(packed) == 2:
            raise KeyboardInterrupt
        return cut(self, positions)

    with mock.patch.object(ShardAssembler, "_further", stopping), pytest.raises(KeyboardInterrupt):
        converted(parquet, tmp_path / "resumed", **options)
    converted(parquet, tmp_path / "resumed", resume=True, **options)
    assert len(packed) == 2
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    with pytest.raises(ConversionError, match="expected"):
        converted(parquet, tmp_path / "whole", resume=True, columns=("text",), codec="context")


def test_the_command_and_python_give_the_same_store(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,caption\n" + "".join(f"{row}.png,text {row}\n" for row in range(SAMPLES)))
    arguments = [
        "convert",
        str(folder),
        str(tmp_path / "a"),
        "--table",
        str(table),
        "--column",
        "words=caption",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--on-error", "skip", "--tokenizer", "default"])
    assert done.exit_code == 0, done.output
    tokenstore.convert(folder, tmp_path / "b", table=table, columns=["words=caption"], on_error="skip")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    done = CliRunner().invoke(cli, ["convert", str(folder), str(tmp_path / "c"), "--column", "caption"])
    assert done.exit_code == 1
    assert "--column goes with Parquet files" in done.output

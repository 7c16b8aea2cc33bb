"""`tokenstore convert` says which labels it takes, and last of all that a store has none."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import ArgumentError
from tokenstore.sources import open_source


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), grey).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Parquet file of images with a column of breeds and one of captions."""
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    breeds, captions = ["pug", "corgi", "pug", "corgi"], list("abcd")
    pq.write_table(
        pa.table({"image": [png(50 * n) for n in range(4)], "breed": breeds, "text": captions}), path
    )
    return path


def convert(*words: object) -> Result:
    options = ("--image-size", 16, "--workers", 0, "--tokenizer", "dct")
    return CliRunner().invoke(cli, ["convert", *map(str, (*words, *options))])


def test_the_last_line_says_that_labels_were_not_used_and_how_to_use_them(
    table: Path, tmp_path: Path
) -> None:
    result = convert(table, tmp_path / "a")
    assert result.exit_code == 0, result.output
    note = "note: columns not used: 2 (breed, text); --column NAME stores one as a further column"
    assert note in result.output
    assert "train: no labels" in result.output
    last = result.output.splitlines()[-1]
    assert "stored without labels, though SRC seems to have some (train): columns that may hold" in last
    assert "--label-column breed uses it" in last
    result = convert(table, tmp_path / "b", "--label-column", "breed")
    assert "train: 2 classes (corgi, pug)" in result.output
    assert "without labels" not in result.output
    assert tokenstore.open(tmp_path / "b")["train"].labels.tolist() == [1, 0, 1, 0]


def test_a_labels_file_may_be_at_a_url(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(50))
    with fsspec.open("memory://labels-of-a/labels.csv", "w") as file:
        file.write("a.png,pug\n")
    result = convert(tmp_path / "images", tmp_path / "a", "--labels", "memory://labels-of-a/labels.csv")
    assert result.exit_code == 0, result.output
    assert tokenstore.open(tmp_path / "a").manifest.class_names == ("pug",)
    missing = convert(tmp_path / "images", tmp_path / "b", "--labels", "memory://labels-of-a/none.csv")
    assert missing.exit_code == 1
    assert "none.csv" in missing.output.splitlines()[-1]


def test_no_labels_are_stored_where_none_are_wanted(table: Path, tmp_path: Path) -> None:
    result = convert(table, tmp_path / "a", "--no-labels", "--log-json")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.output.splitlines()]
    assert (events[0]["classes"], events[-1]["unused_labels"]) == ({}, [])
    assert tokenstore.open(tmp_path / "a")["train"].labels is None


def test_a_path_out_of_the_folder_names_the_option_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(0))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": ["../1.png"]}), tmp_path / "data/x.parquet")
    result = convert(tmp_path / "data/x.parquet", tmp_path / "a")
    assert result.exit_code == 1
    assert result.output.count("--allow-outside-paths reads it") == 2
    result = convert(tmp_path / "data/x.parquet", tmp_path / "b", "--allow-outside-paths")
    assert result.exit_code == 0, result.output


def test_options_of_a_source_that_is_open_already_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no_labels: expected a path to open, found an open source"):
        tokenstore.convert(open_source(table), tmp_path / "a", no_labels=True)


def test_an_option_that_does_not_go_with_the_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(png(0))
    result = convert(tmp_path / "a", tmp_path / "out", "--allow-outside-paths")
    assert "--allow-outside-paths goes with Parquet files, not with kind imagefolder" in result.output

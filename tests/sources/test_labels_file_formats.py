"""Files of labels as spreadsheets, pandas and competitions write them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers.image_folders import fill
from helpers.image_sources import labels, listed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources import ImageSource, open_source
from tokenstore.sources.files import LocalFile
from tokenstore.sources.imagefolder import open_imagefolder
from tokenstore.sources.label_table import read_label_table

IMAGES = ("1.jpg", "2.jpg", "deep/3.jpg")
CLASSES = ["dog", "cat", "dog"]


def opened(root: Path, text: str | bytes, **options: str) -> ImageSource:
    """Write a file of labels beside three images, and open both."""
    fill(root, *IMAGES)
    path = root.parent / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_imagefolder(root, path, **options)  # type: ignore[arg-type]


def lines(rows: list[list[str]], delimiter: str = ",", end: str = "\n") -> str:
    return "".join(delimiter.join(row) + end for row in rows)


ROWS = [[path, label] for path, label in zip(IMAGES, CLASSES, strict=True)]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("head", [["Image", "Class"], ["file_name", "breed"], None])
def test_any_usual_delimiter_is_found(root: Path, delimiter: str, head: list[str] | None) -> None:
    source = opened(root, lines([head, *ROWS] if head else ROWS, delimiter, "\r\n"))
    assert (labels(source), source.class_names) == ([1, 0, 1], ("cat", "dog"))


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\r\n" + lines([["path", "label"], *ROWS], ";", "\r\n").encode(),
        lines([["path", "label"], *ROWS], "\t", "\r\n").encode("utf-16"),
        b"\xef\xbb\xbf" + lines([["path", "label"], *ROWS], ";", "\r\n").encode(),
        lines([[f'"{path}"', f'"{label}"'] for path, label in ROWS], ";").encode(),
        lines(ROWS, " ").encode(),
    ],
)
def test_files_as_spreadsheets_save_them_are_read(root: Path, data: bytes) -> None:
    assert labels(opened(root, data)) == [1, 0, 1]


def test_the_row_numbers_and_further_columns_of_pandas_are_passed_over(root: Path) -> None:
    rows = [["", "path", "width", "label"]] + [[str(n), row[0], "9", row[1]] for n, row in enumerate(ROWS)]
    source = opened(root, lines(rows))
    assert labels(source) == [1, 0, 1]
    assert source.notes == (
        "columns of labels.csv not used: 1 (width); table='labels.csv' with columns='NAME' stores one as a "
        "further column",
    )


def test_whole_floats_of_pandas_are_integers(root: Path) -> None:
    source = opened(root, lines([[path, f"{number}.0"] for number, path in enumerate(IMAGES)]))
    assert (labels(source), source.class_names) == ([0, 1, 2], None)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda path: path.rpartition(".")[0], "without endings"),
        (lambda path: f"C:\\Users\\me\\images\\{path}".replace("/", "\\"), "from the source's folder on"),
        (lambda path: f"/home/me/images/{path}", "from the source's folder on"),
        (lambda path: f"images/{path}", "from the source's folder on"),
        (lambda path: path.replace("/", "\\"), "with / for backslashes"),
        (lambda path: Path(path).name, "by the names of files alone"),
        (lambda path: Path(path).stem, "by the names of files alone, without endings"),
        (lambda path: f"/elsewhere/train/{Path(path).name}", "by the names of files alone"),
    ],
)
def test_paths_from_elsewhere_are_matched_with_a_note(root: Path, change: object, note: str) -> None:
    rows = [["image_id", "label"]] + [[change(path), label] for path, label in ROWS]  # type: ignore[operator]
    source = opened(root, lines(rows))
    assert labels(source) == [1, 0, 1]
    assert source.notes == (f"paths in the labels file are matched {note}",)


def test_accents_written_in_another_form_are_matched(root: Path) -> None:
    name = unicodedata.normalize("NFD", "café.jpg")
    fill(root, name)
    (root.parent / "labels.csv").write_text(unicodedata.normalize("NFC", "café.jpg") + ",a\n")
    assert labels(open_imagefolder(root, root.parent / "labels.csv")) == [0]


def test_a_path_that_may_mean_two_images_is_not_matched_by_its_name(root: Path) -> None:
    fill(root, "a/1.jpg", "b/1.jpg")
    (root.parent / "labels.csv").write_text("1.jpg,x\n")
    with pytest.raises(
        SourceError, match=r"not listed: 2 \(first: a/1.jpg\); the file's first path is '1.jpg'"
    ):
        open_imagefolder(root, root.parent / "labels.csv")


def test_a_split_that_is_not_listed_has_no_labels(root: Path) -> None:
    fill(root, "train/1.jpg", "train/2.jpg", "test/3.jpg")
    (root.parent / "train.csv").write_text("id,label\n1,a\n2,b\n")
    source = open_imagefolder(root, root.parent / "train.csv")
    assert (labels(source), labels(source, "test")) == ([0, 1], None)
    assert source.notes[-1] == "split test has no labels, as train.csv lists none of its images"


def test_a_column_whose_name_speaks_of_classes_goes_before_others(root: Path) -> None:
    rows = [["id", "age", "dog_breed"]] + [[path, "3", label] for path, label in ROWS]
    source = opened(root, lines(rows))
    assert (labels(source), source.class_names) == ([1, 0, 1], ("cat", "dog"))


def test_columns_can_be_named(root: Path) -> None:
    rows = [["key", "kind", "colour"]] + [[path, label, "red"] for path, label in ROWS]
    with pytest.raises(SourceError, match="found 3 columns: key, kind, colour"):
        opened(root, lines(rows))
    assert labels(opened(root, lines(rows), image_column="key", label_column="kind")) == [1, 0, 1]
    with pytest.raises(SourceError, match="expected one column 'sort', found 0 in 3 columns"):
        opened(root, lines(rows), label_column="sort")
    rows[0][0] = "path"
    with pytest.raises(SourceError, match="column of labels with a usual name") as caught:
        opened(root, lines(rows))
    assert caught.value.parameters == (Parameter("label_column"),)
    with pytest.raises(SourceError, match="goes with a labels file"):
        open_source(root, label_column="kind")


@pytest.mark.parametrize("text", ["one\ntwo\n", "1.jpg,a\n2.jpg\n", "a" * 70_000, "\0\0,\0\n", '"', "\n\n\n"])
def test_a_text_that_is_no_table_is_refused_with_its_first_line(root: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"labels.csv: expected a CSV file of two columns|not listed"):
        opened(root, text)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["x y", "ö", "3"])), min_size=1, max_size=6
    ),
    delimiter=st.sampled_from(",;\t|"),
    quoted=st.booleans(),
    extra=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_table_reads_alike_however_it_is_written(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str, quoted: bool, extra: bool, encoding: str
) -> None:
    quote = '"' if quoted else ""
    cells = [["filename", "label"], *rows]
    cells = [[f"{quote}{cell}{quote}" for cell in row] for row in cells]
    if extra:
        cells = [[str(number), *row] if number else ["", *row] for number, row in enumerate(cells)]
    path = tmp_path / "x.csv"
    path.write_bytes(lines(cells, delimiter).encode(encoding))
    table = read_label_table(LocalFile.of(path))
    assert [cell.decode() for cell in table.paths.to_pylist()] == [path for path, _ in rows]
    assert [cell.decode() for cell in table.labels.to_pylist()] == [label for _, label in rows]


def test_many_paths_are_matched_without_one_object_each(root: Path) -> None:
    import pyarrow as pa

    from tokenstore.sources.label_paths import match_paths

    numbers = np.arange(20_000)
    names = pa.chunked_array([pa.array([b"%08d.jpg" % number for number in numbers])])
    paths = pa.chunked_array([pa.array([b"C:\\x\\%08d" % number for number in numbers[::-1]])])
    match = match_paths(paths, {"train": names}, root.name)
    assert match.images == len(numbers)


def test_unused_files_of_labels_are_named_with_the_way_to_use_them(root: Path) -> None:
    fill(root, "1.jpg", "2.jpg")
    (root / "metadata.csv").write_text("file_name,label\n1.jpg,a\n2.jpg,b\n")
    source = open_imagefolder(root)
    (note,) = source.unused_labels
    assert note.startswith("files that may hold labels are not used: 1 (first: metadata.csv); labels='")
    assert note.parameters[0].value == str(root / "metadata.csv")  # type: ignore[attr-defined]
    used = open_imagefolder(root, root / "metadata.csv")
    assert (labels(used), used.unused_labels) == ([0, 1], ())
    assert open_imagefolder(root, no_labels=True).unused_labels == ()
    (root / "metadata.csv").rename(root / "metadata.jsonl")
    assert "labels=... takes a CSV file of paths and labels" in open_imagefolder(root).unused_labels[0]
    (root / "metadata.jsonl").rename(root / "metadata.csv")
    assert listed(used) == {"train": ["1.jpg", "2.jpg"]}

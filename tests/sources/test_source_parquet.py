"""Parquet files of images: which columns, which rows, which labels, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_sources import contents, labels

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.parquet import open_parquet

IMAGES = [b"image %d" % number for number in range(7)]


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 3) -> Path:
    """Write a Parquet file with row groups of `rows`, and the metadata of the `datasets` library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=rows)
    return path


def structs(images: list[bytes | None]) -> pa.Array:
    """Return images as the `datasets` library stores them."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": image, "path": None} for image in images], kind)


def test_the_hugging_face_layout_gives_images_labels_and_class_names(tmp_path: Path) -> None:
    features = {"photo": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    for number, part in enumerate((slice(0, 5), slice(5, 7))):
        columns = {"kind": [index % 2 for index in range(7)][part], "photo": structs(IMAGES[part])}
        write(tmp_path / f"data/train-{number:05}-of-00002.parquet", columns, features)
    columns = {"kind": [1], "photo": structs([b"held out"])}
    write(tmp_path / "data/validation-00000-of-00001.parquet", columns, features)
    source = open_source(tmp_path)
    assert (source.kind, list(source.splits), source.class_names) == (
        "parquet",
        ["train", "val"],
        ("cat", "dog"),
    )
    assert contents(source) == IMAGES
    assert labels(source) == [0, 1, 0, 1, 0, 1, 0]
    assert (contents(source, "val"), labels(source, "val")) == ([b"held out"], [1])
    assert source.splits["train"].names(4, 6).to_pylist() == [
        "train-00000-of-00002.parquet[4]",
        "train-00001-of-00002.parquet[0]",
    ]
    assert source.notes == (
        "validation is split val",
        "columns not used: 1 (photo.path); columns='NAME' stores one as a further column",
    )


@pytest.mark.parametrize("name", ["image", "img", "jpg", "anything"])
def test_a_plain_column_of_bytes_is_found_by_name_or_by_being_the_only_one(tmp_path: Path, name: str) -> None:
    source = open_parquet(write(tmp_path / "x.parquet", {"id": ["a", "b"], name: IMAGES[:2]}))
    assert contents(source) == IMAGES[:2]
    assert labels(source) is None


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_both_kinds_of_bytes_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    assert contents(open_parquet(write(tmp_path / "x.parquet", {"image": pa.array(IMAGES, kind)}))) == IMAGES


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/1.jpg").write_bytes(b"one")
    path = write(tmp_path / "x.parquet", {"image": ["pictures/1.jpg", "pictures/2.jpg"]})
    one, two = contents(open_parquet(path))
    assert one == b"one"
    assert isinstance(two, SampleError)
    assert "No such file" in str(two)


def test_a_struct_without_bytes_leads_to_its_path(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [
        {"bytes": None, "path": "1.jpg"},
        {"bytes": b"two", "path": "1.jpg"},
        {"bytes": None, "path": None},
    ]
    found = contents(open_parquet(write(tmp_path / "x.parquet", {"image": pa.array(values, kind)})))
    assert found[:2] == [b"one", b"two"]
    assert str(found[2]) == "the image is null"


def test_a_null_image_is_one_bad_sample(tmp_path: Path) -> None:
    for images in (pa.array([b"a", None, b"c"]), pa.array([{"bytes": b"a"}, None, {"bytes": b"c"}])):
        found = contents(open_parquet(write(tmp_path / "x.parquet", {"image": images})))
        assert (found[0], str(found[1]), found[2]) == (b"a", "the image is null", b"c")


def test_any_range_reads_across_row_groups_and_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": IMAGES[:4]}, rows=2)
    write(tmp_path / "b.parquet", {"image": IMAGES[4:4]})
    write(tmp_path / "c.parquet", {"image": IMAGES[4:]}, rows=2)
    split = open_parquet(tmp_path).splits["train"]
    names = [f"a.parquet[{row}]" for row in range(4)] + [f"c.parquet[{row}]" for row in range(3)]
    for start in range(8):
        for stop in range(start, 8):
            request = pickle.loads(pickle.dumps(split.request(start, stop)))
            assert request.read() == IMAGES[start:stop]
            assert split.names(start, stop).to_pylist() == names[start:stop]


def test_neighbouring_requests_read_a_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_parquet(write(tmp_path / "x.parquet", {"image": IMAGES}, rows=7)).splits["train"]
    groups = []
    read = pq.ParquetFile.iter_batches

    def counted(*arguments: Any, **options: Any) -> Any:
        groups.append(options["row_groups"])
        return read(*arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for start in range(7):
        split.request(start, start + 1).read()
    assert groups == [[0]]


def test_string_labels_become_sorted_classes_over_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": IMAGES[:2], "label": ["dog", "ant"]})
    write(tmp_path / "val.parquet", {"image": IMAGES[:1], "label": pa.array(["cat"]).dictionary_encode()})
    source = open_parquet(tmp_path)
    assert source.class_names == ("ant", "cat", "dog")
    assert (labels(source), labels(source, "val")) == ([2, 0], [1])


@pytest.mark.parametrize("name", ["label", "labels", "cls", "class"])
@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint16()])
def test_integer_labels_are_taken_as_they_are(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    path = write(tmp_path / "x.parquet", {"image": IMAGES[:2], name: pa.array([5, 3], kind)})
    assert labels(open_parquet(path)) == [5, 3]


def test_labels_that_are_all_hidden_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": IMAGES[:2], "label": [0, 1]})
    write(tmp_path / "test.parquet", {"image": IMAGES[:2], "label": [-1, -1]})
    source = open_parquet(tmp_path)
    assert (labels(source), labels(source, "test")) == ([0, 1], None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, None], r"1 labels are null \(first: row 1 of 'label'\)"),
        (["a", None], r"1 labels are null \(first: row 1 of 'label'\)"),
        ([0, -1], r"expected labels 0..2147483647, found -1 at sample 1"),
        ([0, 2**31], r"expected labels 0..2147483647, found 2147483648"),
        (["a", ""], r"sample 1 has an empty label"),
    ],
)
def test_labels_without_sense_are_refused(tmp_path: Path, values: list[object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_parquet(write(tmp_path / "x.parquet", {"image": IMAGES[:2], "label": values}))


def test_a_label_without_class_name_is_refused(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a"]}}
    path = write(tmp_path / "x.parquet", {"image": structs(IMAGES[:2]), "label": [0, 1]}, features)
    with pytest.raises(SourceError, match="sample 1 has label 1, but there are only 1 class names"):
        open_parquet(path)


def test_labels_that_are_lists_are_passed_over_with_a_note(tmp_path: Path) -> None:
    source = open_parquet(write(tmp_path / "x.parquet", {"image": IMAGES[:1], "labels": [[1, 2]]}))
    assert labels(source) is None
    assert source.notes == (
        "column labels skipped: list<element: int64> is not one label a sample",
        "columns not used: 1 (labels); columns='NAME' stores one as a further column",
    )
    assert source.unused_labels == (
        "columns that may hold labels are not used: labels, as none is one label a sample",
    )


def test_of_several_class_labels_the_usual_name_or_the_first_is_taken_and_noted(tmp_path: Path) -> None:
    features = {name: {"_type": "ClassLabel", "names": ["a", "b"]} for name in ("fine", "coarse")}
    path = write(tmp_path / "x.parquet", {"img": IMAGES[:1], "fine": [1], "coarse": [0]}, features)
    source = open_parquet(path)
    assert labels(source) == [1]
    assert source.notes == (
        "labels are taken from column fine, one of fine, coarse; label_column=... takes another",
        "columns not used: 1 (coarse); columns='NAME' stores one as a further column",
    )


def test_columns_that_hold_no_images_are_refused_with_what_is_there(tmp_path: Path) -> None:
    for columns in ({"image": [1, 2], "b": [1.0, 2.0]}, {"a": [b""], "b": [b""]}, {"text": ["a"]}):
        with pytest.raises(SourceError, match=r"expected an image column .* found"):
            open_parquet(write(tmp_path / "x.parquet", columns))


def test_metadata_without_sense_are_no_metadata(tmp_path: Path) -> None:
    table = pa.table({"image": IMAGES}).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "x.parquet")
    assert contents(open_parquet(tmp_path / "x.parquet")) == IMAGES


def test_files_that_differ_in_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": IMAGES, "label": list(range(7))})
    write(tmp_path / "b.parquet", {"image": IMAGES})
    with pytest.raises(SourceError, match=r"b.parquet: has no column 'label', unlike the first file"):
        open_parquet(tmp_path)
    write(tmp_path / "b.parquet", {"image": IMAGES, "label": list("abcdefg")})
    with pytest.raises(SourceError, match="column 'label' has numbers in some files only"):
        open_parquet(tmp_path)


@pytest.mark.parametrize("label_column", [None, "label"])
@pytest.mark.parametrize("labelled", ["train", "test"])
def test_a_split_without_the_column_of_labels_has_none(
    tmp_path: Path, labelled: str, label_column: str | None
) -> None:
    for split in ("train", "test"):
        labels = {"label": list(range(7))} if split == labelled else {}
        write(tmp_path / f"{split}.parquet", {"image": IMAGES, **labels})
    source = open_parquet(tmp_path, label_column=label_column)
    (other,) = {"train", "test"} - {labelled}
    assert source.splits[labelled].labels(0, 7).tolist() == list(range(7))
    assert source.splits[other].labels(0, 7) is None
    assert f"split {other} has no labels: its files lack the column 'label'" in source.notes
    with pytest.raises(SourceError, match="other"):
        open_parquet(tmp_path, label_column="other")


def test_numbers_in_one_split_and_names_in_another_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": IMAGES[:1], "label": [1]})
    write(tmp_path / "val.parquet", {"image": IMAGES[:1], "label": ["a"]})
    with pytest.raises(SourceError, match="has numbers in some splits only"):
        open_parquet(tmp_path)


def test_a_file_that_is_cut_off_is_refused_with_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": IMAGES})
    for content in (path.read_bytes()[:-10], b"", b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"x.parquet: expected a Parquet file"):
            open_parquet(path)


def test_a_damaged_row_group_gives_bad_samples_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": [bytes([number]) * 99 for number in range(6)]}, rows=3)
    split = open_parquet(path).splits["train"]
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # damage leaves no trace there
    found = split.request(0, 6).read()
    assert [isinstance(value, SampleError) for value in found] == [True] * 3 + [False] * 3
    assert "row group 0" in str(found[0])


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="have no rows"):
        open_parquet(write(tmp_path / "x.parquet", {"image": pa.array([], pa.binary())}))


def test_the_fingerprint_follows_files_rows_and_labels(tmp_path: Path) -> None:
    prints = set()
    for columns in ({"image": IMAGES}, {"image": IMAGES[:6]}, {"image": IMAGES, "label": list(range(7))}):
        source = open_parquet(write(tmp_path / "x.parquet", columns))
        prints.add(source.splits["train"].fingerprint())
        assert source.splits["train"].fingerprint() in prints
    assert len(prints) == 3

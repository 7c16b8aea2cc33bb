"""Parquet files: labels used or said to be there, the types of all writers, rows and paths that are bad."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_sources import contents, labels

from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources import open_source, parquet_cells, parquet_footers
from tokenstore.sources.arrow_types import plain
from tokenstore.sources.files import LocalFile
from tokenstore.sources.parquet import open_parquet

IMAGES = [b"image %d" % number for number in range(4)]


def write(path: Path, image: Any = None, rows: int = 1000, **columns: Any) -> Path:
    pq.write_table(pa.table({"image": IMAGES if image is None else image, **columns}), path, rows)
    return path


@pytest.mark.parametrize("name", ["target", "fine_label", "class_id", "category", "label_name"])
def test_labels_under_another_usual_name_are_used(tmp_path: Path, name: str) -> None:
    assert labels(open_parquet(write(tmp_path / "x.parquet", **{name: [5, 3, 3, 0]}))) == [5, 3, 3, 0]


def test_fine_labels_go_before_coarse_ones_with_a_note(tmp_path: Path) -> None:
    source = open_parquet(write(tmp_path / "x.parquet", coarse_label=[0, 0, 1, 1], fine_label=[0, 1, 2, 3]))
    assert labels(source) == [0, 1, 2, 3]
    assert "column fine_label, one of fine_label, coarse_label; label_column=..." in source.notes[0]


@pytest.mark.parametrize(
    "kind",
    [pa.float64(), pa.float32(), pa.float16(), pa.decimal128(9, 2), pa.uint64()],
)
def test_whole_numbers_of_any_type_are_labels(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([1, 0, 2, 1], pa.int64()).cast(pa.float64()).cast(kind)
    assert labels(open_parquet(write(tmp_path / "x.parquet", label=values))) == [1, 0, 2, 1]


def test_true_and_false_are_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", label=[True, False, False, True])
    assert labels(open_parquet(path)) == [1, 0, 0, 1]


def test_labels_that_are_fractions_are_said_not_to_be_used_and_refused_if_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", label=[0.5, 1.0, 2.0, 0.0])
    source = open_parquet(path)
    assert labels(source) is None
    assert "column 'label' has numbers that are not whole" in source.unused_labels[0]
    with pytest.raises(SourceError, match="not whole"):
        open_parquet(path, label_column="label")


def test_columns_that_look_like_labels_are_named_with_the_way_to_use_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", dog_breed=["a", "b", "a", "b"], caption=list("wxyz"))
    source = open_parquet(path)
    assert labels(source) is None
    assert source.notes == (
        "columns not used: 2 (dog_breed, caption); columns='NAME' stores one as a further column",
    )
    (note,) = source.unused_labels
    assert note.startswith("columns that may hold labels are not used: dog_breed; label_column='dog_breed'")
    assert note.parameters == (Parameter("label_column", "dog_breed"),)  # type: ignore[attr-defined]
    used = open_parquet(path, label_column="dog_breed")
    assert (labels(used), used.class_names, used.unused_labels) == ([0, 1, 0, 1], ("a", "b"), ())
    bare = open_parquet(path, no_labels=True)
    assert (labels(bare), bare.unused_labels) == (None, ())


def test_named_columns_are_taken_or_refused_with_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", second=IMAGES[::-1], label=[0, 1, 2, 3], tags=[["a"]] * 4)
    source = open_source(path, image_column="second")
    assert contents(source) == IMAGES[::-1]
    for options, message in (
        ({"image_column": "third"}, r"image_column='third': no such column; found image \(binary\)"),
        (
            {"image_column": "label"},
            "column 'label': expected bytes, paths, or a struct of both, found int64",
        ),
        ({"label_column": "labels"}, "label_column='labels': no such column"),
        ({"label_column": "tags"}, "expected one label a sample, a number or a text, found list"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [[0, None, 1, 1], [0.0, None, 1.0, 1.0], ["a", None, "b", "b"], [0, -1, 2, 3], ["a", "", "b", "c"]],
)
def test_labels_with_gaps_are_refused_with_a_way_on(tmp_path: Path, values: list[object]) -> None:
    path = write(tmp_path / "x.parquet", label=values)
    problem = (
        r"1 labels are null \(first: row 1 of 'label'\)" if values[1] is None else "found -1|empty label"
    )
    with pytest.raises(SourceError, match=problem) as caught:
        open_parquet(path)
    assert Parameter("no_labels", True) in caught.value.parameters
    assert labels(open_parquet(path, no_labels=True)) is None


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
        pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
        pa.struct([("bytes", pa.dictionary(pa.int32(), pa.binary())), ("path", pa.string())]),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.binary()),
    ],
)
def test_images_of_every_type_of_bytes_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    cells = [{"bytes": image, "path": None} for image in IMAGES] if pa.types.is_struct(kind) else IMAGES
    try:
        column = pa.array(cells, kind)
    except pa.ArrowException:
        pytest.skip(f"this pyarrow makes no arrays of {kind}")
    assert contents(open_parquet(write(tmp_path / "x.parquet", column))) == IMAGES


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.large_binary(), pa.binary_view()])
def test_labels_of_every_type_of_text_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["cat", "ant", "cat", "cat"]).cast(kind)
    source = open_parquet(write(tmp_path / "x.parquet", label=values))
    assert (labels(source), source.class_names) == ([1, 0, 1, 1], ("ant", "cat"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_paths_of_every_type_of_text_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    assert contents(open_parquet(write(tmp_path / "x.parquet", pa.array(["1.jpg"]).cast(kind)))) == [b"one"]


def test_a_bad_row_is_one_bad_sample(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    paths = pa.array([b"1.jpg", b"a\0b.jpg", b"\xff\xfe.jpg", b"", b"x" * 9999, b"1.jpg"])
    texts = pa.Array.from_buffers(pa.string(), len(paths), paths.buffers())
    images = contents(open_parquet(write(tmp_path / "x.parquet", texts)))
    assert [image for image in images if not isinstance(image, SampleError)] == [b"one", b"one"]
    reasons = [str(image) for image in images if isinstance(image, SampleError)]
    assert "embedded null" in reasons[0]
    assert reasons[3] == f"expected a path, found 9,999 characters that begin with {'x' * 80!r}"
    cells = pa.array([{"bytes": None, "path": 7}, {"bytes": b"two", "path": 8}])
    cells = cells.cast(pa.struct([("bytes", pa.binary()), ("path", pa.int64())]))
    null, two = contents(open_parquet(write(tmp_path / "y.parquet", cells)))
    assert (str(null), two) == ("the image is null", b"two")


def test_paths_out_of_the_files_folder_are_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "below/1.jpg").write_bytes(b"one")
    (folder / "link.jpg").symlink_to("../secret")
    inside = ["below/1.jpg", "below/../below/1.jpg", str(folder / "below/1.jpg")]
    outside = ["../secret", "below/../../secret", str(tmp_path / "secret"), "link.jpg"]
    path = write(folder / "x.parquet", [*inside, *outside, "/proc/self/environ"])
    images = contents(open_parquet(path))
    assert images[:3] == [b"one"] * 3
    for image in images[3:]:
        assert isinstance(image, SampleError)
        assert "leads out of the folder" in str(image)
        assert image.parameters == (Parameter("allow_outside_paths", True),)
    assert contents(open_parquet(path, allow_outside_paths=True))[3:7] == [b"secret"] * 4


def test_a_column_that_inflates_beyond_reason_is_not_read(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([bytes(2**26), b""])})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    images = contents(open_parquet(tmp_path / "x.parquet"))
    assert [isinstance(image, SampleError) for image in images] == [True, True]
    assert "bytes are too many for a file of" in str(images[0])


def test_few_bytes_that_are_many_long_labels_are_read_in_little_memory(tmp_path: Path) -> None:
    label = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * 100_000])
    table = pa.table({"image": [b"%d" % row for row in range(5000)], "label": label})
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    before = pa.default_memory_pool().max_memory()
    assert labels(open_parquet(tmp_path / "x.parquet")) == [0] * 5000
    assert pa.default_memory_pool().max_memory() == before


def test_a_file_that_claims_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.nulls(100_000, pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="says it has 100,000 rows, more than its bytes can hold"):
        open_parquet(tmp_path / "x.parquet")


def test_thousands_of_small_row_groups_are_read_from_a_file_that_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"image": [b"%d" % row for row in range(600)], "label": list(range(600))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    split = open_parquet(tmp_path / "x.parquet").splits["train"]
    opened = []
    ready = pq.ParquetFile.__init__

    def counted(self: pq.ParquetFile, *arguments: Any, **options: Any) -> None:
        opened.append(arguments)
        ready(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", counted)
    began = time.process_time()
    for start in range(0, 600, 32):
        assert split.request(start, min(start + 32, 600)).read()[0] == b"%d" % start
    assert time.process_time() - began < 2
    assert len(opened) == 1


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "new").mkdir(exist_ok=True)
        write(tmp_path / "new/x.parquet", [b"image %d" % number])
        (tmp_path / "new/x.parquet").replace(tmp_path / "x.parquet")
        assert contents(open_parquet(tmp_path / "x.parquet")) == [b"image %d" % number]


@pytest.mark.parametrize(
    "feature",
    [3, ["a"], {"_type": "ClassLabel", "names": {"a": 1}}, {"_type": "ClassLabel", "names": ["\ud800"]}],
)
def test_metadata_of_other_shapes_are_passed_over(tmp_path: Path, feature: Any) -> None:
    table = pa.table({"image": IMAGES, "label": [0, 0, 0, 0]})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature, "image": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    source = open_parquet(tmp_path / "x.parquet")
    assert (labels(source), source.class_names) == ([0] * 4, None)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(IMAGES), pa.array(IMAGES)], ["image", "image"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="expected one column 'image', found 2"):
        open_parquet(tmp_path / "x.parquet")


def test_an_empty_first_file_does_not_choose_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([]), "label": pa.array([])}), tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", label=[0, 1, 2, 3])
    source = open_parquet(tmp_path)
    assert (contents(source), labels(source)) == (IMAGES, [0, 1, 2, 3])


def test_indices_outside_a_dictionary_are_refused() -> None:
    indices = pa.array([0, 5], pa.int32())
    for values in (["a", "b"], [b"a", b"b"], [1, 2]):
        broken = pa.DictionaryArray.from_arrays(indices, pa.array(values), safe=False)
        with pytest.raises(ValueError, match="expected indices of 2 values, found 5"):
            plain(broken)


def test_few_bytes_that_are_many_long_images_are_read_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), [bytes(2**21)])
    table = pa.table({"image": images})
    pq.write_table(table, tmp_path / "x.parquet", dictionary_pagesize_limit=2**25, store_schema=False)
    sizes, read = [], pq.ParquetFile.iter_batches

    def seen(self: pq.ParquetFile, size: int, **options: Any) -> Any:
        sizes.append(size)
        return read(self, size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    monkeypatch.setattr(parquet_cells, "BATCH_NBYTES", 2**23)
    found = open_parquet(tmp_path / "x.parquet").splits["train"].request(0, 64).read()
    assert (len(found), len({id(image) for image in found}), sizes) == (64, 1, [3])


def test_threads_read_rows_of_one_file_at_once(tmp_path: Path) -> None:
    images = [b"%d" % row for row in range(400)]
    split = open_parquet(write(tmp_path / "x.parquet", images, rows=40)).splits["train"]

    def read(row: int) -> bool:
        return list(split.request(row, row + 1).read()) == [images[row]]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [row * 7 % 400 for row in range(400)]))


@pytest.mark.parametrize("nbytes", [2**20, 50])
def test_rows_in_any_order_are_read_from_the_batches_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    images = [b"%d" % row * 3 for row in range(200)]
    split = open_parquet(write(tmp_path / "x.parquet", images)).splits["train"]
    monkeypatch.setattr(parquet_cells, "BATCH_NBYTES", nbytes)
    begun, read = [], pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *arguments: Any, **options: Any) -> Any:
        begun.append(options)
        return read(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for row in (row * 37 % 200 for row in range(200)):
        assert split.request(row, min(row + 3, 200)).read() == images[row : row + 3]
    assert len(begun) == 1 if nbytes > 50 else len(begun) > 1


def test_words_of_a_dictionary_that_no_row_has_are_no_classes(tmp_path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([1, 2, 2, 1], pa.int8()), pa.array(["", "a", "b", "c"]))
    source = open_parquet(write(tmp_path / "x.parquet", label=words))
    assert source.class_names == ("a", "b")
    assert labels(source) == [0, 1, 1, 0]


def test_rows_of_groups_that_are_not_those_of_the_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", rows=2)
    footer, schema = parquet_footers._open(LocalFile.of(path))

    class Claimed:
        num_rows = footer.num_rows
        num_row_groups = footer.num_row_groups

        def row_group(self, group: int) -> Any:
            return SimpleNamespace(num_rows=2**40 if group else 2)

    monkeypatch.setattr(parquet_footers, "_open", lambda _: (Claimed(), schema))
    with pytest.raises(SourceError, match=r"says it has 4 rows, and 1,099,511,627,778 in its groups"):
        open_parquet(path)


def test_a_column_of_labels_that_inflates_beyond_reason_is_refused(tmp_path: Path) -> None:
    # few bytes of zstd, 96 MiB of text, which plain pages hold value by value
    labels = pa.array(["x" * 2**20] * 96)
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [b"image"] * len(labels), "label": labels})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    with pytest.raises(SourceError, match=r"'label' cannot be read: [\d,]+ bytes inflate to [\d,]+ or more"):
        open_source(path)
    assert len(open_source(path, no_labels=True).splits["train"]) == len(labels)

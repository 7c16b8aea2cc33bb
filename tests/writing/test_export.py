"""An export holds the codes and columns of its store, as programs without tokenstore read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exported_stores import ALL, CLASSES, DECODERS, GRID, LISTS, SIZE, exported_store
from helpers.stores import Samples, contents, random_codes, write_store

import tokenstore
from tokenstore.codecs import Views
from tokenstore.errors import (
    ArgumentError,
    ConversionError,
    DamageError,
    StoreError,
    StoreExistsError,
    TokenizerError,
)
from tokenstore.storage import open_storage
from tokenstore.writing.export.contents import Digests, SplitContents
from tokenstore.writing.export.layouts import LAYOUTS

CUT = ("safetensors", "jsonl", "parquet", "hf", "webdataset")
"""The layouts in which a split has several files."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the store of all exports."""
    return exported_store(tmp_path_factory.mktemp("exports") / "store")


def columns_of(layout: str) -> list[str] | None:
    held = DECODERS[layout][1]
    return None if held == ALL else list(held)


def expected(store: Path, split: str, name: str) -> Any:
    reader = tokenstore.open(store)[split]
    if name == "source":
        return reader.samples_table()["source"].to_pylist()
    return reader.column(name).values(reader.read(name))


def check(store: Path, folder: Path, layout: str) -> None:
    decode, held = DECODERS[layout]
    for split in ("train", "val"):
        found = decode(folder, split)
        names = {"tokens", *held} & {"tokens", "source", *tokenstore.open(store)[split].columns}
        assert found.keys() == names
        for name in names:
            values = expected(store, split, name)
            if name in LISTS:
                for mine, theirs in zip(values, found[name], strict=True):
                    assert np.array_equal(np.asarray(theirs, mine.dtype).reshape(mine.shape), mine)
            elif name in ("source", "caption"):
                assert list(found[name]) == list(values)
            else:
                assert np.array_equal(
                    np.asarray(found[name], values.dtype), values, equal_nan=values.dtype.kind == "f"
                )


def test_every_layout_has_an_independent_decoder() -> None:
    assert DECODERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", DECODERS)
def test_files_decode_to_the_codes_and_columns_of_the_store(store: Path, tmp_path: Path, layout: str) -> None:
    columns = columns_of(layout)
    if layout in ("npy", "npz"):  # whose arrays lose a null character at the end of a text
        assert not any(text.endswith("\0") for text in expected(store, "train", "caption"))
    result = tokenstore.export(store, tmp_path / "out", to=layout, columns=columns)
    assert result.samples == {"train": 23, "val": 5}
    check(store, tmp_path / "out", layout)
    listed = json.loads((tmp_path / "out" / "tokenstore-export.json").read_text())
    assert listed["manifest"]["class_names"] == list(CLASSES)
    assert result.files == listed["file_count"]
    assert not (tmp_path / "out" / ".partial").exists()
    if layout not in ("npz",):
        assert np.load(tmp_path / "out" / "codebook.npy").shape == (SIZE, 4)


@pytest.mark.parametrize("layout", CUT)
def test_a_split_of_several_files_has_all_samples_in_order(store: Path, tmp_path: Path, layout: str) -> None:
    settings = {"columns": columns_of(layout), "rows_per_file": 10}
    result = tokenstore.export(store, tmp_path / "out", to=layout, **settings)
    assert result.files == 4
    check(store, tmp_path / "out", layout)


@pytest.mark.parametrize("layout", DECODERS)
def test_each_batch_counts_as_samples_written_and_read_back(
    store: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SplitContents, "batch_samples", 4)
    seen: dict[str, list[int]] = {}

    def on_progress(step: str, done: int, total: int) -> None:
        assert total == 23
        seen.setdefault(step, []).append(done)

    settings: dict[str, Any] = {"to": layout, "columns": columns_of(layout), "splits": "train"}
    tokenstore.export(store, tmp_path / "out", **settings, on_progress=on_progress)
    assert seen.keys() == {"train, writing", "train, reading back"}
    for counts in seen.values():
        assert counts == sorted(counts)
        assert counts[-1] == 23
    assert len(set(seen["train, writing"])) > 3


@pytest.mark.parametrize("layout", DECODERS)
def test_an_export_is_the_same_bytes_again(store: Path, tmp_path: Path, layout: str) -> None:
    for name in ("a", "b"):
        tokenstore.export(store, tmp_path / name, to=layout, columns=["labels"], splits="val")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("layout", ["parquet", "npz", "llamagen"])
def test_an_export_to_a_remote_place_is_that_to_a_folder(
    store: Path, tmp_path: Path, memory_url: str, layout: str
) -> None:
    settings: dict[str, Any] = {"to": layout, "columns": ["labels"], "splits": "val"}
    tokenstore.export(store, tmp_path / "out", **settings)
    tokenstore.export(store, memory_url, **settings)
    remote = open_storage(memory_url)
    assert {path: remote.read(path) for path in remote.files()} == contents(tmp_path / "out")


COMPRESSED = [
    ("npz", "deflate"),
    ("jsonl", "gzip"),
    ("webdataset", "gzip"),
    ("parquet", "snappy"),
    ("parquet", "none"),
]


@pytest.mark.parametrize(("layout", "compression"), COMPRESSED)
def test_compressed_files_hold_the_same(store: Path, tmp_path: Path, layout: str, compression: str) -> None:
    settings = {"to": layout, "columns": ["labels"]}
    tokenstore.export(store, tmp_path / "plain", **settings)
    tokenstore.export(store, tmp_path / "packed", compression=compression, **settings)
    packed, plain = contents(tmp_path / "packed"), contents(tmp_path / "plain")
    name = next(path for path in packed if path.startswith(("train", "data/train")))
    assert packed[name] != plain.get(name)


LEFT_OUT = [
    (
        "npy",
        "train/boxes: the layout npy cannot hold it: its samples differ in length. Choose columns",
    ),
    ("npz", "train/boxes: the layout npz cannot hold it: its samples differ in length"),
    ("memmap", "train/boxes: the layout memmap cannot hold it: it is no array of numbers"),
    ("safetensors", "train/boxes: the layout safetensors cannot hold it"),
    ("llamagen", "train/boxes: the layout llamagen cannot hold it: it has codes and labels alone"),
]


@pytest.mark.parametrize(("layout", "message"), LEFT_OUT)
def test_what_a_layout_cannot_hold_is_an_error_until_it_is_left_out_and_then_a_note(
    store: Path, tmp_path: Path, layout: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        tokenstore.export(store, tmp_path / "out", to=layout)
    assert not (tmp_path / "out").exists()
    result = tokenstore.export(store, tmp_path / "out", to=layout, columns=["labels"])
    (note,) = [note for note in result.notes if note.startswith("left out")]
    assert note.startswith("left out, not asked for: train/boxes, train/caption, ")
    assert note.endswith("train/source, val/source")


def test_wrong_arguments_are_one_clear_error(store: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"to": "parket"}, ArgumentError, "Did you mean 'parquet'"),
        ({"to": "npy", "rows_per_file": 3}, ArgumentError, "the layout npy has one file a split"),
        ({"to": "jsonl", "rows_per_file": 0}, ArgumentError, "expected 1 or more, found 0"),
        ({"to": "npy", "compression": "gzip"}, ArgumentError, "the layout npy has no compression"),
        ({"to": "jsonl", "compression": "zstd"}, ArgumentError, "expected none, gzip for jsonl"),
        ({"to": "npz", "pictures": True}, ArgumentError, "the layout npz has no pictures"),
        ({"to": "jsonl", "splits": "trian"}, StoreError, "Did you mean 'train'"),
        ({"to": "jsonl", "columns": ["capton"]}, StoreError, "Did you mean 'caption'"),
        (
            {"to": "llamagen", "columns": []},
            StoreError,
            "train: the layout llamagen needs labels, found none",
        ),
        ({"to": "parquet", "pictures": True}, TokenizerError, "which tokenizer made the codes"),
        ({"to": "jsonl", "target_storage_options": {"a": 1}}, ArgumentError, "target_storage_options"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            tokenstore.export(store, tmp_path / "out", **arguments)
    with pytest.raises(ArgumentError, match="expected a folder or a URL, found the name of a zip file"):
        tokenstore.export(store, tmp_path / "out.zip", to="npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArgumentError, match="expected a place outside of the store"):
        tokenstore.export(store, store / "out", to="npy")


def test_values_that_a_layout_would_lose_are_refused(tmp_path: Path) -> None:
    codes = random_codes(3, GRID, SIZE)
    tokenstore.write(tmp_path / "text", codes, codebook_size=SIZE, columns={"note": ["a", "b\0", ""]})
    with pytest.raises(StoreError, match="train/note: a text ends in a null character"):
        tokenstore.export(tmp_path / "text", tmp_path / "out", to="npy")
    score = np.array([0, np.inf, 1])
    tokenstore.write(tmp_path / "infinite", codes, codebook_size=SIZE, columns={"score": score})
    for layout in ("jsonl", "webdataset"):
        with pytest.raises(StoreError, match="sample 1: an infinite number has no form in JSON"):
            tokenstore.export(tmp_path / "infinite", tmp_path / layout, to=layout)
        tokenstore.export(tmp_path / "infinite", tmp_path / layout, to=layout, columns=[])
    tokenstore.write(tmp_path / "label", codes, codebook_size=SIZE, columns={"label": score})
    with pytest.raises(StoreError, match="its name is that of the labels' column, label"):
        tokenstore.export(tmp_path / "label", tmp_path / "taken", to="parquet")


def test_a_killed_export_goes_on_and_an_export_of_other_things_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"to": "jsonl", "rows_per_file": 5}
    tokenstore.export(store, tmp_path / "whole", **settings)
    out, batches, done = tmp_path / "out", SplitContents.batches, 0

    def fewer(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return batches(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SplitContents, "batches", fewer)
        with pytest.raises(KeyboardInterrupt):
            tokenstore.export(store, out, **settings)
    assert not (out / "tokenstore-export.json").exists()
    with pytest.raises(StoreExistsError, match="an unfinished export is there"):
        tokenstore.export(store, out, **settings)
    with pytest.raises(
        StoreExistsError, match="cannot go on with other inputs: rows_per_file was 5, is now 6"
    ):
        tokenstore.export(store, out, resume=True, to="jsonl", rows_per_file=6)
    kept = (out / "train-00001-of-00005.jsonl").stat().st_mtime_ns
    (out / "train-00002-of-00005.jsonl").unlink()  # as an impatient user might
    steps: list[tuple[str, int, int]] = []
    tokenstore.export(store, out, resume=True, **settings, on_progress=lambda *step: steps.append(step))
    assert steps[:2] == [("train, writing", 5, 23), ("train, reading back", 5, 23)]
    assert (out / "train-00001-of-00005.jsonl").stat().st_mtime_ns == kept
    assert contents(out) == contents(tmp_path / "whole")
    assert tokenstore.export(store, out, resume=True, **settings).already_complete
    with pytest.raises(StoreExistsError, match="a complete export is there, of another store"):
        tokenstore.export(store, out, resume=True, to="npz", columns=["labels"])
    with pytest.raises(StoreExistsError, match="something is already there"):
        tokenstore.export(store, out, **settings)


def test_two_exports_to_one_place_are_one_error(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = SplitContents.batches

    def twice(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(SplitContents, "batches", batches)
        with pytest.raises(ConversionError, match="another process is writing"):
            tokenstore.export(store, tmp_path / "out", to="jsonl", resume=True)
        return batches(*args, **kwargs)

    monkeypatch.setattr(SplitContents, "batches", twice)
    tokenstore.export(store, tmp_path / "out", to="jsonl")
    check(store, tmp_path / "out", "jsonl")


@pytest.mark.parametrize("layout", DECODERS)
def test_a_file_that_does_not_read_back_to_what_was_written_is_damage(
    store: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Digests.add

    def other(self: Digests, values: Any, where: str = "") -> None:
        found = {name: rows + (name == "tokens" and where != "") for name, rows in values.items()}
        add(self, found, where)

    monkeypatch.setattr(Digests, "add", other)
    with pytest.raises(DamageError, match="expected the values of tokens that were written, found others"):
        tokenstore.export(store, tmp_path / "out", to=layout, columns=["labels"])
    assert not (tmp_path / "out" / "tokenstore-export.json").exists()


@pytest.mark.parametrize("layout", DECODERS)
def test_views_of_a_sample_stay_together(tmp_path: Path, layout: str) -> None:
    codes = random_codes(4 * 2, GRID, SIZE).reshape(4, 2, *GRID)
    boxes = ((0, 0, 32, 32, 0), (0, 0, 32, 32, 1))
    labels = np.arange(4, dtype=np.int32)
    write_store(tmp_path / "store", {"train": Samples(codes, labels)}, SIZE, views=Views(2, boxes))
    tokenstore.export(tmp_path / "store", tmp_path / "out", to=layout, columns=["labels"])
    out = tmp_path / "out"
    if layout == "llamagen":
        sample = np.load(out / "imagenet32_codes" / "3.npy")
        assert sample.shape == (1, 2, 6)
        assert np.array_equal(sample.reshape(2, *GRID), codes[3])
    elif layout == "jsonl":
        lines = (out / "train.jsonl").read_text().splitlines()
        assert json.loads(lines[3])["tokens"] == codes[3].ravel().tolist()
    elif layout == "npz":
        assert np.array_equal(np.load(out / "train.npz")["tokens"], codes)
    elif layout != "webdataset":
        found = DECODERS[layout][0](out, "train")["tokens"]
        assert np.array_equal(np.asarray(found), codes)


@pytest.mark.usefixtures("no_waiting")
def test_an_interrupted_export_to_a_remote_place_goes_on(
    store: Path, tmp_path: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"to": "jsonl", "rows_per_file": 5}
    tokenstore.export(store, tmp_path / "whole", **settings)
    batches, done = SplitContents.batches, 0

    def fewer(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return batches(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SplitContents, "batches", fewer)
        with pytest.raises(KeyboardInterrupt):
            tokenstore.export(store, memory_url, **settings)
    with pytest.raises(StoreExistsError, match="an unfinished export is there"):
        tokenstore.export(store, memory_url, **settings)
    done = 0
    with monkeypatch.context() as patch:
        patch.setattr(SplitContents, "batches", fewer)  # the first three units are there: three more are not
        tokenstore.export(store, memory_url, resume=True, **settings)
    remote = open_storage(memory_url)
    assert {path: remote.read(path) for path in remote.files()} == contents(tmp_path / "whole")


NUMBERS: list[Any] = [
    np.bool_,
    *(np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64),
    *(np.float16, np.float32, np.float64),
]


@pytest.mark.parametrize("layout", [layout for layout in DECODERS if layout != "llamagen"])
def test_numbers_of_every_dtype_are_exported_exactly(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for dtype in NUMBERS:
        name = np.dtype(dtype).name
        bits = rng.integers(0, 256, (7, 3, np.dtype(dtype).itemsize), np.uint8)
        values = bits[..., 0] > 99 if dtype is np.bool_ else bits.view(dtype)[..., 0]
        if values.dtype.kind == "f":
            values = np.where(np.isinf(values), values.dtype.type(-0.0), values)
        columns |= {name: values, f"{name}_alone": values[:, 0].copy()}
    codes = random_codes(7 * 2, (2, 2), 70_000).reshape(7, 2, 2, 2)
    tokenstore.write(tmp_path / "store", codes, codebook_size=(70_000, 70_000), columns=columns)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to=layout)  # every file is read back
    if layout in ("npy", "npz", "memmap", "safetensors"):
        name = "train.npz" if layout == "npz" else "train-uint64.npy"
        if layout in ("npy", "npz"):
            loaded = np.load(tmp_path / "out" / name)
            assert np.array_equal(loaded["uint64"] if layout == "npz" else loaded, columns["uint64"])


def test_texts_that_would_blow_up_an_array_are_refused(tmp_path: Path) -> None:
    notes = ["a" * 20_000, ""]
    tokenstore.write(
        tmp_path / "store", random_codes(2, GRID, SIZE), codebook_size=SIZE, columns={"note": notes}
    )
    for layout in ("npy", "npz"):
        with pytest.raises(StoreError, match="expected texts of at most 16,384 characters"):
            tokenstore.export(tmp_path / "store", tmp_path / layout, to=layout)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to="parquet")


def test_what_the_readers_of_a_layout_do_not_take_is_said(tmp_path: Path) -> None:
    codes = random_codes(4, GRID, SIZE)
    labels = np.array([0, 1], np.int32)
    writer = tokenstore.write(tmp_path / "store", grid=GRID, codebook_size=SIZE, class_names=("a", "a"))
    with writer:
        writer.add(codes[:2], labels, split="train-1")
    notes = tokenstore.export(tmp_path / "store", tmp_path / "out", to="parquet").notes
    assert "two classes have one name: the names are in tokenstore-export.json alone" in notes
    assert any(note.startswith("split train-1: the library datasets takes letters") for note in notes)
    boxes = [(0, 0, 32, 32, 0), (0, 0, 16, 16, 0)]
    views = codes.reshape(2, 2, *GRID)
    tokenstore.write(tmp_path / "views", views, labels=labels, views=boxes, codebook_size=SIZE)
    notes = tokenstore.export(tmp_path / "views", tmp_path / "tree", to="llamagen").notes
    assert any("ten for ten crops, and the store's are others" in note for note in notes)
    listed = json.loads((tmp_path / "tree" / "tokenstore-export.json").read_text())
    assert listed["manifest"]["views"] == [list(box) for box in boxes]

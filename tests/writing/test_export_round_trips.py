"""Exports, converted again, are the store that they were: codes, labels, columns, class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exported_stores import GRID, SAMPLES, SIZE, exported_store
from helpers.ragged import same
from helpers.stores import Samples, random_codes, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import SourceError
from tokenstore.format import TokenizerIdentity
from tokenstore.sources.layouts.llamagen import ten_crops
from tokenstore.writing.export.job import EXPORT_HEADER, EXPORT_LIST

BACK: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "npz": (("masks", "score", "caption", "source"), {}),
    "npy": (("masks", "score", "caption", "source"), {}),
    "memmap": (("masks", "score"), {}),
    "safetensors": (("masks", "score"), {}),
    "jsonl": (("masks", "score", "caption", "source", "boxes", "tags"), {}),
    "parquet": (("masks", "score", "caption", "source", "boxes", "tags"), {}),
    "hf": (("masks", "score", "caption", "source", "boxes", "tags"), {}),
    "webdataset": (("masks", "score", "caption", "source", "boxes", "tags"), {}),
    "llamagen": ((), {}),
}
"""The columns that come back from each layout that a source reads, and the options of the conversion."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the store of all exports."""
    return exported_store(tmp_path_factory.mktemp("exports") / "store")


@pytest.mark.parametrize("layout", BACK)
def test_an_export_converts_to_equal_codes_labels_and_columns(
    store: Path, tmp_path: Path, layout: str
) -> None:
    columns, options = BACK[layout]
    tokenstore.export(store, tmp_path / "out", to=layout, columns=["labels", *columns], splits="train")
    if columns:
        lists = {"boxes": "boxes=boxes.npy", "tags": "tags=tags.npy"} if layout == "webdataset" else {}
        asked = [lists.get(name, name) for name in columns if name != "masks"]
        options = {**options, "columns": asked}
    tokenstore.convert(tmp_path / "out", tmp_path / "back", **options)
    first, again = tokenstore.open(store)["train"], tokenstore.open(tmp_path / "back")["train"]
    assert len(again) == SAMPLES
    assert np.array_equal(first[:], again[:])
    assert first.labels is not None
    assert again.labels is not None
    assert first.labels.tolist() == again.labels.tolist()
    for name in columns:
        if name == "masks":
            continue
        values = first.samples_table()["source"].to_pylist() if name == "source" else first.read(name)
        found = again.read(name)
        if name in ("caption", "source"):
            assert found.tolist() == list(values)
        elif name in ("boxes", "tags"):
            assert same([each.astype(mine.dtype) for each, mine in zip(found, values, strict=True)], values)
        else:
            assert np.array_equal(found, values, equal_nan=True)
    assert verify(tmp_path / "back").problems == []
    facts = ("class_names", "codebook_sizes", "grid")
    was, now = (tokenstore.open(path).manifest for path in (store, tmp_path / "back"))
    assert [getattr(now, name) for name in facts] == [getattr(was, name) for name in facts]
    codebook = tokenstore.open(tmp_path / "back").codebook
    assert np.array_equal(codebook, tokenstore.open(store).codebook)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [layout for layout in BACK if layout != "llamagen"])  # a tree is one split
def test_all_splits_come_back(store: Path, tmp_path: Path, layout: str) -> None:
    tokenstore.export(store, tmp_path / "out", to=layout, columns=["labels"])
    tokenstore.convert(tmp_path / "out", tmp_path / "back", **BACK[layout][1])
    first, again = tokenstore.open(store), tokenstore.open(tmp_path / "back")
    assert set(again.splits) == {"train", "val"}
    for split in again.splits:
        assert np.array_equal(first[split][:], again[split][:])
        assert np.array_equal(first[split].labels, again[split].labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("labelled", ["train", "val"])
@pytest.mark.parametrize("layout", [layout for layout in BACK if layout != "llamagen"])
def test_labels_come_back_where_only_one_split_has_them(tmp_path: Path, layout: str, labelled: str) -> None:
    codes, labels = random_codes(5, GRID, SIZE), np.array([2, 0, 1, 1, 0], np.int32)
    splits = {split: Samples(codes, labels if split == labelled else None) for split in ("train", "val")}
    write_store(tmp_path / "store", splits, SIZE)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to=layout)
    tokenstore.convert(tmp_path / "out", tmp_path / "back")
    again = tokenstore.open(tmp_path / "back")
    found = {split: again[split].labels for split in again.splits}
    assert {split for split in found if found[split] is not None} == {labelled}
    assert found[labelled].tolist() == labels.tolist()


def test_views_come_back_from_a_tree_of_codes(tmp_path: Path) -> None:
    codes = random_codes(6, GRID, SIZE).reshape(3, 2, *GRID)
    views = Views(2, ((0, 0, 32, 32, 0), (0, 0, 32, 32, 1)))
    labels = np.array([2, 0, 1], np.int32)
    write_store(tmp_path / "store", {"train": Samples(codes, labels)}, SIZE, views=views)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to="llamagen")
    tokenstore.convert(tmp_path / "out", tmp_path / "back", grid=GRID, codebook_size=SIZE)
    back = tokenstore.open(tmp_path / "back")
    assert back.manifest.views == views
    assert np.array_equal(back["train"].read("tokens"), codes)
    assert back["train"].read("labels").tolist() == labels.tolist()


@pytest.mark.parametrize("layout", BACK)
def test_views_come_back_from_all_layouts(tmp_path: Path, layout: str) -> None:
    codes = random_codes(6, GRID, SIZE).reshape(3, 2, *GRID)
    samples = Samples(codes, np.array([2, 0, 1], np.int32))
    views = Views(2, ((0, 0, 32, 32, 0), (0, 4, 28, 28, 1)))
    write_store(tmp_path / "store", {"train": samples}, SIZE, views=views)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to=layout)
    tokenstore.convert(tmp_path / "out", tmp_path / "back")
    found = tokenstore.diff(tmp_path / "store", tmp_path / "back").differences
    assert {each.what for each in found} <= {"tokenizer", "source_kind", "source_location"}


def test_crops_of_images_enlarged_less_come_back_from_the_folder_that_the_note_names(tmp_path: Path) -> None:
    views = Views(10, ten_crops(64, 67))
    codes = random_codes(10, (4, 4), SIZE).reshape(1, 10, 4, 4)
    write_store(tmp_path / "store", {"train": Samples(codes, np.zeros(1, np.int32))}, SIZE, views=views)
    notes = tokenstore.export(tmp_path / "store", tmp_path / "my_ten_crop_105", to="llamagen").notes
    assert any("by a folder whose name ends in ten_crop_105" in note for note in notes)
    tokenstore.convert(tmp_path / "my_ten_crop_105", tmp_path / "back", codebook_size=SIZE)
    assert tokenstore.open(tmp_path / "back").manifest.views == views


def test_options_go_before_an_export_s_facts_and_another_list_is_said_to_be_none(
    tmp_path: Path,
) -> None:
    codes = random_codes(4, (2, 3), 9)
    tokenstore.write(
        tmp_path / "store",
        codes,
        labels=[0, 1, 1, 0],
        codebook_size=16,
        class_names=["a", "b"],
        tokenizer=TokenizerIdentity("mine"),
    )
    tokenstore.export(tmp_path / "store", tmp_path / "out", to="jsonl")
    notes: list[str] = []
    said: dict[str, Any] = {"on_source": lambda source: notes.extend(source.notes)}
    options: dict[str, Any] = {"grid": (3, 2), "codebook_size": 20, "class_names": ["c", "d"]}
    tokenstore.convert(tmp_path / "out", tmp_path / "own", **options, **said)
    manifest = tokenstore.open(tmp_path / "own").manifest
    assert (manifest.grid, manifest.codebook_sizes, manifest.class_names) == ((3, 2), (20,), ("c", "d"))
    assert "the tokenizer 'mine'; tokenizer=... says so" in " ".join(notes)
    (tmp_path / "out" / EXPORT_LIST).write_text('{"manifest": {"grid": "all"}}')
    tokenstore.convert(tmp_path / "out", tmp_path / "plain", **said)
    assert tokenstore.open(tmp_path / "plain").manifest.codebook_sizes == (9,)
    assert "is not used, it is no list of an export" in " ".join(notes)


def test_an_unfinished_export_is_no_source(tmp_path: Path) -> None:
    tokenstore.write(tmp_path / "store", random_codes(4, (2, 3), 9), codebook_size=9)
    tokenstore.export(tmp_path / "store", tmp_path / "out", to="jsonl")
    (tmp_path / "out" / EXPORT_LIST).unlink()
    (tmp_path / "out" / EXPORT_HEADER).parent.mkdir()
    (tmp_path / "out" / EXPORT_HEADER).write_text("{}")
    with pytest.raises(SourceError, match=r"out: an unfinished export of a store\. Go on"):
        tokenstore.convert(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()

"""New labels and names of classes: tokens stay the same files, labels and tables are new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import contents, few_are_many, random_codes, store_files, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import ArgumentError, StoreChangedError, StoreError, StoreExistsError
from tokenstore.writing.editing.edition import Edition

CODES = random_codes(20, (2, 2), 391)
LABELS = (np.arange(20) % 4).astype(np.int32)
CLASSES = ("ant", "bee", "cat", "dog")


def written(path: Path, labels: Any = LABELS, **spec: Any) -> Path:
    values = {"class_names": CLASSES, "chunk_samples": 2, "shard_samples": 8, **spec}
    splits = {"train": (CODES, labels), "val": (CODES[:4], None if labels is None else labels[:4])}
    write_store(path, splits, **values)
    return path


def assert_labels(path: Path, labels: Any, names: tuple[str, ...] | None, split: str = "train") -> None:
    """Check that a store is whole, and that a split has these labels and their names."""
    found = verify(path)
    assert (found.problems, found.notes) == ([], [])
    reader = tokenstore.open(path)[split]
    np.testing.assert_array_equal(reader[:], CODES[: len(reader)])
    np.testing.assert_array_equal(reader.labels, labels)
    expected = [None if names is None else names[label] for label in np.asarray(labels).tolist()]
    assert reader.samples_table()["label_name"].to_pylist() == expected
    assert tokenstore.open(path).class_names == names


def is_same_file(path: Path, other: Path) -> bool:
    return path.samefile(other) and path.stat().st_ino == other.stat().st_ino


@pytest.mark.parametrize("heading", ["old,new\n", ""])
def test_classes_are_mapped_and_all_other_files_are_linked(tmp_path: Path, heading: str) -> None:
    store = written(tmp_path / "a")
    before = contents(store)
    (tmp_path / "map.csv").write_text(f'{heading}bee,insect\nant,insect\n"cat","big, cat"\n')
    result = tokenstore.relabel(store, tmp_path / "b", class_map=tmp_path / "map.csv")
    assert contents(store) == before
    names = ("insect", "big, cat", "dog")
    assert_labels(tmp_path / "b", np.array([0, 0, 1, 2])[LABELS], names)
    assert_labels(tmp_path / "b", [0, 0, 1, 2], names, "val")
    new = {path for path in store_files(store) if not is_same_file(store / path, tmp_path / "b" / path)}
    assert all(path == "zarr.json" or "/labels/" in path or "samples.parquet" in path for path in new)
    (done,) = result.manifest.history
    assert (done.operation, dict(done.arguments)) == (
        "relabel",
        {"class_map": {"bee": "insect", "ant": "insect", "cat": "big, cat"}},
    )


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
def test_in_its_place_a_store_is_relabelled_and_an_open_reader_is_told_or_keeps_the_old_one(
    tmp_path: Path, name: str
) -> None:
    path = written(tmp_path / name)
    opened = tokenstore.open(path)
    tokenstore.relabel(path, class_map={"dog": "ant"})
    assert_labels(path, np.array([0, 1, 2, 0])[LABELS], ("ant", "bee", "cat"))
    assert [other.name for other in tmp_path.iterdir()] == [name]
    if path.is_file():  # which an open reader keeps
        np.testing.assert_array_equal(opened["train"].labels, LABELS)
    else:
        with pytest.raises(StoreChangedError, match="it was recoded or replaced"):
            opened.files.check_unchanged()


def test_labels_by_split_and_in_files(tmp_path: Path) -> None:
    store, new = written(tmp_path / "a"), LABELS[::-1].copy()
    tokenstore.relabel(store, tmp_path / "b", labels={"train": new})
    assert_labels(tmp_path / "b", new, CLASSES)
    assert_labels(tmp_path / "b", LABELS[:4], CLASSES, "val")
    tokenstore.select(store, tmp_path / "one", where="row >= 0", splits=["train"])
    np.save(tmp_path / "new.npy", new)
    tokenstore.relabel(tmp_path / "one", tmp_path / "c", labels=tmp_path / "new.npy")
    assert_labels(tmp_path / "c", new, CLASSES)
    rows = [f"train/{row}.png,{'eel' if row == 7 else CLASSES[new[row]]}" for row in range(19, -1, -1)]
    (tmp_path / "new.csv").write_text("\n".join(["source,label", *rows]))
    tokenstore.relabel(tmp_path / "one", tmp_path / "d", labels=tmp_path / "new.csv")
    assert_labels(tmp_path / "d", np.where(np.arange(20) == 7, 4, new), (*CLASSES, "eel"))


def test_a_store_without_labels_gets_some(tmp_path: Path) -> None:
    store = written(tmp_path / "a", None, class_names=None)
    tokenstore.relabel(store, labels={"train": LABELS, "val": LABELS[4:8]})
    assert_labels(store, LABELS, None)
    with pytest.raises(StoreError, match="expected names of classes to map, found none"):
        tokenstore.relabel(store, class_map={"ant": "bee"})
    rows = [
        f"{split}/{row}.png,{'odd' if row % 2 else 'even'}" for split in ("train", "val") for row in range(20)
    ]
    (tmp_path / "new.csv").write_text("\n".join(["source,label", *rows]))
    tokenstore.relabel(store, labels=tmp_path / "new.csv")
    assert_labels(store, np.arange(20) % 2, ("even", "odd"))
    assert [done.operation for done in tokenstore.open(store).manifest.history] == ["relabel", "relabel"]


def test_a_store_of_many_shards_is_relabelled(tmp_path: Path) -> None:
    with few_are_many():
        written(tmp_path / "a", shard_samples=4)
    tokenstore.relabel(tmp_path / "a", tmp_path / "b", class_map={"bee": "ant"})
    assert_labels(tmp_path / "b", np.array([0, 0, 1, 2])[LABELS], ("ant", "cat", "dog"))
    assert set(store_files(tmp_path / "b")) == set(store_files(tmp_path / "a"))


def test_a_relabelling_to_another_place_goes_on_and_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path / "a")
    tokenstore.relabel(store, tmp_path / "b", class_map={"bee": "ant"})

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Edition, "keep_rest", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenstore.relabel(store, tmp_path / "c", class_map={"bee": "ant"})
    with pytest.raises(StoreExistsError, match="resume=True"):
        tokenstore.relabel(store, tmp_path / "c", class_map={"bee": "ant"})
    for done in (False, True):
        result = tokenstore.relabel(store, tmp_path / "c", class_map={"bee": "ant"}, resume=True)
        assert result.already_complete == done
    assert contents(tmp_path / "b") == contents(tmp_path / "c")


def test_a_class_is_renamed_and_its_label_stays(tmp_path: Path) -> None:
    store = written(tmp_path / "a")
    tokenstore.rename_class(store, "cat", "lynx", tmp_path / "b")
    names = ("ant", "bee", "lynx", "dog")
    assert_labels(tmp_path / "b", LABELS, names)
    tokenstore.rename_class(store, "cat", "lynx")
    assert_labels(store, LABELS, names)
    assert contents(store) == contents(tmp_path / "b")
    with pytest.raises(ArgumentError, match=r"no class 'lynxes' to rename\. Did you mean 'lynx'"):
        tokenstore.rename_class(store, "lynxes", "cat")
    with pytest.raises(ArgumentError, match=r"no class 'whale' .*; it has 'ant', 'bee', 'lynx', 'dog'$"):
        tokenstore.rename_class(store, "whale", "cat")
    with pytest.raises(ArgumentError, match=r"found 'dog', another class's.*class_map=\.\.\."):
        tokenstore.rename_class(store, "lynx", "dog")
    with pytest.raises(ArgumentError, match="expected a name of Unicode's characters"):
        tokenstore.rename_class(store, "lynx", "\ud800")


def test_two_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    names = ("crane", "bee", "crane", "dog")
    store = written(tmp_path / "a", class_names=names)
    tokenstore.relabel(store, tmp_path / "b", class_map={"bee": "wasp"})
    assert_labels(tmp_path / "b", LABELS, ("crane", "wasp", "crane", "dog"))
    tokenstore.relabel(store, tmp_path / "c", class_map={"crane": "crane"})
    assert_labels(tmp_path / "c", np.array([0, 1, 0, 2])[LABELS], ("crane", "bee", "dog"))
    with pytest.raises(ArgumentError, match="expected one class of the name 'crane', found 2"):
        tokenstore.rename_class(store, "crane", "bird")
    tables = [tokenstore.open(store)[split].samples_table() for split in ("train", "val")]
    sources = {source: None for table in tables for source in table["source"].to_pylist()}
    lines = "".join(f"{source},crane\n" for source in sources)
    (tmp_path / "labels.csv").write_text(f"source,label\n{lines}")
    with pytest.raises(ArgumentError, match=r"found 'crane', that of 2 classes\. Give the numbers"):
        tokenstore.relabel(store, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"expected either class_map=\.\.\. or labels=\.\.\., found none"),
        ({"labels": [1], "class_map": {"ant": "bee"}}, "found both"),
        ({"class_map": {"anz": "bee"}}, r"no class 'anz'\. Did you mean 'ant'"),
        ({"labels": [0] * 20}, "expected labels by split for the splits train, val"),
        ({"labels": {"train": [0] * 19}}, "expected 20 for the split train, found 19"),
        ({"labels": {"train": [4] * 20}}, "expected labels from 0 to 3, found 4 at 0"),
        ({"labels": {"train": [-1] * 20}}, "found -1 at 0"),
        ({"labels": {"train": [0.5] * 20}}, "expected integers"),
    ],
)
def test_labels_that_cannot_be_are_refused_and_nothing_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    store = written(tmp_path / "a")
    before = contents(store)
    for out in (None, tmp_path / "b"):
        with pytest.raises(tokenstore.TokenstoreError, match=message):
            tokenstore.relabel(store, out, **options)
    assert contents(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("content", "argument", "message"),
    [
        ("a,b,c\n", "class_map", "expected two columns"),
        ("ant,\n", "class_map", "expected two columns"),
        ("ant,a\nant,b\n", "class_map", "found 'ant' again"),
        ("old,new\n", "class_map", "found none"),
        (
            "a,b\n1,2\n",
            "labels",
            "expected a .npy file of integers, or a CSV file with the columns source and",
        ),
        ("source,label\ntrain/0.png,ant\ntrain/0.png,ant\n", "labels", "found 'train/0.png' again"),
        (
            "source,label\ntrain/0.png,ant\n",
            "labels",
            "found none for 'train/1.png', row 1 of the split train",
        ),
        ("source,label\ntrain/0.png, \n", "labels", "expected a label in every line of .*train/0.png"),
        ("source,label\ntrain/0.png,9\n", "labels", "expected labels from 0 to 3, found 9"),
    ],
)
def test_a_file_that_has_no_labels_is_refused(
    tmp_path: Path, content: str, argument: str, message: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    store = written(tmp_path / "a")
    with pytest.raises(ArgumentError, match=message):
        tokenstore.relabel(store, **{argument: tmp_path / "x.csv"})
    with pytest.raises(ArgumentError, match="expected"):
        tokenstore.relabel(store, **{argument: tmp_path / "nothing.csv"})


def test_where_no_links_are_possible_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path / "a")
    tokenstore.relabel(store, tmp_path / "b", class_map={"bee": "ant"})

    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    tokenstore.relabel(store, tmp_path / "c", class_map={"bee": "ant"})
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    assert not any((tmp_path / "c" / path).stat().st_nlink > 1 for path in store_files(tmp_path / "c"))

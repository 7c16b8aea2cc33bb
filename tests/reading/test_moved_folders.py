"""A store that was opened by a relative path, and a working directory that changes afterwards."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import random_codes, write_store
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.storage import open_storage

CODES = random_codes(40, (2, 3), 391)
LABELS = np.arange(40, dtype=np.int32)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write stores below the working directory, and give a folder that has others by these names."""
    for place in (tmp_path, tmp_path / "outputs"):
        codes = CODES if place == tmp_path else CODES[::-1]
        for name in ("a.zarr", "a.zip"):
            write_store(place / name, {"train": (codes, LABELS)}, chunk_samples=5, shard_samples=10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    "path",
    [
        "a.zarr",
        "./a.zip",
        "outputs/../a.zarr",
        "file://a.zarr",
        "~/a.zarr",
        "zip::file://a.zip",
        "local://a.zarr",
    ],
)
def test_a_dataset_stays_where_it_was_opened(
    folders: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = TokenDataset(path)
    assert dataset[0][1] == 0
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HOME", str(folders))
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(dataset))))
    for opened in (dataset, copy):
        for tokens, labels in TokenLoader(opened, 8):
            np.testing.assert_array_equal(tokens, CODES[labels])
    shown = str(folders.parent) if "zip::" in path or "local:" in path else path
    assert shown in repr(copy.reader), "shown as it was given, unless fsspec reads it"


@pytest.mark.slow
def test_spawned_workers_read_where_the_store_was_opened(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = TokenDataset("a.zarr")
    monkeypatch.chdir(folders)
    for tokens, labels in DataLoader(dataset, 20, num_workers=1, multiprocessing_context="spawn"):
        np.testing.assert_array_equal(tokens, CODES[labels])


def test_places_that_are_opened_again_are_where_they_were(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, packed = open_storage("new.zarr"), open_storage("a.zip")
    below = open_storage("a.zarr").below("train")
    store = tokenstore.open("a.zarr")
    monkeypatch.chdir(folders)
    assert storage.reopened().root == storage.working_storage().root == folders.parent / "new.zarr"
    assert packed.reopened().root == packed.root == folders.parent / "a.zip"
    assert pickle.loads(pickle.dumps(below)).root == below.root == folders.parent / "a.zarr" / "train"
    assert str(below) == "a.zarr/train"
    assert tokenstore.recode(store, "b.zarr", codec="zstd").manifest.features == ("zstd",)
    np.testing.assert_array_equal(tokenstore.open(folders / "b.zarr")["train"][:], CODES)

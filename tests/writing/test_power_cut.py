"""The names of a store's files last through a power cut once the store is complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder

import tokenstore
from tokenstore import files
from tokenstore.storage.local import LocalFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems flush no folders")


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> dict[Path, set[str]]:
    """Return the names that each folder had when it was last flushed, from now on."""
    names: dict[Path, set[str]] = {}
    plain: Callable[[Path], Any] = files._sync_folder

    def noted(folder: Path) -> None:
        plain(folder)
        names[folder.resolve()] = {path.name for path in folder.iterdir()}

    monkeypatch.setattr(files, "_sync_folder", noted)
    return names


def not_flushed(store: Path, flushed: dict[Path, set[str]]) -> list[Path]:
    return [path for path in store.rglob("*") if path.name not in flushed.get(path.parent.resolve(), ())]


def test_every_name_in_a_store_and_in_its_copy_is_flushed(
    tmp_path: Path, flushed: dict[Path, set[str]]
) -> None:
    write_grey_folder(tmp_path / "images", 2)
    store, copy = tmp_path / "a.zarr", tmp_path / "b.zarr"
    tokenstore.convert(
        tmp_path / "images", store, tokenizer=BrightnessTokenizer(), image_size=8, chunk_samples=2, workers=0
    )
    assert not_flushed(store, flushed) == []
    tokenstore.copy(store, copy)
    assert not_flushed(copy, flushed) == []


def test_a_shard_that_takes_the_place_of_another_s_is_flushed_at_once(
    tmp_path: Path, flushed: dict[Path, set[str]]
) -> None:
    storage = LocalFolder(str(tmp_path))
    storage.write_ahead("train/tokens/c/0", b"of a writer that was killed")
    assert tmp_path / "train/tokens/c" not in flushed
    storage.write_ahead("train/tokens/c/0", b"of the one who goes on now.")
    assert tmp_path / "train/tokens/c" in flushed

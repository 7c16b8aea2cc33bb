"""Exports of stores that are damaged, replaced or unreadable end in one error; nothing passes for whole."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exported_stores import DECODERS, exported_store
from helpers.stores import contents

import tokenstore
from tokenstore.errors import DamageError, StorageError, StoreChangedError
from tokenstore.writing.export import json_lines

LAYOUTS = ("npz", "jsonl", "parquet", "webdataset", "llamagen")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Write the store of an export."""
    return exported_store(tmp_path / "store")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_codes_end_an_export_and_a_mended_store_is_exported_from_there_on(
    store: Path, tmp_path: Path, layout: str
) -> None:
    settings: dict[str, Any] = {"to": layout, "columns": ["labels"]}
    tokenstore.export(store, tmp_path / "whole", **settings)
    shard = store / "train/tokens/c/1/0/0"
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DamageError, match="train/tokens"):
        tokenstore.export(store, tmp_path / "out", **settings)
    names = set(contents(tmp_path / "out"))
    assert not any(name.startswith("train") or name == "tokenstore-export.json" for name in names)
    shard.write_bytes(data)
    tokenstore.export(store, tmp_path / "out", resume=True, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_store_that_is_replaced_meanwhile_is_named(store: Path, tmp_path: Path) -> None:
    opened = tokenstore.open(store)
    store.rename(tmp_path / "moved")
    tokenstore.write(store, np.zeros((5, 2, 3), np.uint8), labels=np.zeros(5, int), codebook_size=391)
    with pytest.raises(StoreChangedError):
        tokenstore.export(opened, tmp_path / "out", to="jsonl", columns=["labels"])
    assert not (tmp_path / "out" / "tokenstore-export.json").exists()


def test_a_full_disk_says_how_to_go_on(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json_lines, "_as_json", full)
        with pytest.raises(StorageError, match=r"bytes are free\. Make room, and go on with resume=True"):
            tokenstore.export(store, tmp_path / "out", to="jsonl")
    tokenstore.export(store, tmp_path / "out", to="jsonl", resume=True)
    assert DECODERS["jsonl"][0](tmp_path / "out", "val")["labels"] == [0, 1, 2, 0, 1]


def test_a_place_that_cannot_be_written_is_one_error(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StorageError, OSError), match="file"):
        tokenstore.export(store, tmp_path / "file" / "out", to="jsonl")

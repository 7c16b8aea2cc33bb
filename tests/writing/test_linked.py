"""Files that stores share by links: a store that is replaced meanwhile gives none of its own files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import StoreChangedError

CALLS: dict[str, Callable[[Path, Path], object]] = {
    "select": lambda store, out: tokenstore.select(store, out, where="row >= 0", jobs=1),
    "merge": lambda store, out: tokenstore.merge(out, [store, store.with_name("c")], jobs=1),
    "append": lambda store, out: tokenstore.append(store.with_name("c"), store, jobs=1),
}


@pytest.mark.skipif(os.name != "posix", reason="needs hard links")
@pytest.mark.parametrize("name", CALLS)
def test_a_store_that_is_replaced_before_its_shard_is_linked_is_an_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put a store of files of the same names and sizes, but other codes, in the place just before a link."""
    for seed, path in enumerate(("a", "b", "c")):
        codes = random_codes(8, (2, 2), 391, seed)
        write_store(tmp_path / path, {"train": (codes,)}, chunk_samples=2, shard_samples=4)
    link = os.link

    def replace_then_link(source: Path, target: Path) -> None:
        if (tmp_path / "b").exists() and source.is_relative_to(tmp_path / "a"):
            (tmp_path / "a").rename(tmp_path / "old")
            (tmp_path / "b").rename(tmp_path / "a")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", replace_then_link)
        with pytest.raises(StoreChangedError, match="changed since it was opened"):
            CALLS[name](tmp_path / "a", tmp_path / "out")
    for left in ("a", "c"):
        assert verify(tmp_path / left).problems == []

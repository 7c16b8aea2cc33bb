"""Operations on stores at URLs: read from S3, and written to it; appends there are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore.errors import ArgumentError, StoreError

CODES = random_codes(20, (2, 2), 391)
LABELS = (np.arange(20) % 3).astype(np.int32)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "a.zarr"
    splits = {"train": (CODES, LABELS)}
    write_store(path, splits, class_names=("ant", "bee", "cat"), chunk_samples=2, shard_samples=4)
    return path


CALLS: dict[str, Callable[..., Any]] = {
    "select": lambda store, out, **o: tokenstore.select(store, out, where="row != 5", **o),
    "split": lambda store, out, **o: tokenstore.split(store, out, shares={"val": 0.2}, **o),
    "merge": lambda store, out, **o: tokenstore.merge(out, [store, store], **o),
    "relabel": lambda store, out, **o: tokenstore.relabel(store, out, class_map={"ant": "bee"}, **o),
    "dedupe": lambda store, out, **o: tokenstore.dedupe(store, out, **o).store,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "relabel" else pytest.mark.thorough) for name in CALLS]
)
def test_every_operation_works_at_urls_and_gives_the_same_store(
    local: Path, tmp_path: Path, s3_server: S3Server, name: str
) -> None:
    call, bucket, options = CALLS[name], s3_server.new_bucket(), s3_server.storage_options()
    there = f"s3://{bucket}/a.zarr"
    tokenstore.copy(local, there, storage_options=options)
    call(local, tmp_path / "plain")
    call(there, f"s3://{bucket}/b", storage_options=options, target_storage_options=options)
    call(there, tmp_path / "b", storage_options=options)
    call(local, f"s3://{bucket}/c", target_storage_options=options)
    expected = tokenstore.open(tmp_path / "plain").files.root_digest
    assert tokenstore.open(tmp_path / "b").files.root_digest == expected
    for place in (f"s3://{bucket}/b", f"s3://{bucket}/c"):
        assert tokenstore.open(place, storage_options=options).files.root_digest == expected
    assert tokenstore.verify(f"s3://{bucket}/b", storage_options=options).problems == []
    assert tokenstore.diff(local, there, storage_options=options).same


def test_a_remote_store_is_appended_from_but_not_to_and_not_changed_in_its_place(
    local: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    bucket, options = s3_server.new_bucket(), s3_server.storage_options()
    there = f"s3://{bucket}/a.zarr"
    tokenstore.select(local, there, where="row < 7", target_storage_options=options)
    tokenstore.copy(local, tmp_path / "a")
    tokenstore.append(tmp_path / "a", there, storage_options=options)
    codes = np.concatenate([CODES, CODES[:7]])
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "a")["train"][:], codes)
    with pytest.raises(StoreError, match="expected a local store to append to"):
        tokenstore.append(there, local)
    with pytest.raises(StoreError, match="expected a local store to relabel in its place"):
        tokenstore.relabel(there, class_map={"ant": "bee"}, storage_options=options)
    with pytest.raises(ArgumentError, match="storage_options"):
        tokenstore.append(tmp_path / "a", local, storage_options=options)

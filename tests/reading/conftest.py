"""A store on S3 for all tests of fetching."""

from __future__ import annotations

import pytest
from helpers.fetched_stores import CODES, LABELS
from helpers.object_storage import S3Server
from helpers.stores import write_store

from tokenstore.reading import shards
from tokenstore.storage import open_storage


@pytest.fixture(scope="module")
def url(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """Write 300 samples, labelled with their row numbers, in 2 shards of 10 chunks of 16; give the URL."""
    url = f"s3://{s3_server.new_bucket()}/deep/a.zarr"
    write_store(
        open_storage(url, s3_server.storage_options()),
        {"train": (CODES, LABELS)},
        chunk_samples=16,
        shard_samples=160,
    )
    return url


@pytest.fixture
def each_chunk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch no two chunks in one request."""
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)

"""Fixtures that more than one test file uses; plain helpers are in `stores.py`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture(scope="module")
def without_fsync() -> Iterator[None]:
    """For tests that write many small stores, which need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def memory_url() -> Iterator[str]:
    """A memory:// URL where nothing is, emptied afterwards."""
    url = f"memory://{uuid.uuid4().hex}/store"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)

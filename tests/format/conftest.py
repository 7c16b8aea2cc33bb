"""Stores for the tests of FORMAT.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.conformance import EXAMPLE_CODES, write_full
from helpers.stores import write_store


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Write the worked example of FORMAT.md, section 3."""
    write_store(tmp_path / "store", {"train": (EXAMPLE_CODES,)}, 5, chunk_samples=2, shard_samples=4)
    return tmp_path / "store"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store with everything that a store may have; tests only read it."""
    return write_full(tmp_path_factory.mktemp("full") / "store")

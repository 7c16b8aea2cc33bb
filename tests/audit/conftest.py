"""A store of grey images, for all tests of an audit."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.brightness import write_grey_folder
from helpers.brightness_stores import converted

import tokenstore


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write a folder of grey images."""
    write_grey_folder(tmp_path / "images", 3)
    return tmp_path / "images"


@pytest.fixture
def store(images: Path, tmp_path: Path) -> tokenstore.TokenStore:
    """Convert the grey images to a store."""
    return converted(images, tmp_path / "store")

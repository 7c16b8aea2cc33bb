"""The folder that tests fill with images."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of a folder of images, which does not exist yet."""
    return tmp_path / "images"

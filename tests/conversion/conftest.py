"""Images with their label maps, for all tests of label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.label_maps import write_pairs


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Write eleven images in `images` with their label maps in `masks`; return the maps by name."""
    paths = [f"{number:02d}" for number in range(11)]
    return write_pairs(tmp_path / "images", tmp_path / "masks", paths)

"""A store of scenes beside its images, for all tests that look at samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.scenes import SIZE, locate, run, write_scene
from helpers.stores import edit_root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images in two splits, and a store of them by the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("looking")
    for number in range(7):
        write_scene(folder / "photos" / "train" / f"kind {number % 2}" / f"{number}.png", number)
    for number in range(2):
        write_scene(folder / "photos" / "val" / "kind 0" / f"v{number}.png", 100 + number)
    result = run("convert", folder / "photos", folder / "store", "--image-size", SIZE, "--workers", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def scene_store(scenes: Path, tmp_path: Path) -> Path:
    """Copy the store, with its images beside it and nowhere else."""
    shutil.copytree(scenes, tmp_path, dirs_exist_ok=True)
    edit_root(tmp_path / "store", lambda root: locate(root, tmp_path / "photos"))
    return tmp_path / "store"

"""A small VQModel of diffusers, its folder and its tokenizer.

Diffusers is imported when a test asks for a fixture: where it is not installed, the tests are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def model() -> Any:
    """Build the model."""
    from helpers.diffusers_models import build

    return build()


@pytest.fixture(scope="session")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the model to a folder."""
    folder = tmp_path_factory.mktemp("vq")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Copy the saved model, to be spoiled by a test."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="session")
def tokenizer(saved: Path) -> Any:
    """Load the folder as a tokenizer."""
    from tokenstore.tokenizers.kinds.diffusers_vq import load

    return load(str(saved))

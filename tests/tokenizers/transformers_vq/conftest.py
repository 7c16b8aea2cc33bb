"""A small VQ model of each family of transformers, their folders and tokenizers.

Transformers is imported when a test asks for a fixture: where it is not installed, the tests are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    """Build a model of each family."""
    from helpers.transformers_models import FAMILIES, build

    return {family: build(family) for family in FAMILIES}


@pytest.fixture(scope="session")
def saved(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the models, each to a folder of its family's name."""
    root = tmp_path_factory.mktemp("models")
    for family, model in models.items():
        model.save_pretrained(root / family)
    return root


@pytest.fixture(scope="session")
def tokenizers(saved: Path) -> dict[str, Any]:
    """Load each folder as a tokenizer."""
    from tokenstore.tokenizers.kinds.transformers_vq import load

    return {path.name: load(str(path)) for path in saved.iterdir()}


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Copy the saved Janus model, to be spoiled by a test."""
    return shutil.copytree(saved / "janus", tmp_path / "model")

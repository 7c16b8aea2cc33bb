"""A tiny ViT-VQGAN."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.vit_vqgan_models import loaded, random_tensors

from tokenstore.tokenizers.kinds.vit_vqgan import ViTVQGANTokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> ViTVQGANTokenizer:
    """Load a tiny model of random weights as a tokenizer."""
    return loaded(tmp_path / "tiny.pt", random_tensors())

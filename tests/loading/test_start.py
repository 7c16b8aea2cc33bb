"""Importing the loader compiles nothing: kernels, and numba with them, are imported on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.stores import random_codes, write_store

from tokenstore.loading.dataset import TokenDataset

NUMBA_WAITS = """
import sys
import tokenstore.loading.loader, tokenstore.loading.dataset, tokenstore.loading.mixing
import tokenstore.augment.cropped_embedding, tokenstore.augment.recipes
from tokenstore import TokenDataset, TokenLoader
assert "numba" not in sys.modules
dataset = TokenDataset(sys.argv[1], split=sys.argv[2])
assert "numba" not in sys.modules
print(len(dataset), dataset[0].sum().item(), len(list(TokenLoader(dataset, 4, shuffle=True))))
"""


def test_importing_the_loader_or_augmentation_and_opening_a_dataset_import_no_numba(tmp_path: Path) -> None:
    path = tmp_path / "store"
    write_store(path, {"train": (random_codes(10, (4, 4), 391),)})
    result = subprocess.run(
        [sys.executable, "-c", NUMBA_WAITS, str(path), "train"], check=True, capture_output=True, text=True
    )
    dataset = TokenDataset(path)
    assert result.stdout.split() == ["10", str(dataset[0].sum().item()), "3"]

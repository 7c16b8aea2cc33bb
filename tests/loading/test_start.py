"""Importing the loader or loading a tokenizer compiles nothing.

Kernels, and numba with them, are imported on first use; torch's compiler, and sympy with it, never is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.stores import random_codes, write_store

from tokenstore.loading.dataset import TokenDataset

PROGRAM = """
import sys
import tokenstore.loading.loader, tokenstore.loading.dataset, tokenstore.loading.mixing
import tokenstore.augment.cropped_embedding, tokenstore.augment.recipes
from tokenstore import TokenDataset, TokenLoader
from tokenstore.tokenizers import load_tokenizer
assert "numba" not in sys.modules
dataset = TokenDataset(sys.argv[1], split=sys.argv[2])
assert "numba" not in sys.modules
load_tokenizer("default")
assert "sympy" not in sys.modules
print(len(dataset), dataset[0].sum().item(), len(list(TokenLoader(dataset, 4, shuffle=True))))
"""


def test_a_loader_augmentation_a_dataset_and_the_default_tokenizer_import_no_compiler(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store"
    write_store(path, {"train": (random_codes(10, (4, 4), 391),)})
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), "train"], check=True, capture_output=True, text=True
    )
    dataset = TokenDataset(path)
    assert result.stdout.split() == ["10", str(dataset[0].sum().item()), "3"]

"""Stores to be damaged, and what can still be read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tokenstore
from helpers.stores import random_codes, write_store
from tokenstore import TokenDataset
from tokenstore.audit.verify import Verification, verify
from tokenstore.errors import NotAStoreError, TokenstoreError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.tables import Skip

CHUNK, SHARD = 2, 6
SAMPLES = {"train": 15, "val": 3}
CODES = {split: random_codes(samples, (3, 5), 391, seed=samples) for split, samples in SAMPLES.items()}
LABELS = {split: (np.arange(samples) % 3).astype(np.int32) for split, samples in SAMPLES.items()}
MASKS = np.random.default_rng(3).random((SAMPLES["train"], 5), np.float32)


def write(path: Path, codec: str = "bitpack") -> Path:
    """Write a store in two splits with every kind of array, in a folder or a zip file."""
    write_store(
        path,
        {
            "train": (CODES["train"], LABELS["train"], {"masks": MASKS}, [Skip(2, "train/2.png", "empty")]),
            "val": (CODES["val"], LABELS["val"]),
        },
        391,
        codec=codec,
        chunk_samples=CHUNK,
        shard_samples=SHARD,
        class_names=("ant", "bee", "cat"),
        codebook=np.random.default_rng(4).standard_normal((391, 2)).astype(np.float32),
        synonyms=np.arange(-1, 390, dtype=np.int32)[:, None],
        tokenizer=TokenizerIdentity("test", "ab" * 32),
    )
    return path


def samples_read(store: Path) -> int:
    """Count the samples that can be read, one by one and all at once; fail if one of them is wrong."""
    count = 0
    for split, codes in CODES.items():
        columns = [name for name in ("tokens", "labels", "masks") if name != "masks" or split == "train"]
        try:
            dataset = TokenDataset(store, split, columns=columns)
        except TokenstoreError:
            continue
        for i, expected in enumerate(codes):
            try:
                tokens, label, *mask = dataset[i]
            except TokenstoreError:
                continue
            np.testing.assert_array_equal(tokens, expected)
            assert label == LABELS[split][i]
            assert not mask or np.array_equal(mask[0], MASKS[i])
            count += 1
        try:
            batch = TokenDataset(store, split)[:]
        except TokenstoreError:
            continue
        np.testing.assert_array_equal(batch[0], codes)
        np.testing.assert_array_equal(batch[1], LABELS[split])
    return count


def verified(store: Path) -> Verification:
    """Return the report on a store; a missing store is reported too."""
    try:
        return verify(store)
    except NotAStoreError as error:
        return Verification([str(error)], [], 0, 0, 0, 0)


def read_array(store: Path, array: str) -> Any:
    """Read an array's first values, or a whole codebook."""
    opened = tokenstore.open(store)
    split, _, name = array.partition("/")
    return opened[split].read(name, [0]) if name else getattr(opened, array)

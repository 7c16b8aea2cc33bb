"""Stores for the tests of FORMAT.md, and their parts by its letter, without the library's own reader."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from helpers.paths import ROOT
from helpers.stores import random_codes, write_store
from tokenstore.format.manifest import Preprocessing, TokenizerIdentity
from tokenstore.format.tables import Skip

FORMAT = ROOT / "FORMAT.md"

SHARD = "train/tokens/c/0/0"
EXAMPLE_CODES = np.array([[1, 2], [3, 4], [0, 1]], np.uint8)
EXAMPLE_SHARD_BODY = "11 23 {0} 08 {1}"
EXAMPLE_INDEX = (
    "00 00 00 00 00 00 00 00   06 00 00 00 00 00 00 00 06 00 00 00 00 00 00 00   05 00 00 00 00 00 00 00"
)


def crc32c(data: bytes) -> bytes:
    """Return the CRC-32C, computed bit by bit, as four little-endian bytes."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return struct.pack("<I", remainder ^ 0xFFFFFFFF)


def shard_of(*payloads: bytes, chunks_per_shard: int) -> bytes:
    """Build a shard by the letter of M12 and M13."""
    body, index = b"", b""
    for payload in payloads:
        index += struct.pack("<QQ", len(body), len(payload) + 4)
        body += payload + crc32c(payload)
    index += b"\xff" * 16 * (chunks_per_shard - len(payloads))
    return body + index + crc32c(index)


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def manifest_of(store: Path) -> Any:
    return read_json(store / "zarr.json")["attributes"]["tokenstore"]


FULL_CODES = random_codes(21, (3, 4), 391)
FULL_LABELS = (np.arange(21) % 3).astype(np.int32)
FULL_MASKS = np.random.default_rng(1).random((21, 2, 5), np.float32)


def write_full(path: Path, codec: str = "bitpack") -> Path:
    write_store(
        path,
        {
            "train": (
                FULL_CODES,
                FULL_LABELS,
                {"masks": FULL_MASKS},
                [Skip(4, "train/4.png", "not an image")],
            ),
            "val": (FULL_CODES[:5], FULL_LABELS[:5]),
        },
        391,
        codec=codec,
        chunk_samples=2,
        shard_samples=8,
        class_names=("ant", "bee", "cat"),
        codebook=np.random.default_rng(2).standard_normal((391, 3)).astype(np.float32),
        synonyms=np.full((391, 2), -1, np.int32),
        preprocessing=Preprocessing(24, 32, "squash"),
        tokenizer=TokenizerIdentity("test", "ab" * 32),
        source_kind="folder",
    )
    return path


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal_by_zarr(store: Path, selection: Any = ...) -> str:
    """Return zarr's error when it refuses to read the training tokens."""
    with pytest.raises(ValueError) as caught:
        zarr.open(store, mode="r")["train/tokens"][selection]
    return str(caught.value)

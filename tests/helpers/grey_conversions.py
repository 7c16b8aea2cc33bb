"""Conversions of grey images: options of small shards, the codes stored, and a stop on the way."""

from __future__ import annotations

from pathlib import Path

import tokenstore
from tokenstore.conversion.options import ConvertOptions

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3)


def stored(path: Path, split: str = "train") -> dict[str, tuple[int, int]]:
    """Return the level and label of each sample of a split by the name of its source file."""
    reader = tokenstore.open(path)[split]
    tokens = reader[:]
    assert (tokens == tokens[:, :1, :1]).all()
    names = reader.samples_table()["source"].to_pylist()
    assert reader.labels is not None
    return dict(zip(names, zip(tokens[:, 0, 0].tolist(), reader.labels.tolist(), strict=True), strict=True))


class StoppedError(Exception):
    """The exception of tests that stop a conversion."""

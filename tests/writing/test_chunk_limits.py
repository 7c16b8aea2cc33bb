"""Chunks beyond the format's limit, which no reader would take, are not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenstore.errors import ManifestError
from tokenstore.format import Column, TokenizerIdentity
from tokenstore.storage import open_storage
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter


def test_samples_of_which_no_chunk_can_be_read_are_not_written(tmp_path: Path) -> None:
    spec = StoreSpec(TokenizerIdentity("any"), (2, 2), (16,), chunk_samples=256)
    maps = {"masks": Column(np.dtype(np.uint8), (4096, 4096))}
    with (
        StoreWriter(open_storage(str(tmp_path / "x")), spec) as writer,
        pytest.raises(ManifestError, match=r"chunk_samples: expected chunks of at most 2,147,483,648"),
    ):
        writer.split("train", 1000, columns=maps)

"""Batches without samples: no split disappears, and no store is begun for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tokenstore
from tokenstore.errors import ArgumentError, ConversionError

CODES = np.arange(24, dtype=np.uint8).reshape(6, 4)


def test_codes_without_a_sample_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="expected at least one sample"):
        tokenstore.write(tmp_path / "out", CODES[:0], codebook_size=24)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("codec", ["bitpack", "auto"])
def test_a_split_of_empty_batches_is_an_error_and_may_be_left_out(tmp_path: Path, codec: str) -> None:
    def begin() -> tokenstore.CodesWriter:
        return tokenstore.write(tmp_path / "out", grid=(4,), codebook_size=24, codec=codec, resume=True)

    writer = begin()
    writer.add(CODES)
    writer.add(CODES[:0], split="val")
    with (
        pytest.raises(ConversionError, match=r"split val: expected at least one sample.*resume=True"),
        writer,
    ):
        pass
    with begin() as writer:
        assert writer.samples == {"train": 6}
    assert tokenstore.open(tmp_path / "out").splits == ("train",)
    assert np.array_equal(tokenstore.open(tmp_path / "out")["train"][:], CODES)


def test_an_empty_batch_before_or_after_others_changes_nothing(tmp_path: Path) -> None:
    for name, bounds in (("plain", [(0, 6)]), ("empty", [(0, 0), (0, 6), (6, 6)])):
        with tokenstore.write(tmp_path / name, grid=(4,), codebook_size=24) as writer:
            for start, stop in bounds:
                writer.add(CODES[start:stop])
    assert (tmp_path / "plain/zarr.json").read_bytes() == (tmp_path / "empty/zarr.json").read_bytes()

"""Stores of views as the audit sees them: every code of all views counts, and view 0 is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.view_stores import CROPS, GRID, SAMPLES, SIZES, VIEWS, codes_of_views, write_kind
from tokenstore_cli.main import cli

import tokenstore

CODES = codes_of_views()


@pytest.mark.parametrize("kind", ["bitpack", "zstd", "context", "given"])
def test_all_views_are_verified_and_counted(tmp_path: Path, kind: str) -> None:
    write_kind(tmp_path / "store", kind)
    assert tokenstore.verify(tmp_path / "store").ok
    (split,) = tokenstore.stats(tmp_path / "store").splits.values()
    assert split.codes_per_sample == VIEWS * np.prod(GRID)
    for plane, (size, use) in enumerate(zip(SIZES, split.codebooks, strict=True)):
        counts = np.bincount(CODES[:, :, plane].ravel(), minlength=size)
        assert use.used == (counts > 0).sum()
        assert dict(use.top_codes) == {code: counts[code] for code, _ in use.top_codes}
    assert split.bits_per_code == pytest.approx(8 * split.tokens_nbytes / CODES.size)


def test_info_says_what_the_views_are(tmp_path: Path) -> None:
    write_kind(tmp_path / "boxes", "given")
    write_kind(tmp_path / "own", "bitpack")
    told = CliRunner().invoke(cli, ["info", str(tmp_path / "boxes")]).output
    assert "3 of each sample: 64 x 64 at (0, 0); 64 x 64 at (0, 0) mirrored; 56 x 48 at (8, 16)" in told
    told = CliRunner().invoke(cli, ["info", str(tmp_path / "own")]).output
    assert "3 of each sample, each sample its own" in told
    found = tokenstore.info(tmp_path / "boxes").to_dict()
    assert found["manifest"]["views"] == CROPS.to_json()
    assert found["arrays"]["train/tokens"]["shape"] == [SAMPLES, VIEWS, *GRID]

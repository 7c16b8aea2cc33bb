"""Commands whose output is no terminal print a line every so often."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenstore_cli.progress as progress
from click.testing import CliRunner
from helpers.pictures import write_images
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli


def lines_of(*words: object) -> list[str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()


def test_a_piped_conversion_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_images(tmp_path / "images", 5, (32, 32))
    words = ["convert", images, "--image-size", 32, "--workers", 0]
    monkeypatch.setattr(progress, "LINE_SECONDS", 1000.0, raising=False)
    assert lines_of(*words, tmp_path / "silent.zarr") == []  # nothing for what is done soon
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0, raising=False)
    assert "train: 5 of 5 samples" in lines_of(*words, tmp_path / "store.zarr")


def test_other_commands_do_so_too_and_json_stays_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0, raising=False)
    store, splits = tmp_path / "store.zarr", {"train": (random_codes(20, (4, 4), 16),)}
    write_store(store, splits, 16)
    assert any(
        line.startswith("copying: ") and " of " in line for line in lines_of("copy", store, tmp_path / "copy")
    )
    assert lines_of("verify", store, "--json") == []

"""Appends by the command line: options of a conversion, and those that the store says itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.label_maps import stored, write_pairs
from tokenstore_cli.main import cli

import tokenstore


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, words), "--workers", "0"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a store of two images with label maps of 9 by 9, and a folder of two more beside it."""
    write_pairs(tmp_path / "one", tmp_path / "one-maps", ["x/a", "x/b"])
    write_pairs(tmp_path / "more", tmp_path / "more-maps", ["x/c", "y/d"])
    said = (
        "--tokenizer",
        "dct",
        "--image-size",
        16,
        "--mask-size",
        9,
        "--ignore-index",
        3,
        "--resize",
        "pad",
    )
    for name in ("one", "more"):
        out = tmp_path / f"{name}.zarr"
        result = run("convert", tmp_path / name, out, "--masks", tmp_path / f"{name}-maps", *said)
        assert result.exit_code == 0, result.output
    return tmp_path


def test_label_maps_are_appended_at_the_store_s_size_and_with_its_value_of_no_class(folder: Path) -> None:
    store = folder / "one.zarr"
    before, more = stored(store), stored(folder / "more.zarr")
    result = run("append", store, folder / "more", "--masks", folder / "more-maps")
    assert result.exit_code == 0, result.output
    found = stored(store)
    assert found.keys() == {*before, *more}
    for name, values in {**before, **more}.items():
        assert values.shape == (9, 9)
        np.testing.assert_array_equal(found[name], values)
    assert tokenstore.open(store).manifest.ignore_index == 3


def test_options_that_are_not_given_are_none_of_a_store_s_append(folder: Path) -> None:
    """Append a store: options of a conversion, whose defaults do not count, would be refused."""
    result = run("append", folder / "one.zarr", folder / "more.zarr")
    assert result.exit_code == 2
    assert "workers: expected no options of a conversion with a store" in result.output
    words = ["append", str(folder / "one.zarr"), str(folder / "more.zarr")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert len(tokenstore.open(folder / "one.zarr")["train"]) == 4

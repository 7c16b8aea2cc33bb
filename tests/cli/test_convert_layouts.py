"""The options of layouts of ready codes on the command line of `tokenstore convert`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.layout_files import put_json_lines, put_tree, random_codes
from tokenstore_cli.main import cli

import tokenstore

CODES = random_codes(13, 16, size=1000)


def test_codes_of_a_field_take_the_grid_that_is_given(tmp_path: Path) -> None:
    path = put_json_lines(tmp_path / "x.jsonl", CODES, None, z=CODES[::-1].tolist())
    words = ["--token-column", "z", "--grid", "4x4", "--codebook-size", "1024"]
    done = CliRunner().invoke(cli, ["convert", str(path), str(tmp_path / "out"), *words])
    assert done.exit_code == 0, done.output
    store = tokenstore.open(tmp_path / "out")
    assert np.array_equal(store["train"].read("tokens", range(13)), CODES[::-1].reshape(13, 4, 4))
    assert store.manifest.codebook_sizes == (1024,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--grid", "3x3"],
            ": expected a grid of 16 codes, as samples of (16,) have, found (3, 3)",
        ),
        (["--grid", "4,4"], "expected a grid such as 16x16 or 256, found '4,4'"),
        (["--token-column", "code"], "--token-column code: no such field; found tokens"),
        (["--window", "3"], "--window goes with videos of ready codes, not with kind jsonl"),
        (["--stride", "0"], "0 is not in the range x>=1"),
        (["--views", "flip"], "--views is for images, and"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_their_names(
    tmp_path: Path, words: list[str], message: str
) -> None:
    path = put_json_lines(tmp_path / "x.jsonl", CODES)
    done = CliRunner().invoke(cli, ["convert", str(path), str(tmp_path / "out"), *words])
    assert done.exit_code != 0
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_plan_and_a_note_speak_of_views_and_of_the_option_that_saves_a_pass(tmp_path: Path) -> None:
    put_tree(tmp_path / "tree", CODES.reshape(13, 1, 16).repeat(2, 1), np.arange(13))
    done = CliRunner().invoke(cli, ["convert", str(tmp_path / "tree"), str(tmp_path / "out"), "--dry-run"])
    output = " ".join(done.output.split())
    assert "view 1 is the mirror image of view 0" in output
    assert "all files are read for the largest code unless --codebook-size says the codebook's" in output
    assert "2 views of each, grids of 4x4" in output

"""A tokenizer and a source that another package registers by entry points, used like ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import SourceError, TokenizerError
from tokenstore.sources import KINDS, kind_names, open_source
from tokenstore.tokenizers import load_tokenizer, tokenizer_kinds

MODULE = """
from pathlib import Path

from tokenstore.sources import SourceKind, open_source
from tokenstore.tokenizers import TokenizerKind

BRIGHTNESS = TokenizerKind(
    "outside_tokenizer", "the mean level of squares", "H/8 x W/8", "256, no vectors", "none needed"
)


def _open(location):
    return open_source(Path(location).read_text().strip(), "imagefolder")


SOURCE = SourceKind(open=_open, holds=lambda folder: False, looked_for="pointer files", endings=(".pointer",))
"""
TOKENIZER = """
from helpers.brightness import BrightnessTokenizer, write_grey_folder


def load(argument):
    return BrightnessTokenizer()
"""
ENTRY_POINTS = """
[tokenstore.tokenizers]
brightness = outside_kinds:BRIGHTNESS

[tokenstore.sources]
pointer = outside_kinds:SOURCE
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution that registers a tokenizer and a source."""
    site = tmp_path / "site"
    info = site / "outside_kinds-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-kinds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "outside_kinds.py").write_text(MODULE)
    (site / "outside_tokenizer.py").write_text(TOKENIZER)
    monkeypatch.syspath_prepend(str(site))
    for name in ("outside_kinds", "outside_tokenizer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return site


def test_kinds_of_another_package_are_listed_and_loaded(outside: Path) -> None:
    assert kind_names() == (*KINDS, "pointer")
    assert tokenizer_kinds()["brightness"].summary == "the mean level of squares"
    assert isinstance(load_tokenizer("brightness"), BrightnessTokenizer)
    listed = CliRunner().invoke(cli, ["tokenizers", "--json"])
    assert json.loads(listed.output)["brightness"]["codebook"] == "256, no vectors"


def test_a_conversion_uses_the_source_and_the_tokenizer_of_another_package(
    outside: Path, tmp_path: Path
) -> None:
    write_grey_folder(tmp_path / "images", 3)
    (tmp_path / "a.pointer").write_text(str(tmp_path / "images"))
    options = ["--tokenizer", "brightness", "--image-size", "16", "--workers", "0"]
    for place, out in (("a.pointer", "one"), ("images", "other")):
        done = CliRunner().invoke(cli, ["convert", str(tmp_path / place), str(tmp_path / out), *options])
        assert done.exit_code == 0, done.output
    one, other = (tokenstore.open(tmp_path / out)["train"][:] for out in ("one", "other"))
    np.testing.assert_array_equal(one, other)


def test_a_kind_that_cannot_be_imported_is_named_with_its_place(outside: Path) -> None:
    (outside / "outside_kinds.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(TokenizerError, match=r"outside_kinds:BRIGHTNESS cannot be imported .*broken"):
        load_tokenizer("brightness")
    with pytest.raises(SourceError, match=r"outside_kinds:SOURCE cannot be imported .*broken"):
        open_source(outside, "pointer")
    assert load_tokenizer("default").name == "conv-vq-symmetric-8x-2k"


def test_a_name_of_this_package_cannot_be_taken(outside: Path) -> None:
    info = outside / "outside_kinds-1.0.dist-info" / "entry_points.txt"
    info.write_text(ENTRY_POINTS.replace("brightness", "default").replace("pointer =", "tar ="))
    assert list(tokenizer_kinds()).count("default") == 1
    assert load_tokenizer("default").name == "conv-vq-symmetric-8x-2k"
    assert "pointer" not in kind_names()
    assert kind_names().count("tar") == 1


def test_listing_the_kinds_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pyarrow', 'numba', 'zarr', 'PIL'}"
    code = (
        "import sys; from tokenstore.sources import KINDS, Resize, kind_names;"
        " from tokenstore.tokenizers import TOKENIZERS, tokenizer_kinds; kind_names(); tokenizer_kinds();"
        f" sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

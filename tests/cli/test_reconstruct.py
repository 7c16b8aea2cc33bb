"""Samples as images again: reconstructions in files, and films frame by frame."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer
from helpers.scenes import SIZE, lines, pixels, run
from helpers.stores import Samples, edit_root, write_store
from PIL import Image

import tokenstore
from tokenstore import sheet as module
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.tokenizers import registry
from tokenstore.tokenizers.registry import TokenizerKind, load_tokenizer


@pytest.fixture
def store(scene_store: Path) -> Path:
    return scene_store


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a store of two films of 6 frames; frame f of film i has level 10 i + f."""

    class Film(BrightnessTokenizer):
        def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
            return (6, 2, 2)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            grey = codes.to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
            return grey[:, :, None].expand(-1, -1, 3, -1, -1)

    name = "tokenstore.tokenizers.kinds.film_of_a_test"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(load=lambda _: Film()))  # type: ignore[misc]
    kind = TokenizerKind(name, "", "", "", "")
    monkeypatch.setitem(registry.TOKENIZERS, "film", kind)
    levels = np.add.outer([0, 10], np.arange(6)).astype(np.uint8)
    codes = levels[:, :, None, None].repeat(2, 2).repeat(2, 3)
    identity = TokenizerIdentity("brightness", "b" * 64, spec="film")
    write_store(tmp_path / "film", {"clips": Samples(codes)}, 256, tokenizer=identity)
    return tmp_path / "film"


def test_a_sheet_shows_four_frames_of_a_film(film: Path, tmp_path: Path) -> None:
    said = lines(run("preview", film, "-o", tmp_path / "sheet.png", "--columns", 1))
    assert said[0].endswith("2 samples of split clips, 0 with their originals")
    assert "ready codes" in said[1]
    scale = -(-module.MIN_WIDTH // (4 * 16 + 3 * module.GAP))
    sheet = pixels(tmp_path / "sheet.png")
    row = sheet[module.GAP, module.GAP :: scale, 0]
    assert [row[frame * (16 + module.GAP)] for frame in range(4)] == [0, 1, 3, 4]


def test_a_film_is_written_frame_by_frame(film: Path, tmp_path: Path) -> None:
    said = lines(run("reconstruct", film, 1, "--out", tmp_path / "frames"))
    assert said == [f"{tmp_path / 'frames'}: 6 images of 1 sample of split clips"]
    for frame in range(6):
        assert (pixels(tmp_path / "frames" / f"1-{frame}.png") == 10 + frame).all()


def test_reconstructions_are_written_by_their_index(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "images"
    said = lines(run("reconstruct", store, 5, -1, 0, 5, "--out", out))
    assert said == [f"{out}: 3 images of 3 samples of split train"]
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "5.png", "6.png"]
    rebuilt = decode_samples(tokenstore.open(store), "train", [0, 5, 6], load_tokenizer("default"))
    for index, image in zip((0, 5, 6), rebuilt, strict=True):
        np.testing.assert_array_equal(pixels(out / f"{index}.png"), image)


def test_reconstructions_can_be_of_another_format_and_split(store: Path, tmp_path: Path) -> None:
    lines(run("reconstruct", store, -2, "--out", tmp_path / "o", "--split", "val", "--format", "jpg"))
    with Image.open(tmp_path / "o" / "0.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (SIZE, SIZE))


@pytest.mark.parametrize("index", [7, -8, 10**30])
def test_an_index_out_of_range_is_refused_with_the_size(store: Path, tmp_path: Path, index: int) -> None:
    result = run("reconstruct", store, 0, index, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert f"index {index} is out of range: split train has 7 samples" in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("one", "'one' is not a valid integer"),
        ("--bogus", "No such option '--bogus'"),
        ("-x", "'-x' is not a valid integer"),
    ],
)
def test_what_is_no_index_is_refused(store: Path, tmp_path: Path, word: str, answer: str) -> None:
    result = run("reconstruct", store, word, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert answer in result.output


def test_a_split_that_there_is_not_is_refused_with_those_there_are(store: Path, tmp_path: Path) -> None:
    for command in (("reconstruct", store, 0, "--out", tmp_path / "o"), ("preview", store, "-o", "x.png")):
        result = run(*command, "--split", "nothing")
        assert result.exit_code == 1
        assert "no split 'nothing'; it has train, val" in result.output


def test_a_tokenizer_that_did_not_make_the_store_is_refused(store: Path, tmp_path: Path) -> None:
    packaged = load_tokenizer("default").fingerprint
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["tokenizer"].update(fingerprint="a" * 64))
    for command in (
        ("reconstruct", store, 0, "--out", tmp_path / "o"),
        ("preview", store, "-o", tmp_path / "x.png"),
        ("stats", store, "--quality", 1),
        ("verify", store, "--retokenize", 1),
    ):
        result = run(*command)
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert f"fingerprint {'a' * 64}" in result.output
        assert packaged in result.output

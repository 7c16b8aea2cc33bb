"""The size that images are brought to where the user gives none: small images keep a small grid."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_image
from hypothesis import given
from hypothesis import strategies as st
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.conversion.image_size import LEAST_GRID, choose_size
from tokenstore.errors import TokenizerError
from tokenstore.sources import ImageSource, open_source


class Large(BrightnessTokenizer):
    """The brightness of the patches of images that are larger by default."""

    image_size = 256


class Fixed(Large):
    """The same of images of one size only."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if input_shape[1:] != (256, 256):
            raise TokenizerError(f"expected 256x256, found {input_shape}")
        return super().grid(input_shape)


def images(folder: Path, sizes: list[int]) -> ImageSource:
    for number, size in enumerate(sizes):
        write_grey_image(folder / "a" / f"{number:03}.png", number, size)
    source = open_source(folder)
    assert isinstance(source, ImageSource)
    return source


@pytest.mark.parametrize(
    ("median", "side"),
    [(20, 32), (32, 32), (33, 64), (64, 64), (100, 128), (128, 128), (129, 256), (256, 256), (500, 256)],
)
def test_images_get_the_least_size_that_is_not_below_the_median(
    tmp_path: Path, median: int, side: int
) -> None:
    source = images(tmp_path / "images", [8, median, 600])
    conversion = tokenstore.convert(source, tmp_path / "out", tokenizer=Large(), workers=0)
    steps = conversion.manifest.preprocessing
    assert steps is not None
    assert (steps.height, steps.width) == (side, side)
    assert conversion.manifest.grid == (side // 8, side // 8)
    if side == 256:
        assert conversion.size_note is None
    else:
        note = str(conversion.size_note)
        assert f"{median} pixels: images become {side}x{side}, not the tokenizer's 256x256" in note


def test_a_tokenizer_of_one_size_enlarges_and_says_so(tmp_path: Path) -> None:
    source = images(tmp_path / "images", [64])
    conversion = tokenstore.convert(source, tmp_path / "out", tokenizer=Fixed(), workers=0)
    assert conversion.manifest.grid == (32, 32)
    assert "images are enlarged to 256x256, the least that brightness takes" in str(conversion.size_note)


def test_a_size_that_is_given_is_taken(tmp_path: Path) -> None:
    source = images(tmp_path / "images", [64])
    conversion = tokenstore.convert(source, tmp_path / "out", tokenizer=Large(), image_size=128, workers=0)
    assert conversion.manifest.grid == (16, 16)
    assert conversion.size_note is None


def test_images_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    source = images(tmp_path / "images", [64])
    (tmp_path / "images" / "a" / "bad.png").write_bytes(b"no image")
    source = images(tmp_path / "images", [64])
    assert choose_size(list(source.splits.values()), Large()).side == 64
    (tmp_path / "images" / "a" / "000.png").write_bytes(b"no image")
    assert choose_size(list(source.splits.values()), Large()).side == 256


def test_no_grid_is_chosen_below_four_by_four(tmp_path: Path) -> None:
    source = images(tmp_path / "images", [5])
    assert choose_size(list(source.splits.values()), Large()).side == 8 * LEAST_GRID


def test_the_images_of_all_splits_count_and_the_choice_is_always_the_same(tmp_path: Path) -> None:
    for split, size in (("train", 64), ("val", 200)):
        for number in range(40 if split == "train" else 10):
            write_grey_image(tmp_path / "images" / split / "a" / f"{number:03}.png", number, size)
    source = open_source(tmp_path / "images")
    assert isinstance(source, ImageSource)
    assert choose_size(list(source.splits.values()), Large()).side == 64
    assert choose_size([source.splits["val"]], Large()).side == 256
    first = tokenstore.convert(source, tmp_path / "one", tokenizer=Large(), workers=0)
    again = tokenstore.convert(source, tmp_path / "one", tokenizer=Large(), workers=0, resume=True)
    assert again.already_complete
    assert again.manifest == first.manifest


@given(median=st.integers(1, 1000))
def test_an_image_is_enlarged_less_than_twice_a_side(
    tmp_path_factory: pytest.TempPathFactory, median: int
) -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def request(self, *_: int) -> One:
            return self

        def read(self) -> list[bytes]:
            return [data]

    path = tmp_path_factory.mktemp("one") / "a.png"
    write_grey_image(path, 0, median)
    data = path.read_bytes()
    side = choose_size([One()], Large()).side  # type: ignore[list-item]
    assert side in (32, 64, 128, 256)
    assert side < 2 * median or side == 32
    assert side >= min(median, 256)


def test_the_command_prints_the_size_and_its_option(tmp_path: Path) -> None:
    images(tmp_path / "images", [40, 40])
    words = ["convert", str(tmp_path / "images"), str(tmp_path / "out"), "--workers", "0"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "images become 64x64, not the tokenizer's 256x256; --image-size gives another" in " ".join(
        done.output.split()
    )
    assert tokenstore.open(tmp_path / "out").manifest.grid == (8, 8)

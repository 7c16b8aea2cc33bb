"""The tables that notebooks show of stores, datasets and loaders, codes as pictures, sheets of samples."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from PIL import Image

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.displays import code_colours, html_table
from tokenstore.errors import StoreError

CODES = random_codes(12, (4, 6), 391)
LABELS = np.arange(12, dtype=np.int32) % 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("display") / "a & <b>"
    write_store(path, {"train": (CODES, LABELS)}, chunk_samples=4, shard_samples=8)
    return path


class Doubled:
    """A stand-in for the tokenizer: each code a square of 8x8 pixels of its lowest bits."""

    name = "doubled"

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        grey = (codes % 256).to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return grey.unsqueeze(1).expand(-1, 3, -1, -1)


def pictures(html: str) -> list[Image.Image]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(b64decode(text))) for text in data]


def test_a_store_and_its_manifest_are_tables_whose_texts_are_escaped(store: Path) -> None:
    html = tokenstore.open(store)._repr_html_()
    assert "a &amp; &lt;b&gt;" in html
    assert "<b>" not in html
    assert ">4 x 6<" in html
    assert "391 codes" in html
    assert '<td style="text-align:left">train</td><td style="text-align:right">12</td>' in html


def test_a_dataset_shows_its_first_samples_in_its_own_order(store: Path) -> None:
    html = TokenDataset(store).select([7, 2])._repr_html_()
    found = pictures(html)
    expected = code_colours(391, tokenstore.open(store).codebook)[CODES[[7, 2]]]
    assert [np.array(picture).tolist() for picture in found] == expected.tolist()
    assert "codes of sample 0  1" in html  # label 7 % 3
    assert "codes of sample 1  2" in html


def test_a_loader_shows_its_settings_above_its_dataset(store: Path) -> None:
    html = TokenLoader(TokenDataset(store), 5, shuffle=True)._repr_html_()
    assert html.index("batch size") < html.index("TokenDataset")
    assert len(pictures(html)) == 4


def test_labels_alone_have_no_pictures(store: Path) -> None:
    html = TokenDataset(store, columns=["labels"])._repr_html_()
    assert pictures(html) == []
    assert "labels" in html


def test_a_mixture_shows_samples_of_its_sources(store: Path) -> None:
    mixed = tokenstore.mix([TokenDataset(store), TokenDataset(store)], weights=[1, 1])
    assert "MixedDataset" in mixed._repr_html_()


def test_a_sheet_has_the_samples_asked_for(store: Path) -> None:
    dataset: Any = TokenDataset(store)
    sheets = [dataset.show(n, tokenizer=Doubled()) for n in (1, 5, 100)]
    assert [sheet.size[0] > 40 for sheet in sheets] == [True] * 3
    areas = [sheet.size[0] * sheet.size[1] for sheet in sheets]
    assert areas[0] * 4 < areas[1] < areas[2]


@pytest.mark.parametrize("none", [lambda data: data.show(0), lambda data: data.select([]).show()])
def test_a_sheet_of_no_samples_is_an_error(store: Path, none: Callable[[Any], object]) -> None:
    with pytest.raises(StoreError, match="found none"):
        none(TokenDataset(store))


def test_near_vectors_have_near_colours() -> None:
    line = np.stack([np.linspace(0, 1, 50), np.zeros(50), np.linspace(0, 3, 50), np.zeros(50)], 1)
    colours = code_colours(50, line.astype(np.float32)).astype(int)
    assert abs(np.diff(colours[:, 2])).max() < 10
    assert colours.shape == (50, 3)


@pytest.mark.parametrize(
    "codebook", [None, np.full((391, 2), np.nan, np.float32), np.zeros((7, 8), np.float32)]
)
def test_codes_without_usable_vectors_have_colours_too(codebook: Any) -> None:
    colours = code_colours(391, codebook)
    assert len(np.unique(colours, axis=0)) > 300


def test_vectors_that_are_not_finite_are_drawn() -> None:
    assert code_colours(3, np.full((3, 4), np.nan, np.float32)).shape == (3, 3)


def test_numbers_are_grouped_and_control_characters_escaped() -> None:
    html = html_table("facts\x1b", ("a",), [(1234567,), ("\x1b[2J",)])
    assert "1,234,567" in html
    assert "\x1b" not in html

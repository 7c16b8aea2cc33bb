"""Conversions by tokenizers of any grid and number of codebooks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.brightness import PATCH, BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import OPTIONS

import tokenstore
from tokenstore.audit.stats import stats
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import (
    TokenizerError,
)
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.tables import Column
from tokenstore.sources import open_source
from tokenstore.writing.spec import MAX_SHARD_SAMPLES, SHARD_NBYTES, StoreSpec


def test_shards_are_sized_by_the_widest_of_the_aligned_arrays(tmp_path: Path) -> None:
    spec = StoreSpec(TokenizerIdentity("x"), (4, 4), (300,))
    assert spec.samples_per_shard(10**6) == MAX_SHARD_SAMPLES
    wide = Column(np.dtype(np.uint8), (256, 256))
    assert spec.samples_per_shard(10**6, [wide]) * wide.nbytes == SHARD_NBYTES
    assert spec.samples_per_shard(10) == 64


def test_codes_outside_the_codebook_stop_the_conversion(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 3)
    tokenizer = BrightnessTokenizer()
    tokenizer.codebook_sizes = (5,)
    tokenizer.codebook = np.zeros((5, 1), np.float32)
    with pytest.raises(TokenizerError, match="from 0 to 4, found"):
        convert_source(
            open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS
        )


class _TwoCodebooks(BrightnessTokenizer):
    """The brightness of each patch, and its upper four bits: codes (2, H, W)."""

    name = "two"
    codebook_sizes = (256, 16)
    codebook = None

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        codes = patches.mean(dim=(1, 3, 5)).round().long()
        return torch.stack([codes, codes // 16], dim=1)


class _ListOfTokens(BrightnessTokenizer):
    """The brightness of the whole image, three times: codes (3,)."""

    name = "list"

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (3,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.float().mean(dim=(1, 2, 3)).round().long()[:, None].expand(-1, 3)


class _VideoGrid(BrightnessTokenizer):
    """An image as a film of one picture that does not move: codes (2, H, W) of one codebook."""

    name = "video"

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        return patches.mean(dim=(1, 3, 5)).round().long()[:, None].expand(-1, 2, -1, -1)


@pytest.mark.parametrize(
    ("tokenizer", "grid"), [(_TwoCodebooks(), (2, 2, 2)), (_ListOfTokens(), (3,)), (_VideoGrid(), (2, 2, 2))]
)
def test_grids_of_any_rank_and_several_codebooks_are_stored(
    tmp_path: Path, tokenizer: BrightnessTokenizer, grid: tuple[int, ...]
) -> None:
    write_grey_folder(tmp_path / "images", 40)
    convert_source(open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS)
    store = tokenstore.open(tmp_path / "out")
    levels = np.arange(120)
    tokens = store["train"][:]
    assert tokens.shape == (120, *grid)
    if tokenizer.name == "two":
        assert np.array_equal(tokens[:, 0, 0, 0], levels)
        assert np.array_equal(tokens[:, 1, 1, 1], levels // 16)
        audited = stats(store).splits["train"].codebooks
        assert [(use.size, use.used) for use in audited] == [(256, 120), (16, 8)]
    else:
        assert (tokens == levels.reshape(-1, *(1 for _ in grid))).all()
    assert store.manifest.codebook_sizes == tokenizer.codebook_sizes
    assert verify(str(tmp_path / "out")).problems == []


def test_images_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 1)
    with pytest.raises(TokenizerError, match="needs a tokenizer"):
        convert_source(open_source(tmp_path / "images"), tmp_path / "out", options=OPTIONS)

"""Augmentation of codes: against loops that say the same, and what it promises of every draw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstore.augment import (
    HorizontalFlip,
    PatchSwap,
    RandomCrop,
    SynonymReplacement,
    nearest_codes,
    synonym_table,
)
from tokenstore.errors import CodecError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_codes(seed: int, count: int, grid: tuple[int, int], size: int) -> Tensor:
    return torch.randint(0, size, (count, *grid), generator=seeded(seed))


def places(count: int, grid: tuple[int, int]) -> Tensor:
    """Return grids (count, *grid) whose every position has a number of its own."""
    return torch.arange(grid[0] * grid[1]).view(1, *grid).expand(count, *grid).clone()


GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
def test_synonyms_come_from_the_table_at_the_asked_rate(dtype: torch.dtype) -> None:
    table = nearest_codes(torch.randn(200, 16, generator=seeded(0)), 9)
    codes = drawn_codes(1, 400, (16, 16), 200)
    given_codes = codes.to(dtype)
    replaced = SynonymReplacement(table, rate=0.25, most=5, p=1)(given_codes, generator=seeded(2))
    assert replaced.dtype == dtype
    assert torch.equal(given_codes.long(), codes)
    changed = replaced.long() != codes
    assert 0.245 < changed.float().mean() < 0.255
    rank = (table[codes[changed]] == replaced.long()[changed][:, None]).int().argmax(1)
    assert (table[codes[changed], rank] == replaced.long()[changed]).all()
    shares = torch.bincount(rank, minlength=9) / len(rank)
    torch.testing.assert_close(shares, torch.tensor([0.2] * 5 + [0.0] * 4), atol=0.01, rtol=0)


def test_codes_without_synonyms_stay_and_gaps_in_the_table_are_never_drawn() -> None:
    table = torch.tensor([[1, 2, -1], [-1, -1, -1], [0, -1, 1]])
    codes = drawn_codes(0, 50, (8, 8), 3)
    replaced = SynonymReplacement(table, rate=1, p=1)(codes, generator=seeded(1))
    assert (replaced[codes == 1] == 1).all()
    assert set(replaced[codes == 0].tolist()) == {1, 2}
    assert set(replaced[codes == 2].tolist()) == {0}


def test_a_whole_batch_is_left_alone_or_not() -> None:
    table = nearest_codes(torch.randn(50, 8, generator=seeded(0)))
    codes = drawn_codes(1, 4, (6, 6), 50)
    for module in (SynonymReplacement(table, rate=1, p=0.25), PatchSwap(0.3, p=0.25)):
        generator = seeded(2)
        acted = [bool((module(codes, generator=generator) != codes).any()) for _ in range(2000)]
        assert 0.22 < np.mean(acted) < 0.28


@given(count=st.integers(1, 8), grid=GRIDS, side=st.floats(0.05, 1 / 3), seed=st.integers(0, 2**32))
def test_two_square_patches_change_places(count: int, grid: tuple[int, int], side: float, seed: int) -> None:
    before = places(count, grid)
    kept = before.clone()
    after = PatchSwap(side, p=1)(before, generator=seeded(seed))
    assert torch.equal(before, kept)
    longest = int(side * min(grid))
    for sample in after:
        moved = (sample != before[0]).nonzero()
        if not len(moved):
            assert longest < 1
            continue
        first = moved[0]
        # The first changed place is the corner of a patch; what is there now is the other's corner.
        number = int(sample[first[0], first[1]])
        other = torch.tensor(divmod(number, grid[1]))
        length = next(size for size in range(1, longest + 1) if 2 * size * size == len(moved))
        expected = before[0].clone()
        (a, b), (c, d) = first.tolist(), other.tolist()
        expected[a : a + length, b : b + length] = before[0, c : c + length, d : d + length]
        expected[c : c + length, d : d + length] = before[0, a : a + length, b : b + length]
        assert torch.equal(sample, expected)


def test_patches_lie_everywhere_and_have_every_side() -> None:
    """Count pairs of places on a grid of 3x3 with patches of one place: all are equally likely."""
    before = places(40_000, (3, 3))
    after = PatchSwap(1 / 3, p=1)(before, generator=seeded(0))
    moved = (after != before).flatten(1)
    assert (moved.sum(1) == 2).all()
    pairs = moved.int() @ (2 ** torch.arange(9, dtype=torch.int32))
    _, counts = pairs.unique(return_counts=True)
    assert len(counts) == 36
    assert counts.min() > 0.85 * 40_000 / 36
    sides = PatchSwap(0.25, p=1)(places(4000, (32, 32)), generator=seeded(1)) != places(1, (32, 32))
    lengths, counts = (sides.flatten(1).sum(1) / 2).sqrt().unique(return_counts=True)
    assert lengths.tolist() == list(range(1, 9))
    assert counts.min() > 0.8 * 500


def test_patches_of_embeddings_move_with_all_channels() -> None:
    grids = places(3, (8, 8))
    embeddings = torch.stack((grids.float(), -grids.float()), 1)
    swapped = PatchSwap(p=1)(embeddings, generator=seeded(4))
    assert torch.equal(swapped[:, 0], PatchSwap(p=1)(grids, generator=seeded(4)).float())
    assert torch.equal(swapped[:, 1], -swapped[:, 0])


@given(count=st.integers(1, 6), grid=GRIDS, data=st.data())
def test_a_crop_is_a_part_of_the_grid(count: int, grid: tuple[int, int], data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, grid[0]), st.integers(1, grid[1])))
    cropped = RandomCrop(size)(places(count, grid), generator=seeded(data.draw(st.integers(0, 2**32))))
    for sample in cropped:
        top, left = divmod(int(sample[0, 0]), grid[1])
        assert torch.equal(sample, places(1, grid)[0, top : top + size[0], left : left + size[1]])


def test_crops_reach_every_corner_alike_and_take_embeddings() -> None:
    cropped = RandomCrop(2)(places(30_000, (3, 4)), generator=seeded(0))
    _, counts = cropped[:, 0, 0].unique(return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 0.9 * 5000
    embeddings = torch.randn(4, 5, 3, 4)
    parts = RandomCrop((2, 3))(embeddings, generator=seeded(1))
    numbers = RandomCrop((2, 3))(places(4, (3, 4)), generator=seeded(1))
    for part, whole, number in zip(parts, embeddings, numbers, strict=True):
        assert torch.equal(part, whole.flatten(1)[:, number])
    with pytest.raises(ValueError, match=r"at least \(4, 4\), found \(3, 4\)"):
        RandomCrop(4)(places(1, (3, 4)), generator=seeded(0))


@given(count=st.integers(1, 6), grid=GRIDS, seed=st.integers(0, 2**32))
def test_a_flip_is_its_own_inverse(count: int, grid: tuple[int, int], seed: int) -> None:
    codes = drawn_codes(seed, count, grid, 50)
    flip = HorizontalFlip()
    flipped = flip(codes, generator=seeded(seed))
    assert torch.equal(flip(flipped, generator=seeded(seed)), codes)
    for before, after in zip(codes, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.fliplr())
    assert torch.equal(HorizontalFlip(1)(codes, generator=seeded(seed)), codes.flip(2))


@settings(max_examples=20)
@given(size=st.integers(2, 60), width=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_nearest_codes_are_those_of_the_largest_cosine(size: int, width: int, seed: int) -> None:
    codebook = torch.randn(size, width, generator=seeded(seed))
    most = min(5, size - 1)
    rows = codebook.double() / codebook.double().norm(dim=1, keepdim=True)
    similarity = rows @ rows.T
    found = nearest_codes(codebook, most)
    for code in range(size):
        others = sorted((similarity[code, near].item() for near in range(size) if near != code), reverse=True)
        assert code not in found[code]
        torch.testing.assert_close(
            similarity[code, found[code]], torch.tensor(others[:most]).double(), atol=1e-6, rtol=0
        )


def test_the_table_of_the_release_is_read_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({"0": [2, 1], "2": [1]}))
    assert synonym_table(path, 4).tolist() == [[2, 1], [-1, -1], [1, -1], [-1, -1]]
    path.write_text(json.dumps({"0": [4]}))
    with pytest.raises(ValueError, match="codes from 0 to 3, found 0"):
        synonym_table(path, 4)
    with pytest.raises(ValueError, match="synonyms"):
        SynonymReplacement(torch.tensor([[3], [0]]))
    with pytest.raises(ValueError, match="rate: expected a probability"):
        SynonymReplacement(torch.tensor([[1], [0]]), rate=1.5)
    with pytest.raises(ValueError, match="share of the grid"):
        PatchSwap(0.6)
    with pytest.raises(CodecError, match="integer dtype"):
        SynonymReplacement(torch.tensor([[1], [0]]))(torch.zeros(1, 2, 2), generator=seeded(0))
